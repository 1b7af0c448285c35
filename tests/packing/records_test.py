import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.errors import UserError
from teleflm_jax.packing import records

TOKENS = st.lists(st.integers(0, 2**17) | st.integers(0, 2**32 - 1), max_size=50)


@given(TOKENS, st.data())
def test_decode_inverts_encode(tokens, data):
    starts = sorted(data.draw(st.sets(st.integers(0, len(tokens) - 1)))) if tokens else []
    back = records.decode(records.encode(records.TrainingRecord(tokens=np.array(tokens, np.uint32), starts=np.array(starts, np.int32))))
    assert back.tokens.tolist() == tokens and back.starts.tolist() == starts
    assert back.tokens.dtype == np.uint32 and back.starts.dtype == np.int32


@given(TOKENS, st.integers(0, 2**63))
def test_decode_document_inverts_encode_document(tokens, num_bytes):
    back = records.decode_document(records.encode_document(records.HeldOut(tokens=np.array(tokens, np.uint32), num_bytes=num_bytes)))
    assert back.tokens.tolist() == tokens and back.num_bytes == num_bytes


def test_small_ids_take_two_bytes_and_large_ones_four():
    def size(top):
        return len(records.encode(records.TrainingRecord(tokens=np.array([0, top], np.uint32), starts=np.array([0], np.int32))))

    assert (size(2**16 - 1), size(2**16)) == (12 + 4 + 4, 12 + 4 + 8)


@given(st.binary(max_size=40))
def test_garbage_is_a_user_error(data):
    for decode in (records.decode, records.decode_document):
        with pytest.raises(UserError, match="cannot be read"):
            decode(b"?" + data)


@given(st.integers(0, 30), st.integers(0, 255))
def test_a_damaged_record_never_gives_anything_but_a_record_or_a_user_error(where, value):
    data = bytearray(records.encode(records.TrainingRecord(tokens=np.arange(5, dtype=np.uint32), starts=np.array([0, 3], np.int32))))
    data[where % len(data)] = value
    for damaged in (bytes(data), bytes(data[: where % len(data)])):
        try:
            assert records.decode(damaged).tokens.size == 5
        except UserError as error:
            assert "pack --force" in str(error)


@pytest.mark.parametrize("starts", [[-1], [3, 3], [4, 3], [0, 5]])
def test_documents_begin_in_order_at_tokens_that_there_are(starts):
    data = records.encode(records.TrainingRecord(tokens=np.arange(5, dtype=np.uint32), starts=np.array(starts, np.int32)))
    with pytest.raises(UserError, match="cannot be read"):
        records.decode(data)


def test_another_version_is_named():
    data = bytearray(records.encode(records.TrainingRecord(tokens=np.arange(3, dtype=np.uint32), starts=np.array([0], np.int32))))
    data[1] = 9
    with pytest.raises(UserError, match="version 9"):
        records.decode(bytes(data))
