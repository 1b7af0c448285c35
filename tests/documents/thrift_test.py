"""Footers of Parquet files say the same here as to pyarrow; what is damaged is refused."""

import dataclasses
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.documents import parquet, thrift


def written(**settings):
    table = pa.table({"text": ["a", "bb", "a"] * 9, "family": pa.array([1, None, 3] * 9, pa.int32()), "more": [[{"x": 1.5}]] * 27})
    raw = io.BytesIO()
    pq.write_table(table, raw, row_group_size=10, **settings)
    return raw


@pytest.mark.parametrize("settings", [{}, {"use_dictionary": False}, {"version": "1.0"}, {"compression": "zstd", "write_page_index": True}])
def test_columns_are_those_of_the_library(settings):
    raw = written(**settings)
    metadata = pq.read_metadata(raw)
    assert metadata.num_row_groups == 3
    for number, columns in enumerate(parquet._columns(raw)):
        theirs = [metadata.row_group(number).column(i) for i in range(metadata.row_group(number).num_columns)]
        assert [column.path for column in columns] == [column.path_in_schema for column in theirs]
        for ours, column in zip(columns, theirs, strict=True):
            assert (ours.unpacked, ours.data_page) == (column.total_uncompressed_size, column.data_page_offset)
            assert ours.dictionary_page == (column.dictionary_page_offset if column.has_dictionary_page else 0)
            assert ours.has_dictionary == bool({"PLAIN_DICTIONARY", "RLE_DICTIONARY"} & set(column.encodings))


def varint(value):
    parts = [value >> 7 * i & 0x7F for i in range(max(1, -(-value.bit_length() // 7)))]
    return bytes([*(part | 0x80 for part in parts[:-1]), parts[-1]])


LARGE = varint(2 * 5_000_004)
COLUMN = parquet._Column("text", unpacked=7, data_page=0, dictionary_page=0, has_dictionary=True)


@pytest.mark.parametrize(
    "header, size",
    [
        (b"\x15\x04\x15" + LARGE + b"\x15", 5_000_004),
        (b"\x15\x04\x15" + LARGE, 5_000_004),  # cut behind the size
        (b"\x05\x02\x04\x05\x04" + LARGE, 5_000_004),  # the fields' numbers written out
        (b"\x15\x04\x15" + varint(2 * (2**31 - 1)), 2**31 - 1),
        (b"\x15\0\x15" + LARGE + b"\x15", 7),  # a page of data
        (b"\x25" + LARGE + b"\x15\x04", 7),
        (b"\x15\x04\x15\x80", 7),
        (b"PAR1\x15\0\x15\x16", 7),  # where a group is empty
        (b"", 7),
    ],
)
def test_a_dictionary_is_as_long_as_its_header_says(header, size):
    assert parquet._dictionary_bytes(io.BytesIO(header), COLUMN) == size


@pytest.mark.parametrize("place", [0, 1, 40, 1 << 40])
def test_a_dictionary_that_is_not_before_the_data_is_looked_for_where_the_library_does(place):
    raw = written()
    for [text, *_] in parquet._columns(raw):
        assert text.dictionary_page < text.data_page and parquet._dictionary_bytes(raw, text) == 11  # "a", "bb" and their lengths
        swapped = dataclasses.replace(text, data_page=text.dictionary_page, dictionary_page=place and text.data_page + place)
        assert parquet._dictionary_bytes(raw, swapped) == 11


def test_the_library_reads_a_dictionary_where_the_data_are_said_to_begin():
    raw = written(store_schema=False)
    [last, *_] = parquet._columns(raw)[-1]
    places = [varint(2 * last.data_page), varint(2 * last.dictionary_page)]
    before, _, after = raw.getvalue().rpartition(b"\x26".join(places))
    raw = io.BytesIO(before + b"\x26".join(reversed(places)) + after)
    [swapped, *_] = parquet._columns(raw)[-1]
    assert (swapped.data_page, swapped.dictionary_page) == (last.dictionary_page, last.data_page)
    assert pq.read_table(raw)["text"].to_pylist() == ["a", "bb", "a"] * 9


@pytest.mark.parametrize(
    "header",
    [
        b"\x15\x04\x15" + varint(2 * 2**31),
        b"\x15\x04\x15\x01",
        b"\x15\x04\x15" + varint(2 * (2**32 + 5)),
        b"\x15" + varint(4 + 2**33) + b"\x15\x02",
        b"\x15\x04\x11",
        b"\x15\x04\x18\x02ab",
    ],
)
def test_numbers_that_the_library_would_cut_are_refused(header):
    with pytest.raises(ValueError, match="invalid numbers"):
        parquet._dictionary_bytes(io.BytesIO(header), COLUMN)


@given(st.data())
def test_a_damaged_footer_is_refused_or_read(data):
    content = bytearray(written().getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(-700, -1))] = data.draw(st.integers(0, 255))
    try:
        parquet._columns(io.BytesIO(content))
    except ValueError:
        return


@pytest.mark.parametrize(
    "content, why",
    [
        (b"", "truncated data"),
        (b"\x18\x05ab", "a string past the end of the data"),
        (b"\x15" + b"\xff" * 20, "a number without an end byte"),
        (b"\x1c" * 100, "structures nested too deeply"),
        (b"\x19\x19" * 100, "truncated data|too deeply|unknown"),
        (b"\x1d\0", "an unknown type 13"),
        (b"\x19\xfc\xff\xff\xff\xff\x0f" + b"\0" * 9, "truncated data"),
    ],
)
def test_what_is_no_structure_is_refused(content, why):
    with pytest.raises(ValueError, match=why):
        thrift.struct(content, 0, {1: None})
