"""Documents of a source, split into work units. The documents of a unit depend only on the files.

A source is a folder or a file: JSON Lines, JSON files of objects, Parquet, and any other file as one plain-text document, optionally
compressed by gzip, zstd, bzip2, xz or LZ4. The format is detected from content and name (files.py). Input that cannot be read is counted
by reason, in documents and in bytes. `LONGEST_DOCUMENT` bounds memory, whatever the decompressed size of a file.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import stat
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

from teleflm_jax.documents import files, json_rows, parquet, streams
from teleflm_jax.documents.statistics import Statistics
from teleflm_jax.documents.streams import DamagedSpan
from teleflm_jax.errors import UserError

LONGEST_DOCUMENT = 64 << 20
"""Maximum bytes of one line, plain file or Parquet value, because each is held in memory; longer ones count as malformed."""
END_BYTES = 1 << 16
"""Bytes at the start and at the end of a file that identify it together with its name and size."""
TEXT = "text"
"""Default name of the column that holds the text."""


@dataclasses.dataclass(frozen=True)
class Document:
    """A document and its family."""

    text: str
    family: str
    """Group of related documents (a source file, the versions of a page) that is never split over held-out and training data."""


@dataclasses.dataclass(frozen=True)
class FileRange:
    """A file or a range of it: bytes [start, stop) of JSON Lines, row groups [start, stop) of Parquet; a stop of None means the end."""

    path: str
    """Path relative to the folder of the source."""
    start: int
    stop: int | None
    num_bytes: int
    """Bytes on disk."""
    skipped: str = ""
    """Reason why it is not read: one of `files.SKIPPED`, or empty."""
    kind: str = ""
    """Format of the file as named by `files.kind_of`; empty if not detected yet."""
    compression: str = ""
    """Compression of the file, or empty."""
    text_column: str = TEXT


@dataclasses.dataclass(frozen=True)
class WorkUnit:
    """File ranges that one worker reads in order."""

    root: str
    ranges: tuple[FileRange, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes on disk that the unit reads."""
        return sum(file_range.num_bytes for file_range in self.ranges)


def split_source(source: str, unit_bytes: int, setting: str = "data.sources", text_column: str = TEXT) -> list[WorkUnit]:
    """Split a source into work units of about `unit_bytes` on disk: large files are split if their format allows it, small ones grouped.

    Args:
        source: Folder or file.
        unit_bytes: Target size of a unit.
        setting: Name of the setting that holds the source, for error messages.
        text_column: Column of JSON and Parquet files that holds the text.

    Raises:
        UserError: The source does not exist or cannot be listed.
    """
    root = pathlib.Path(source)
    try:
        if root.is_dir():
            found = sorted(files.names(str(root)))
        else:
            found, root = [(root.name, "")], root.parent
            os.stat(source)
        ranges = [file_range for path, skipped in found for file_range in _ranges(str(root), path, skipped, unit_bytes, text_column)]
    except OSError as error:
        raise UserError(
            f"got the source {source!r} ({error.strerror or error}); allowed: a readable folder or file of documents; change {setting}"
        ) from error
    groups: list[list[FileRange]] = []
    size = 0
    for file_range in ranges:
        if not groups or size + file_range.num_bytes > unit_bytes:
            groups.append([])
            size = 0
        groups[-1].append(file_range)
        size += file_range.num_bytes
    return [WorkUnit(str(root), tuple(group)) for group in groups]


def refuse_unknown(work: Sequence[WorkUnit], limit: float, setting: str, also: str = "") -> None:
    """Refuse a source with too many bytes in files of unknown format, before any work starts.

    Args:
        work: Units of the source.
        limit: Allowed share of the bytes.
        setting: Name of the setting that holds the source.
        also: Formats that are read in addition to `files.READABLE`.

    Raises:
        UserError: The share is above the limit.
    """
    unknown = [file_range for unit in work for file_range in unit.ranges if file_range.kind == files.UNKNOWN]
    size, whole = sum(file_range.num_bytes for file_range in unknown), sum(unit.num_bytes for unit in work)
    if size > limit * whole:
        raise UserError(
            f"got {size:,} of {whole:,} bytes in {len(unknown):,} files that are neither text nor of a known format (the first is "
            f"{unknown[0].path}); allowed: {files.READABLE}{also}; convert or remove them, or change {setting}"
        )


def read(unit: WorkUnit, statistics: Statistics) -> Iterator[Document]:
    """Yield the documents of a unit in order; count everything else in `statistics` by reason."""
    for file_range in unit.ranges:
        family = os.fsencode(file_range.path).decode("utf-8", "replace")
        if file_range.skipped:
            statistics.drop(file_range.skipped, family, "")
            continue
        yield from read_range(os.path.join(unit.root, file_range.path), dataclasses.replace(file_range, path=family), statistics)


def read_range(path: str, file_range: FileRange, statistics: Statistics) -> Iterator[Document]:
    """Yield the documents of a file range.

    Args:
        path: Path of the file.
        file_range: The range, with the path to use in names and statistics.
        statistics: Counts input that is not a document.
    """
    if not file_range.kind:
        kind, compression = files.kind_of(path, file_range.text_column)
        file_range = dataclasses.replace(file_range, kind=kind, compression=compression)
    reader = {"jsonl": _json, "json": _json, "parquet": _parquet, "warc": _archive, "arc": _archive}.get(file_range.kind, _plain)
    for text, family in reader(path, file_range, statistics):
        reason, text = _checked(text, file_range, statistics)
        if reason:
            statistics.drop(reason, file_range.path, "", _size(text))
        else:
            yield Document(text, family or file_range.path)


