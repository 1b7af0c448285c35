"""Text rows of Parquet files, in memory and time bounded by the file's size on disk.

A dictionary value is stored once and can be referenced any number of times, and a run of equal values takes a few bytes, so neither the
size of a file nor that of its pages bounds the size of its rows.
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from teleflm_jax.documents import streams, thrift
from teleflm_jax.documents.statistics import Statistics

ROWS = 32
"""Rows held in memory at a time if their lengths are not known in advance."""
MOST_ROWS = 1 << 13
"""Rows held in memory at a time if their lengths are known in advance."""
HELD = 256 << 20
"""Maximum bytes of a dictionary, and of the rows in memory if a dictionary makes them long."""
UNFOLDED = 1000
"""Maximum bytes, or rows, per byte of the file, as with the best compression of other formats; at least MINIMUM_BYTES and MINIMUM_ROWS."""
MINIMUM_BYTES, MINIMUM_ROWS = 1 << 30, 1 << 20
UNFOLDS = "rows that unfold too far"
NO_STRING = "text is not a string"
_DAMAGE = (pa.ArrowException, OSError, ValueError, OverflowError)
LARGEST_FOOTER = 16 << 20
"""Maximum bytes of a footer; files of texts have a few kilobytes."""
_GROUPS, _COLUMNS, _METADATA = 4, 1, 3
"""Thrift field numbers in a footer, in a row group, and in a column."""
_TYPE, _UNPACKED, _DICTIONARY = 1, 2, 2
"""Thrift numbers of the first two fields of a page header, and the page type of a dictionary."""
_HEADER = 32
"""Maximum bytes of a page header up to its uncompressed size; the rest may be as long as the texts."""


@dataclasses.dataclass(frozen=True)
class _Column:
    """A column chunk of a row group, as described by the footer."""

    FIELDS = (2, 3, 6, 9, 11)
    """Thrift fields: encodings, path, uncompressed size, offset of the data, offset of the dictionary."""
    path: str
    unpacked: int
    data_page: int
    dictionary_page: int
    """Offset of the dictionary page; 0 if the footer has none."""
    has_dictionary: bool

    @classmethod
    def of(cls, found: object) -> "_Column":
        """Return a column from parsed metadata.

        Raises:
            ValueError: The metadata lack a field or have one of another type.
        """
        if not isinstance(found, dict):
            raise ValueError("a column without its metadata")
        encodings, path, unpacked, data_page, dictionary_page = (found.get(field, 0) for field in cls.FIELDS)
        lists = isinstance(encodings, list) and isinstance(path, list) and all(isinstance(part, bytes) for part in path)
        if not lists or not all(type(number) is int and 0 <= number < 1 << 62 for number in (unpacked, data_page, dictionary_page)):
            raise ValueError("a column without its metadata")
        has_dictionary = any(encoding in (2, 8) for encoding in encodings)
        return cls(".".join(part.decode() for part in path), unpacked, data_page, dictionary_page, has_dictionary)


class _Budget:
    """Bytes and rows that a file may still expand to."""

    def __init__(self, size: int):
        self.bytes, self.rows = max(MINIMUM_BYTES, UNFOLDED * size), max(MINIMUM_ROWS, UNFOLDED * size)

    def has(self, rows: int, num_bytes: int) -> bool:
        """Subtract from the budget; return False if it is exhausted."""
        self.rows, self.bytes = self.rows - rows, self.bytes - num_bytes
        return min(self.rows, self.bytes) >= 0


def rows(raw: BinaryIO, origin: str, text: str, start: int, stop: int | None, longest: int, statistics: Statistics) -> Iterator[dict]:
    """Yield the rows of row groups [start, stop) that have a text, with `family` and `source` where these are strings or integers.

    Args:
        raw: The file.
        origin: Name of the file in statistics.
        text: Name of the text column.
        start: First row group.
        stop: Row group after the last; None for all.
        longest: Maximum bytes of a text; longer ones are counted and left out.
        statistics: Counts rows without a text.
    """
    size = os.fstat(raw.fileno()).st_size
    try:
        file = pq.ParquetFile(raw, page_checksum_verification=True)
        schema, columns = file.schema_arrow, _columns(raw)
        groups = range(start, file.num_row_groups if stop is None else stop)
        names = [name for name in dict.fromkeys((text, "family", "source")) if _is_scalar(schema, name)]
        is_string = text in names and not pa.types.is_integer(_kind(schema, text))
        if len(columns) != file.num_row_groups:
            raise ValueError("an ambiguous footer")
    except _DAMAGE:
        statistics.drop(streams.DAMAGED, origin, "", size)
        return
    if not is_string:
        for group in map(file.metadata.row_group, groups):
            statistics.drop(NO_STRING if text in schema.names else f"no {text}", origin, "", group.total_byte_size, group.num_rows)
        return
    budget = _Budget(size)
    with file:
        for group in groups:
            yield from _of_group(file, raw, group, columns[group], names, origin, longest, budget, statistics)


def _is_scalar(schema: pa.Schema, name: str) -> bool:
    """Return True if the schema has one column of this name, of strings or integers."""
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
    statistics: Statistics,
) -> Iterator[dict]:
    """Yield the rows of a row group; after damage the remaining rows are counted, because page boundaries cannot be found."""
    group, done = file.metadata.row_group(number), 0

    def rest(reason: str) -> None:
        left = max(1, group.num_rows - done)
        statistics.drop(reason, origin, "", group.total_byte_size * left // max(1, group.num_rows), left)

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
            yield from _texts(batch, lengths, names, origin, longest, statistics)
            done += batch.num_rows
    except _DAMAGE:
        rest(streams.DAMAGED)


def _at_a_time(raw: BinaryIO, columns: list[_Column], names: list[str]) -> int:
    """Return how many rows of a group may be read together; 0 if even one may be too long."""
    sizes = [_dictionary_bytes(raw, column) for column in columns if column.path in names]
    if max(sizes) > HELD:
        return 0
    return max(1, min(MOST_ROWS if min(sizes) else ROWS, HELD // max(1, *sizes)))


def _columns(raw: BinaryIO) -> list[list[_Column]]:
    """Return the columns of each row group from the footer; some inconsistent footers make pyarrow abort the process.

    Source: Parquet's `FileMetaData`, `RowGroup`, `ColumnChunk` and `ColumnMetaData`.

    Raises:
        ValueError: The footer is damaged, or larger than that of any file of texts.
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
        raise ValueError("a footer with fields of wrong types")
    return found


