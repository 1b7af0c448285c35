"""Entries of packed records: bytes are refused in a line, or are a record that is the same when it is written again."""

from collections.abc import Callable

import numpy as np

from teleflm_jax import records
from teleflm_jax.errors import UserError


def _record(data: bytes) -> None:
    try:
        record = records.decode(data)
    except UserError:
        return
    again = records.decode(records.encode(record))
    assert np.array_equal(again.tokens, record.tokens) and np.array_equal(again.starts, record.starts)


def _document(data: bytes) -> None:
    try:
        document = records.decode_document(data)
    except UserError:
        return
    again = records.decode_document(records.encode_document(document))
    assert np.array_equal(again.tokens, document.tokens) and again.num_bytes == document.num_bytes


ENTRIES: dict[str, Callable[[bytes], None]] = {"record": _record, "heldout": _document}