def without_surrogates(text: str) -> str:
    """Replace lone surrogates, which JSON can express and UTF-8 cannot, by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def identity(work: list[WorkUnit]) -> str:
    """Identify the files of a source by path, size and the bytes at both ends; not by time, which copying changes."""
    digest = hashlib.blake2b(digest_size=16)
    sizes = {}
    for unit in work:
        for path in dict.fromkeys(file_range.path for file_range in unit.ranges if not file_range.skipped):
            if path in sizes:
                continue
            with streams.open_file(os.path.join(unit.root, path)) as file:
                sizes[path] = os.fstat(file.fileno()).st_size
                ends = file.read(END_BYTES)
                file.seek(max(0, sizes[path] - END_BYTES))
                digest.update(b"%d\0%s\0%s%s" % (sizes[path], os.fsencode(path), ends, file.read(END_BYTES)))
    return f"{len(sizes):,} files of {sum(sizes.values()):,} bytes with the digest {digest.hexdigest()}"


def _ranges(root: str, path: str, skipped: str, unit_bytes: int, text_column: str) -> list[FileRange]:
    if skipped:
        return [FileRange(path, 0, None, 0, skipped)]
    full = os.path.join(root, path)
    status = os.stat(full)
    if not stat.S_ISREG(status.st_mode):
        return [FileRange(path, 0, None, 0, files.SKIPPED[2])]
    kind, compression = files.kind_of(full, text_column)
    whole = FileRange(path, 0, None, status.st_size, kind=kind, compression=compression, text_column=text_column)
    if status.st_size <= unit_bytes or compression:
        return [whole]
    if kind == "jsonl":
        borders = [*range(0, status.st_size, unit_bytes), status.st_size]
        return [dataclasses.replace(whole, start=a, stop=b, num_bytes=b - a) for a, b in zip(borders, borders[1:], strict=False)]
    if kind == "parquet":
        try:
            metadata = pyarrow.parquet.read_metadata(full)
        except (pyarrow.ArrowException, OSError):
            return [whole]  # reading it counts the error
        sizes = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
        return [dataclasses.replace(whole, start=i, stop=i + 1, num_bytes=size) for i, size in enumerate(sizes)]
    return [whole]


def _checked(text: object, file_range: FileRange, statistics: Statistics) -> tuple[str, Any]:
    """Return the reason why `text` is not a document, or an empty string, and the text with lone surrogates replaced."""
    if not isinstance(text, str):
        return parquet.NO_STRING, text
    if len(text) > LONGEST_DOCUMENT:
        return json_rows.TOO_LONG, text
    if not text or text.isspace():
        return "empty", text
    whole = without_surrogates(text)
    if whole != text:
        statistics.change("lone surrogates replaced", file_range.path, "")
    return "", whole


def _size(value: object) -> int:
    return len((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)).encode("utf-8", "surrogatepass"))


def _drop(damage: DamagedSpan, file_range: FileRange, statistics: Statistics) -> None:
    statistics.drop(damage.reason, file_range.path, "", damage.size)


def _json(path: str, file_range: FileRange, statistics: Statistics) -> Iterator[tuple[object, str]]:
    parts = streams.chunks(path, file_range.compression, max(0, file_range.start - 1))
    if file_range.kind == "jsonl":
        rows = json_rows.of_lines(parts, LONGEST_DOCUMENT, file_range.start, file_range.stop)
    else:
        rows = json_rows.of_values(parts, LONGEST_DOCUMENT)
    for row in rows:
        if isinstance(row, DamagedSpan):
            _drop(row, file_range, statistics)
        elif not isinstance(row, dict):
            statistics.drop("not a JSON object", file_range.path, "", _size(row))
        elif file_range.text_column not in row:
            statistics.drop(f"no {file_range.text_column}", file_range.path, "", _size(row))
        else:
            yield row[file_range.text_column], _name(row.get("family")) or _name(row.get("source"))


def _name(value: object) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _parquet(path: str, file_range: FileRange, statistics: Statistics) -> Iterator[tuple[object, str]]:
    if file_range.compression:
        statistics.drop(f"Parquet inside of {file_range.compression}", file_range.path, "", file_range.num_bytes)
        return
    with streams.open_file(path) as raw:
        for row in parquet.rows(
            raw, file_range.path, file_range.text_column, file_range.start, file_range.stop, LONGEST_DOCUMENT, statistics
        ):
            yield row[file_range.text_column], _name(row.get("family")) or _name(row.get("source"))


def _archive(path: str, file_range: FileRange, statistics: Statistics) -> Iterator[tuple[object, str]]:
    """Count an archive, which only `corpus` reads: as plain text it would include the archive's headers."""
    statistics.drop("web archive, which `corpus` reads", file_range.path, "", file_range.num_bytes)
    yield from ()


def _plain(path: str, file_range: FileRange, statistics: Statistics) -> Iterator[tuple[object, str]]:
    data = streams.whole(path, file_range.compression, LONGEST_DOCUMENT)
    if isinstance(data, DamagedSpan):
        _drop(data, file_range, statistics)
    elif len(data) > LONGEST_DOCUMENT:
        statistics.drop(json_rows.TOO_LONG, file_range.path, "", file_range.num_bytes)
    elif b"\0" in data and files.is_binary(data):
        statistics.drop("binary", file_range.path, "", file_range.num_bytes)
    elif not data.strip():
        statistics.drop(files.SKIPPED[3], file_range.path, "")  # an empty file such as __init__.py is not an error
    else:
        try:
            text = data.removeprefix(files.BYTE_ORDER_MARK).decode()
        except UnicodeDecodeError:
            statistics.drop("not UTF-8", file_range.path, "", file_range.num_bytes)
            return
        if "\0" in text:
            statistics.change(files.ZEROS, file_range.path, "\0" * text.count("\0"))
        yield text.replace("\0", ""), ""
