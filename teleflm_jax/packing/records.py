"""The packed training record and the held-out document: their bytes on disk. No files, no jax.

Layout, little-endian: kind (1 byte), version (1 byte), bytes per token (2 bytes), numbers of the header, then the arrays. Tokens take two
bytes where all fit and four where not; what is left of redundancy is the compression of the shard that holds the record. Our own format,
because a record must be read at random by thousands of processes without a schema library.
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
class Record:
    """One training sequence and the token after it."""

    tokens: np.ndarray
    """uint32 [S + 1]"""
    starts: np.ndarray
    """int32 [n]: positions of `<s>`, ascending."""


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """One whole document kept for evaluation, without `<s>` and `</s>`."""

    tokens: np.ndarray
    """uint32 [n]"""
    num_bytes: int
    """Length of the text in UTF-8, the denominator of bits per byte."""


def encode(record: Record) -> bytes:
    """Turn a record into bytes; `decode` is the inverse."""
    tokens = _narrow(record.tokens)
    starts = np.asarray(record.starts, _START_TYPE)
    return _RECORD.pack(b"R", VERSION, tokens.itemsize, tokens.size, starts.size) + starts.tobytes() + tokens.tobytes()


def decode(data: bytes) -> Record:
    """Turn bytes into a record.

    Raises:
        UserError: the bytes are not a record of this version.
    """
    dtype, num_tokens, num_starts = _header(_RECORD, b"R", data)
    border = _RECORD.size + num_starts * _START_TYPE.itemsize
    if len(data) != border + num_tokens * dtype.itemsize:
        raise _unreadable(f"{len(data)} bytes for {num_tokens} tokens and {num_starts} documents")
    starts = np.frombuffer(data, _START_TYPE, num_starts, _RECORD.size).astype(np.int32)
    if num_starts and not (0 <= starts[0] and (np.diff(starts) > 0).all() and starts[-1] < num_tokens):
        raise _unreadable("document starts outside of the tokens")
    return Record(tokens=np.frombuffer(data, dtype, num_tokens, border).astype(np.uint32), starts=starts)


def encode_document(document: HeldOut) -> bytes:
    """Turn a held-out document into bytes; `decode_document` is the inverse."""
    tokens = _narrow(document.tokens)
    return _DOCUMENT.pack(b"D", VERSION, tokens.itemsize, tokens.size, document.num_bytes) + tokens.tobytes()


def decode_document(data: bytes) -> HeldOut:
    """Turn bytes into a held-out document.

    Raises:
        UserError: the bytes are not a held-out document of this version.
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
        raise _unreadable(f"{len(data)} bytes that begin with {data[:4]!r}")
    _, version, width, first, second = layout.unpack_from(data)
    if version != VERSION or width not in _TOKEN_TYPES:
        raise _unreadable(f"version {version} with {width} bytes per token")
    return _TOKEN_TYPES[width], first, second


def _unreadable(got: str) -> UserError:
    return UserError(
        f"got a packed record that cannot be read ({got}); allowed: records of version {VERSION}; run "
        f"`{invocation.command('pack --force')}` again"
    )
