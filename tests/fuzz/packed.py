"""Entries of packed records: bytes are refused in a line, or are a record that is the same when it is written again."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from teleflm_jax.errors import UserError
from teleflm_jax.packing import records


def _read_again(data: bytes, *, decode: Callable, encode: Callable) -> None:
    try:
        found = decode(data)
    except UserError:
        return
    again = decode(encode(found))
    for field in dataclasses.fields(found):
        assert np.array_equal(getattr(again, field.name), getattr(found, field.name))


ENTRIES: dict[str, Callable[[bytes], None]] = {
    "record": functools.partial(_read_again, decode=records.decode, encode=records.encode),
    "heldout": functools.partial(_read_again, decode=records.decode_document, encode=records.encode_document),
}
