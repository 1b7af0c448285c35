"""Rows of text in Parquet files, in memory and time that the file's size on disk bounds.

A value of a dictionary is stored once and named as often as a file likes, and a run of equal values takes a few bytes, so neither the size
of a file nor that of its pages says what it unfolds to.
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from teleflm_jax.documents import streams, thrift
from teleflm_jax.documents.statistics import Tally

ROWS = 32
"""Rows in memory at one time where their lengths are not known beforehand."""
MOST_ROWS = 1 << 13
"""The same where they are."""
HELD = 256 << 20
"""Bytes that a dictionary may take, and rows in memory where a dictionary is what makes them long."""
UNFOLDED = 1000
"""Bytes, or rows, that each byte of a file may unfold to, as with the best compression of other formats; MINIMUM in any case."""
MINIMUM_BYTES, MINIMUM_ROWS = 1 << 30, 1 << 20
UNFOLDS = "rows that unfold too far"
NO_STRING = "text is not a string"
_DAMAGE = (pa.ArrowException, OSError, ValueError, OverflowError)
LARGEST_FOOTER = 16 << 20
"""Bytes; files of texts have kilobytes."""
_GROUPS, _COLUMNS, _METADATA = 4, 1, 3
"""Fields of a footer, of a row group, and of a column."""
_TYPE, _UNPACKED, _DICTIONARY = 1, 2, 2
"""First fields of a page's header, and the type of a dictionary's page."""
_HEADER = 32
"""Bytes of a page's header up to its unpacked size, at most; what follows may be as long as texts are."""


@dataclasses.dataclass(frozen=True)
class _Column:
    """A column's part in a row group, as the footer describes it."""

    FIELDS = (2, 3, 6, 9, 11)
    """Encodings, path, unpacked size, place of the data, and of the dictionary."""
    path: str
    unpacked: int
    data_page: int
    dictionary_page: int
    """0: it names none."""
    has_dictionary: bool

    @classmethod
    def of(cls, found: object) -> "_Column":
        """Raise a ValueError where it is not what a column has."""
        if not isinstance(found, dict):
            raise ValueError("a column without its metadata")
        encodings, path, unpacked, data_page, dictionary_page = (found.get(field, 0) for field in cls.FIELDS)
        lists = isinstance(encodings, list) and isinstance(path, list) and all(isinstance(part, bytes) for part in path)
        if not lists or not all(type(number) is int and 0 <= number < 1 << 62 for number in (unpacked, data_page, dictionary_page)):
            raise ValueError("a column without its metadata")
        has_dictionary = any(encoding in (2, 8) for encoding in encodings)
        return cls(".".join(part.decode() for part in path), unpacked, data_page, dictionary_page, has_dictionary)


class _Budget:
    """Bytes and rows that a file may still unfold to."""

    def __init__(self, size: int):
        self.bytes, self.rows = max(MINIMUM_BYTES, UNFOLDED * size), max(MINIMUM_ROWS, UNFOLDED * size)

    def has(self, rows: int, num_bytes: int) -> bool:
        """Take so much off; False if it is more than is left."""
        self.rows, self.bytes = self.rows - rows, self.bytes - num_bytes
        return min(self.rows, self.bytes) >= 0


def rows(raw: BinaryIO, origin: str, text: str, start: int, stop: int | None, longest: int, tally: Tally) -> Iterator[dict]:
    """Yield the rows of row groups [start, stop) that have a text, with their `family` and `source` where these are strings or numbers.

    Args:
        raw: the file.
        origin: what it is called.
        text: the column of texts.
        start: the first row group.
        stop: the one behind the last; None: there is none.
        longest: bytes of a text; longer ones are counted.
        tally: counts what is no text.
    """
    size = os.fstat(raw.fileno()).st_size
    try:
        file = pq.ParquetFile(raw, page_checksum_verification=True)
        schema, columns = file.schema_arrow, _columns(raw)
        groups = range(start, file.num_row_groups if stop is None else stop)
        names = [name for name in dict.fromkeys((text, "family", "source")) if _is_scalar(schema, name)]
        is_string = text in names and not pa.types.is_integer(_kind(schema, text))
        if len(columns) != file.num_row_groups:
            raise ValueError("a footer that reads in two ways")
    except _DAMAGE:
        tally.drop(streams.DAMAGED, origin, "", size)
        return
    if not is_string:
        for group in map(file.metadata.row_group, groups):
            tally.drop(NO_STRING if text in schema.names else f"no {text}", origin, "", group.total_byte_size, group.num_rows)
        return
    budget = _Budget(size)
    with file:
        for group in groups:
            yield from _of_group(file, raw, group, columns[group], names, origin, longest, budget, tally)


def _is_scalar(schema: pa.Schema, name: str) -> bool:
    """Tell if there is one column of this name, of strings or of whole numbers."""
    if schema.get_field_index(name) < 0:
        return False
    kind = _kind(schema, name)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)


