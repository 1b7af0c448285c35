"""Documents as people have them, cut into units of work. What a unit yields depends on nothing but the files.

A source is a folder or a file: `.jsonl` and `.json` (one JSON object a line), `.jsonl.gz`, `.jsonl.zst`, `.parquet`, and any other file
as one document of plain text. What cannot be read is counted by reason and never silent. Memory stays bounded by `LONGEST_DOCUMENT`,
whatever a file unpacks to.
"""

import collections
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import stat
from collections.abc import Iterator

import pyarrow
import pyarrow.parquet

from teleflm_jax.errors import UserError

LONGEST_DOCUMENT = 64 << 20
"""Bytes of one line, plain file or Parquet value; more is counted as malformed, because it would have to be held in memory at once."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PARQUET_ROWS = 32
"""Rows in memory at one time; a dictionary page can make each as long as LONGEST_DOCUMENT at no cost on disk."""
BUFFER_BYTES = 1 << 16
"""Of a compressed file that breaks off, the last so many bytes of text may be lost."""
END_BYTES = 1 << 16
"""Bytes of a file's beginning and end that tell it from another of the same name and size."""
SKIPPED = ("hidden file or folder", "symbolic link", "not a regular file", "empty file")
"""What is passed over by design: reported with the malformed, but not held against `pack.max_malformed_fraction`."""


