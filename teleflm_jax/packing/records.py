"""Binary encoding of packed training records and held-out documents.

Layout, little-endian: kind (1 byte), version (1 byte), bytes per token (2 bytes), numbers of the header, then the arrays. Tokens take two
bytes if all of them fit and four otherwise; the compression of the shard removes the remaining redundancy. The format is our own, because
thousands of processes read records at random, without a schema library.
"""

import dataclasses
import struct

import numpy as np

from teleflm_jax import invocation
from teleflm_jax.errors import UserError

VERSION = 1
_RECORD = struct.Struct("<cBHII")  # kind, version, bytes per token, tokens, starts
_DOCUMENT = struct.Struct("<cBHIQ")  # kind, version, bytes per token, tokens, UTF-8 bytes
_TOKEN_TYPES = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
_START_TYPE = np.dtype("<i4")


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingRecord:
    """A training sequence and the token after it."""

    tokens: np.ndarray
    """uint32 [S + 1]"""
    starts: np.ndarray
    """int32 [n]: positions of `<s>`, ascending."""


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """A whole document held out for evaluation, without `<s>` and `</s>`."""

    tokens: np.ndarray
    """uint32 [n]"""
    num_bytes: int
    """Length of the text in UTF-8, the denominator of bits per byte."""


def encode(record: TrainingRecord) -> bytes:
    """Encode a record; `decode` is the inverse."""
    tokens = _narrow(record.tokens)
    starts = np.asarray(record.starts, _START_TYPE)
    return _RECORD.pack(b"R", VERSION, tokens.itemsize, tokens.size, starts.size) + starts.tobytes() + tokens.tobytes()


def decode(data: bytes) -> TrainingRecord:
    """Decode a record.

    Raises:
        UserError: The bytes are not a record of this version.
    """
    dtype, num_tokens, num_starts = _header(_RECORD, b"R", data)
    border = _RECORD.size + num_starts * _START_TYPE.itemsize
    if len(data) != border + num_tokens * dtype.itemsize:
        raise _unreadable(f"{len(data)} bytes for {num_tokens} tokens and {num_starts} documents")
    starts = np.frombuffer(data, _START_TYPE, num_starts, _RECORD.size).astype(np.int32)
    if num_starts and not (0 <= starts[0] and (np.diff(starts) > 0).all() and starts[-1] < num_tokens):
        raise _unreadable("document starts outside the tokens")
    return TrainingRecord(tokens=np.frombuffer(data, dtype, num_tokens, border).astype(np.uint32), starts=starts)


def encode_document(document: HeldOut) -> bytes:
    """Encode a held-out document; `decode_document` is the inverse."""
    tokens = _narrow(document.tokens)
    return _DOCUMENT.pack(b"D", VERSION, tokens.itemsize, tokens.size, document.num_bytes) + tokens.tobytes()


def decode_document(data: bytes) -> HeldOut:
    """Decode a held-out document.

    Raises:
        UserError: The bytes are not a held-out document of this version.
    """
    dtype, num_tokens, num_bytes = _header(_DOCUMENT, b"D", data)
    if len(data) != _DOCUMENT.size + num_tokens * dtype.itemsize:
        raise _unreadable(f"{len(data)} bytes for {num_tokens} tokens")
    return HeldOut(tokens=np.frombuffer(data, dtype, num_tokens, _DOCUMENT.size).astype(np.uint32), num_bytes=num_bytes)


def _narrow(tokens: np.ndarray) -> np.ndarray:
    tokens = np.asarray(tokens)
    return tokens.astype(_TOKEN_TYPES[2 if tokens.size == 0 or tokens.max() < 2**16 else 4])


def _header(layout: struct.Struct, kind: bytes, data: bytes) -> tuple[np.dtype, int, int]:
    if len(data) < layout.size or data[:1] != kind:
        raise _unreadable(f"{len(data)} bytes that start with {data[:4]!r}")
    _, version, width, first, second = layout.unpack_from(data)
    if version != VERSION or width not in _TOKEN_TYPES:
        raise _unreadable(f"version {version} with {width} bytes per token")
    return _TOKEN_TYPES[width], first, second


def _unreadable(got: str) -> UserError:
    return UserError(
        f"got a packed record that cannot be read ({got}); allowed: records of version {VERSION}; run "
        f"`{invocation.command('pack --force')}` again"
    )