def _kind(schema: pa.Schema, name: str) -> pa.DataType:
    kind = schema.field(name).type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _of_group(
    file: pq.ParquetFile,
    raw: BinaryIO,
    number: int,
    columns: list[_Column],
    names: list[str],
    origin: str,
    longest: int,
    budget: _Budget,
    tally: Tally,
) -> Iterator[dict]:
    """Yield the rows of a group; behind damage, the group's rest is counted: its pages have no borders that can be found."""
    group, done = file.metadata.row_group(number), 0

    def rest(reason: str) -> None:
        left = max(1, group.num_rows - done)
        tally.drop(reason, origin, "", group.total_byte_size * left // max(1, group.num_rows), left)

    try:
        count = _at_a_time(raw, columns, names)
        if not count:
            rest(f"dictionary longer than {HELD >> 20} MiB")
            return
        for batch in file.iter_batches(count, row_groups=[number], columns=names, use_threads=False):
            lengths = _lengths(batch.column(0))
            if not budget.has(batch.num_rows, max(batch.nbytes, sum(filter(None, lengths)))):
                rest(UNFOLDS)
                return
            yield from _texts(batch, lengths, names, origin, longest, tally)
            done += batch.num_rows
    except _DAMAGE:
        rest(streams.DAMAGED)


def _at_a_time(raw: BinaryIO, columns: list[_Column], names: list[str]) -> int:
    """Say how many rows of a group may be read together; 0 if even one may be too long."""
    sizes = [_dictionary_bytes(raw, column) for column in columns if column.path in names]
    if max(sizes) > HELD:
        return 0
    return max(1, min(MOST_ROWS if min(sizes) else ROWS, HELD // max(1, *sizes)))


def _columns(raw: BinaryIO) -> list[list[_Column]]:
    """Return the columns of each row group, as the footer says; pyarrow ends the process over some of which it does not.

    Source: Parquet's `FileMetaData`, `RowGroup`, `ColumnChunk` and `ColumnMetaData`.

    Raises:
        ValueError: the footer is damaged, or larger than that of any file of texts.
    """
    end = raw.seek(-8, os.SEEK_END)
    size = int.from_bytes(raw.read(4), "little")
    if size > min(end, LARGEST_FOOTER):
        raise ValueError(f"a footer of {size:,} bytes")
    raw.seek(end - size)
    found, _ = thrift.struct(raw.read(size), 0, {_GROUPS: {_COLUMNS: {_METADATA: dict.fromkeys(_Column.FIELDS)}}})
    return [[_Column.of(column.get(_METADATA)) for column in _structs(group, _COLUMNS)] for group in _structs(found, _GROUPS)]


def _structs(parent: dict, field: int) -> list[dict]:
    found = parent.get(field, [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ValueError("a footer with fields of other types")
    return found


def _dictionary_bytes(raw: BinaryIO, column: _Column) -> int:
    """Return a dictionary's size, unpacked, as its page's header says; the library reads no more than that. 0: there is none.

    Source: Parquet's `PageHeader`.

    Raises:
        ValueError: the numbers are not of 32 bits, of which the library would read the last 32.
    """
    is_before = 0 < column.dictionary_page < column.data_page  # elsewhere the library does not look for it
    raw.seek(column.dictionary_page if is_before else column.data_page)
    header = raw.read(_HEADER)
    otherwise = column.unpacked if column.has_dictionary else 0
    try:
        first, kind, place = thrift.field(header, 0, 0, {})
        second, size, _ = thrift.field(header, place, first, {})
    except ValueError:  # the library refuses it, or reads nothing as the group is empty
        return otherwise
    if (first, second) != (_TYPE, _UNPACKED):
        return otherwise
    if not all(type(number) is int and 0 <= number < 1 << 31 for number in (kind, size)):
        raise ValueError("a page's header with numbers that are none")
    return size if kind == _DICTIONARY else otherwise


def _lengths(texts: pa.Array) -> list[int | None]:
    """Bytes of each text; None where there is none."""
    if pa.types.is_null(texts.type):
        return [None] * len(texts)
    if pa.types.is_dictionary(texts.type):
        return pc.take(pc.binary_length(texts.dictionary), texts.indices).to_pylist()
    return pc.binary_length(texts).to_pylist()


def _texts(batch: pa.RecordBatch, lengths: list[int | None], names: list[str], origin: str, longest: int, tally: Tally) -> Iterator[dict]:
    if missing := lengths.count(None):
        tally.drop(f"no {names[0]}", origin, "", count=missing)
    for index, length in enumerate(lengths):
        if length is None:
            continue
        if length > longest:
            tally.drop(f"longer than {longest >> 20} MiB", origin, "", length)
            continue
        try:
            yield {name: column[index].as_py() for name, column in zip(names, batch.columns, strict=True)}
        except UnicodeDecodeError:
            tally.drop("not UTF-8", origin, "", length)
