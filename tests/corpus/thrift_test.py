"""Footers of Parquet files say the same here as to pyarrow; what is damaged is refused."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleflm_jax.corpus import parquet, thrift


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


@settings(deadline=None, max_examples=200)
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
        (b"", "an end too early"),
        (b"\x18\x05ab", "text beyond the end"),
        (b"\x15" + b"\xff" * 20, "a number without an end"),
        (b"\x1c" * 100, "structures too deep"),
        (b"\x19\x19" * 100, "an end too early|too deep|unknown"),
        (b"\x1d\0", "an unknown type 13"),
        (b"\x19\xfc\xff\xff\xff\xff\x0f" + b"\0" * 9, "an end too early"),
    ],
)
def test_what_is_no_structure_is_refused(content, why):
    with pytest.raises(ValueError, match=why):
        thrift.struct(content, 0, {1: None})