def _dictionary_bytes(raw: BinaryIO, column: _Column) -> int:
    """Return the uncompressed size of a dictionary from its page header, which is all that the library reads; 0 if there is none.

    Source: Parquet's `PageHeader`.

    Raises:
        ValueError: The header has numbers of more than 32 bits; the library would read only their last 32 bits.
    """
    is_before = 0 < column.dictionary_page < column.data_page  # the library looks for a dictionary only there
    raw.seek(column.dictionary_page if is_before else column.data_page)
    header = raw.read(_HEADER)
    otherwise = column.unpacked if column.has_dictionary else 0
    try:
        first, kind, place = thrift.field(header, 0, 0, {})
        second, size, _ = thrift.field(header, place, first, {})
    except ValueError:  # the library refuses the page, or does not read it because the group is empty
        return otherwise
    if (first, second) != (_TYPE, _UNPACKED):
        return otherwise
    if not all(type(number) is int and 0 <= number < 1 << 31 for number in (kind, size)):
        raise ValueError("a page header with invalid numbers")
    return size if kind == _DICTIONARY else otherwise


def _lengths(texts: pa.Array) -> list[int | None]:
    """Return the bytes of each text; None for a null."""
    if pa.types.is_null(texts.type):
        return [None] * len(texts)
    if pa.types.is_dictionary(texts.type):
        return pc.take(pc.binary_length(texts.dictionary), texts.indices).to_pylist()
    return pc.binary_length(texts).to_pylist()


def _texts(
    batch: pa.RecordBatch, lengths: list[int | None], names: list[str], origin: str, longest: int, statistics: Statistics
) -> Iterator[dict]:
    if missing := lengths.count(None):
        statistics.drop(f"no {names[0]}", origin, "", count=missing)
    for index, length in enumerate(lengths):
        if length is None:
            continue
        if length > longest:
            statistics.drop(f"longer than {longest >> 20} MiB", origin, "", length)
            continue
        try:
            yield {name: column[index].as_py() for name, column in zip(names, batch.columns, strict=True)}
        except UnicodeDecodeError:
            statistics.drop("not UTF-8", origin, "", length)
