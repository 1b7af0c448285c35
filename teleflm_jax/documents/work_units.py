"""Documents as people have them, cut into units of work. What a unit yields depends on nothing but the files.

A source is a folder or a file: JSON Lines, JSON files of objects, Parquet, and any other file as one document of plain text; compressed by
gzip, zstd, bzip2, xz or LZ4. A file's content and its name say what it is (files.py). What cannot be read is counted by reason, in
documents and in bytes. Memory stays bounded by `LONGEST_DOCUMENT`, whatever a file unpacks to.
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
from teleflm_jax.documents.statistics import Tally
from teleflm_jax.documents.streams import Gap
from teleflm_jax.errors import UserError

LONGEST_DOCUMENT = 64 << 20
"""Bytes of one line, plain file or Parquet value; more is counted as malformed, because it would have to be held in memory at once."""
END_BYTES = 1 << 16
"""Bytes of a file's beginning and end that tell it from another of the same name and size."""
TEXT = "text"
"""The column of a row's text, unless a setting names another."""


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
    """Why nothing is read from it; one of `files.SKIPPED`, or empty."""
    kind: str = ""
    """Its file's format, as `files.kind_of` names it; empty: not asked yet."""
    compression: str = ""
    """Its file's."""
    text_column: str = TEXT


@dataclasses.dataclass(frozen=True)
class Unit:
    """Pieces that one worker reads in order."""

    root: str
    pieces: tuple[Piece, ...]

    @property
    def num_bytes(self) -> int:
        """Size on disk of what the unit reads."""
        return sum(piece.num_bytes for piece in self.pieces)


def units(source: str, unit_bytes: int, setting: str = "data.sources", text_column: str = TEXT) -> list[Unit]:
    """Cut a source into units of about `unit_bytes` on disk: large files are split where their format allows it, small ones are grouped.

    Args:
        source: folder or file.
        unit_bytes: of a unit.
        setting: what named the source, to be told to the user who has to change it.
        text_column: the column of JSON and Parquet files that holds the text.

    Raises:
        UserError: the source does not exist or cannot be listed.
    """
    root = pathlib.Path(source)
    try:
        if root.is_dir():
            found = sorted(files.names(str(root)))
        else:
            found, root = [(root.name, "")], root.parent
            os.stat(source)
        pieces = [piece for path, skipped in found for piece in _pieces(str(root), path, skipped, unit_bytes, text_column)]
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


def refuse_unknown(work: Sequence[Unit], limit: float, setting: str, also: str = "") -> None:
    """Refuse a source of which more than a share of its bytes is in files of no format that is read, before any work starts.

    Args:
        work: the source's units.
        limit: the share.
        setting: what named the source.
        also: formats that are read besides `files.READABLE`.

    Raises:
        UserError: there is more.
    """
    unknown = [piece for unit in work for piece in unit.pieces if piece.kind == files.UNKNOWN]
    size, whole = sum(piece.num_bytes for piece in unknown), sum(unit.num_bytes for unit in work)
    if size > limit * whole:
        raise UserError(
            f"got {size:,} of {whole:,} bytes in {len(unknown):,} files that are neither text nor of a known format (the first is "
            f"{unknown[0].path}); allowed: {files.READABLE}{also}; convert or remove them, or change {setting}"
        )


def read(unit: Unit, tally: Tally) -> Iterator[Document]:
    """Yield the documents of a unit in order; what is no document is counted in the tally under its reason."""
    for piece in unit.pieces:
        family = os.fsencode(piece.path).decode("utf-8", "replace")
        if piece.skipped:
            tally.drop(piece.skipped, family, "")
            continue
        yield from read_piece(os.path.join(unit.root, piece.path), dataclasses.replace(piece, path=family), tally)


def read_piece(path: str, piece: Piece, tally: Tally) -> Iterator[Document]:
    """Yield the documents of a piece.

    Args:
        path: its file.
        piece: what it is called, and which part of the file it is.
        tally: counts what is no document.
    """
    if not piece.kind:
        kind, compression = files.kind_of(path, piece.text_column)
        piece = dataclasses.replace(piece, kind=kind, compression=compression)
    reader = {"jsonl": _json, "json": _json, "parquet": _parquet, "warc": _archive, "arc": _archive}.get(piece.kind, _plain)
    for text, family in reader(path, piece, tally):
        reason, text = _checked(text, piece, tally)
        if reason:
            tally.drop(reason, piece.path, "", _size(text))
        else:
            yield Document(text, family or piece.path)