@dataclasses.dataclass(frozen=True)
class Document:
    """One document."""

    text: str
    family: str
    """What belongs together (a source file, the versions of a page), so that it is never split over held-out and training."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of one file: bytes [start, stop) of a JSONL file, row groups [start, stop) of a Parquet file; stop None means all of it."""

    path: str
    """Relative to the source's folder."""
    start: int
    stop: int | None
    num_bytes: int
    """Size on disk."""
    skipped: str = ""
    """Why nothing is read from it; one of SKIPPED, or empty."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """Pieces that one worker reads in order."""

    root: str
    pieces: tuple[Piece, ...]

    @property
    def num_bytes(self) -> int:
        """Size on disk of what the unit reads."""
        return sum(piece.num_bytes for piece in self.pieces)


def units(source: str, unit_bytes: int, setting: str = "data.sources") -> list[Unit]:
    """Cut a source into units of about `unit_bytes` on disk: large files are split where their format allows it, small ones are grouped.

    Args:
        source: folder or file.
        unit_bytes: of a unit.
        setting: what named the source, to be told to the user who has to change it.

    Raises:
        UserError: the source does not exist or cannot be listed.
    """
    root = pathlib.Path(source)
    try:
        if root.is_dir():
            found = sorted(_walk(str(root)))
        else:
            found, root = [(root.name, "")], root.parent
            os.stat(source)
        pieces = [piece for path, skipped in found for piece in _pieces(str(root), path, skipped, unit_bytes)]
    except OSError as error:
        raise UserError(
            f"got the source {source!r} ({error.strerror or error}); allowed: a readable folder or file of documents; change {setting}"
        ) from error
    groups: list[list[Piece]] = []
    size = 0
    for piece in pieces:
        if not groups or size + piece.num_bytes > unit_bytes:
            groups.append([])
            size = 0
        groups[-1].append(piece)
        size += piece.num_bytes
    return [Unit(str(root), tuple(group)) for group in groups]


def read(unit: Unit, malformed: collections.Counter) -> Iterator[Document]:
    """Yield the documents of a unit in order; what is no document adds to `malformed` under its reason."""
    for piece in unit.pieces:
        if piece.skipped:
            malformed[piece.skipped] += 1
            continue
        path = os.path.join(unit.root, piece.path)
        family = os.fsencode(piece.path).decode("utf-8", "replace")
        rows = {"jsonl": _jsonl, "parquet": _parquet, "plain": _plain}[_kind(piece.path)](path, piece, malformed)
        for text, named in rows:
            reason = _flaw(text)
            if reason:
                malformed[reason] += 1
            else:
                yield Document(text, named or family)


def identity(work: list[Unit]) -> str:
    """Say which files a source holds, by path, size and the bytes at both ends; not by time, which copying changes."""
    digest = hashlib.blake2b(digest_size=16)
    sizes = {}
    for unit in work:
        for path in dict.fromkeys(piece.path for piece in unit.pieces if not piece.skipped):
            if path in sizes:
                continue
            with _open(os.path.join(unit.root, path)) as file:
                sizes[path] = os.fstat(file.fileno()).st_size
                ends = file.read(END_BYTES)
                file.seek(max(0, sizes[path] - END_BYTES))
                digest.update(b"%d\0%s\0%s%s" % (sizes[path], os.fsencode(path), ends, file.read(END_BYTES)))
    return f"{len(sizes):,} files of {sum(sizes.values()):,} bytes with the digest {digest.hexdigest()}"


def _walk(root: str) -> Iterator[tuple[str, str]]:
    """Yield (path inside root, reason to skip it or "").

    Links are never followed: what they name inside the folder is read there, and the rest is not ours to read.
    """
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                path = os.path.join(folder, entry.name)
                if entry.name.startswith("."):
                    yield path, SKIPPED[0]
                elif entry.is_symlink():
                    yield path, SKIPPED[1]
                elif entry.is_dir():
                    folders.append(path)
                else:
                    yield path, "" if entry.is_file() else SKIPPED[2]


def _kind(path: str) -> str:
    if path.endswith(".parquet"):
        return "parquet"
    return "jsonl" if path.endswith((".jsonl", ".json", ".jsonl.gz", ".jsonl.zst")) else "plain"


def _pieces(root: str, path: str, skipped: str, unit_bytes: int) -> list[Piece]:
    if skipped:
        return [Piece(path, 0, None, 0, skipped)]
    full = os.path.join(root, path)
    status = os.stat(full)
    if not stat.S_ISREG(status.st_mode):
        return [Piece(path, 0, None, 0, SKIPPED[2])]
    whole = Piece(path, 0, None, status.st_size)
    if status.st_size <= unit_bytes:
        return [whole]
    if path.endswith((".jsonl", ".json")):
        borders = range(0, status.st_size, unit_bytes)
        return [Piece(path, start, min(start + unit_bytes, status.st_size), min(unit_bytes, status.st_size - start)) for start in borders]
    if _kind(path) == "parquet":
        try:
            metadata = pyarrow.parquet.read_metadata(full)
        except pyarrow.ArrowException:
            return [whole]  # counted when it is read
        sizes = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
        return [Piece(path, i, i + 1, size) for i, size in enumerate(sizes)]
    return [whole]


def _open(path: str):
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(
            f"got the file {path!r} ({error.strerror}); allowed: files that can be read; change its permissions or leave it out"
        ) from error


def _flaw(text: object) -> str:
    """Say why this is no document; empty if it is one."""
    if not isinstance(text, str):
        return "text is not a string"
    if len(text) > LONGEST_DOCUMENT:
        return "longer than 64 MiB"
    if not text or text.isspace():
        return "empty"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "lone surrogate"
    return ""


def _jsonl(path: str, piece: Piece, malformed: collections.Counter) -> Iterator[tuple[object, str]]:
    with _open(path) as raw:
        compression = {".gz": "gzip", ".zst": "zstd"}.get(os.path.splitext(path)[1])
        stream = io.BufferedReader(pyarrow.CompressedInputStream(raw, compression), BUFFER_BYTES) if compression else raw
        try:
            for line in _lines(stream, piece, malformed):
                row = _object(line, malformed)
                if row is None:
                    continue
                if "text" not in row:
                    malformed["no text"] += 1
                else:
                    yield row["text"], _name(row.get("family")) or _name(row.get("source"))
        except OSError:
            if not compression:
                raise
            malformed["truncated or damaged file"] += 1


def _lines(stream, piece: Piece, malformed: collections.Counter) -> Iterator[bytes]:
    """Yield the lines that begin in [start, stop), so that every line belongs to exactly one piece."""
    position = piece.start
    if position:
        stream.seek(position - 1)
        position += _skip_line(stream) - 1
    while piece.stop is None or position < piece.stop:
        line = stream.readline(LONGEST_DOCUMENT + 1)
        if not line:
            return
        is_first = position == 0
        position += len(line)
        if len(line) > LONGEST_DOCUMENT and not line.endswith(b"\n"):
            malformed["longer than 64 MiB"] += 1
            position += _skip_line(stream)
        elif not line.isspace():
            yield line.removeprefix(BYTE_ORDER_MARK) if is_first else line


def _skip_line(stream) -> int:
    """Pass over what is left of a line; return how many bytes that was."""
    skipped = 0
    while part := stream.readline(1 << 20):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def _object(line: bytes, malformed: collections.Counter) -> dict | None:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        malformed["not UTF-8"] += 1
    except (ValueError, RecursionError):
        malformed["not JSON"] += 1
    else:
        if isinstance(row, dict):
            return row
        malformed["not a JSON object"] += 1
    return None


def _name(value: object) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _parquet(path: str, piece: Piece, malformed: collections.Counter) -> Iterator[tuple[object, str]]:
    with _open(path) as raw:
        try:
            with pyarrow.parquet.ParquetFile(raw) as file:
                names = [name for name in ("text", "family", "source") if name in file.schema_arrow.names]
                if "text" not in names:
                    malformed["no text"] += 1
                    return
                groups = range(piece.start, file.num_row_groups if piece.stop is None else piece.stop)
                for batch in file.iter_batches(PARQUET_ROWS, row_groups=list(groups), columns=names, use_threads=False):
                    for index in range(batch.num_rows):
                        yield from _row(batch, index, malformed)
        except (pyarrow.ArrowException, OSError):
            malformed["truncated or damaged file"] += 1


def _row(batch: pyarrow.RecordBatch, index: int, malformed: collections.Counter) -> Iterator[tuple[object, str]]:
    try:
        row = {name: column[index].as_py() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    except UnicodeDecodeError:
        malformed["not UTF-8"] += 1
        return
    if row["text"] is None:
        malformed["no text"] += 1
    else:
        yield row["text"], _name(row.get("family")) or _name(row.get("source"))


def _plain(path: str, piece: Piece, malformed: collections.Counter) -> Iterator[tuple[object, str]]:
    with _open(path) as raw:
        data = raw.read(LONGEST_DOCUMENT + 1)
    if len(data) > LONGEST_DOCUMENT:
        malformed["longer than 64 MiB"] += 1
    elif b"\0" in data:
        malformed["binary"] += 1
    elif not data.strip():
        malformed[SKIPPED[3]] += 1  # an empty __init__.py is no mistake
    else:
        try:
            yield data.removeprefix(BYTE_ORDER_MARK).decode(), ""
        except UnicodeDecodeError:
            malformed["not UTF-8"] += 1