def without_surrogates(text: str) -> str:
    """Put U+FFFD in place of surrogates that JSON names alone; they are no characters, and no UTF-8 has them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def identity(work: list[Unit]) -> str:
    """Say which files a source holds, by path, size and the bytes at both ends; not by time, which copying changes."""
    digest = hashlib.blake2b(digest_size=16)
    sizes = {}
    for unit in work:
        for path in dict.fromkeys(piece.path for piece in unit.pieces if not piece.skipped):
            if path in sizes:
                continue
            with streams.open_file(os.path.join(unit.root, path)) as file:
                sizes[path] = os.fstat(file.fileno()).st_size
                ends = file.read(END_BYTES)
                file.seek(max(0, sizes[path] - END_BYTES))
                digest.update(b"%d\0%s\0%s%s" % (sizes[path], os.fsencode(path), ends, file.read(END_BYTES)))
    return f"{len(sizes):,} files of {sum(sizes.values()):,} bytes with the digest {digest.hexdigest()}"


def _pieces(root: str, path: str, skipped: str, unit_bytes: int, text_column: str) -> list[Piece]:
    if skipped:
        return [Piece(path, 0, None, 0, skipped)]
    full = os.path.join(root, path)
    status = os.stat(full)
    if not stat.S_ISREG(status.st_mode):
        return [Piece(path, 0, None, 0, files.SKIPPED[2])]
    kind, compression = files.kind_of(full, text_column)
    whole = Piece(path, 0, None, status.st_size, kind=kind, compression=compression, text_column=text_column)
    if status.st_size <= unit_bytes or compression:
        return [whole]
    if kind == "jsonl":
        borders = [*range(0, status.st_size, unit_bytes), status.st_size]
        return [dataclasses.replace(whole, start=a, stop=b, num_bytes=b - a) for a, b in zip(borders, borders[1:], strict=False)]
    if kind == "parquet":
        try:
            metadata = pyarrow.parquet.read_metadata(full)
        except (pyarrow.ArrowException, OSError):
            return [whole]  # counted when it is read
        sizes = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
        return [dataclasses.replace(whole, start=i, stop=i + 1, num_bytes=size) for i, size in enumerate(sizes)]
    return [whole]


def _checked(text: object, piece: Piece, tally: Tally) -> tuple[str, Any]:
    """Return why this is no document, or an empty reason; and the text, without what costs no more than itself."""
    if not isinstance(text, str):
        return parquet.NO_STRING, text
    if len(text) > LONGEST_DOCUMENT:
        return json_rows.TOO_LONG, text
    if not text or text.isspace():
        return "empty", text
    whole = without_surrogates(text)
    if whole != text:
        tally.change("lone surrogates replaced", piece.path, "")
    return "", whole


def _size(value: object) -> int:
    return len((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)).encode("utf-8", "surrogatepass"))


def _drop(gap: Gap, piece: Piece, tally: Tally) -> None:
    tally.drop(gap.reason, piece.path, "", gap.size)


def _json(path: str, piece: Piece, tally: Tally) -> Iterator[tuple[object, str]]:
    parts = streams.chunks(path, piece.compression, max(0, piece.start - 1))
    if piece.kind == "jsonl":
        rows = json_rows.of_lines(parts, LONGEST_DOCUMENT, piece.start, piece.stop)
    else:
        rows = json_rows.of_values(parts, LONGEST_DOCUMENT)
    for row in rows:
        if isinstance(row, Gap):
            _drop(row, piece, tally)
        elif not isinstance(row, dict):
            tally.drop("not a JSON object", piece.path, "", _size(row))
        elif piece.text_column not in row:
            tally.drop(f"no {piece.text_column}", piece.path, "", _size(row))
        else:
            yield row[piece.text_column], _name(row.get("family")) or _name(row.get("source"))


def _name(value: object) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _parquet(path: str, piece: Piece, tally: Tally) -> Iterator[tuple[object, str]]:
    if piece.compression:
        tally.drop(f"Parquet inside of {piece.compression}", piece.path, "", piece.num_bytes)
        return
    with streams.open_file(path) as raw:
        for row in parquet.rows(raw, piece.path, piece.text_column, piece.start, piece.stop, LONGEST_DOCUMENT, tally):
            yield row[piece.text_column], _name(row.get("family")) or _name(row.get("source"))


def _archive(path: str, piece: Piece, tally: Tally) -> Iterator[tuple[object, str]]:
    """Count a file that is the business of `corpus`: as one text it would bring its headers along."""
    tally.drop("web archive, which `corpus` reads", piece.path, "", piece.num_bytes)
    yield from ()


def _plain(path: str, piece: Piece, tally: Tally) -> Iterator[tuple[object, str]]:
    data = streams.whole(path, piece.compression, LONGEST_DOCUMENT)
    if isinstance(data, Gap):
        _drop(data, piece, tally)
    elif len(data) > LONGEST_DOCUMENT:
        tally.drop(json_rows.TOO_LONG, piece.path, "", piece.num_bytes)
    elif b"\0" in data and files.is_binary(data):
        tally.drop("binary", piece.path, "", piece.num_bytes)
    elif not data.strip():
        tally.drop(files.SKIPPED[3], piece.path, "")  # an empty __init__.py is no mistake
    else:
        try:
            text = data.removeprefix(files.BYTE_ORDER_MARK).decode()
        except UnicodeDecodeError:
            tally.drop("not UTF-8", piece.path, "", piece.num_bytes)
            return
        if "\0" in text:
            tally.change(files.ZEROS, piece.path, "\0" * text.count("\0"))
        yield text.replace("\0", ""), ""
