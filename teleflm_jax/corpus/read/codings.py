"""Bodies of HTTP responses without their encodings, which are told by the body and not by the headers alone.

Crawlers keep headers whose encodings they have taken off, or take off headers and leave the encodings; servers name encodings that they do
not use, and use others. Sources: RFC 9110 and RFC 9112; RFC 1950, RFC 1952 and RFC 8878 for how compressed data begins.
"""

import io
import re
import zlib
from collections.abc import Iterable

from fastwarc.stream_io import BrotliReader, GzipReader, ZstdReader

MAX_LAYERS = 4
"""Encodings inside one another."""
MAX_MEMBERS = 100
"""Of gzip, one behind another; each copies what follows it."""
_NONE = frozenset(("", "identity", "none", "binary", "7bit", "8bit", "utf-8", "utf8", "chunked"))
"""Names that compress nothing, some of them of character sets."""
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]{0,1000})?\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_CONTROL = bytes((*range(0x09), *range(0x0E, 0x1B), *range(0x1C, 0x20)))
"""What text has none of but for UTF-16's, and compressed data within a few bytes; ESC is ISO-2022's."""
_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
_LOOKED_AT = 4096


class _Unlike(Exception):
    """The body is not encoded so."""


def decoded(body: bytes, named: Iterable[str], limit: int) -> bytes:
    """Take a body's encodings off.

    Args:
        body: what follows a response's headers.
        named: values of its headers Content-Encoding and Transfer-Encoding.
        limit: of a longer result only limit + 1 bytes.

    Raises:
        OSError: it is encoded and cannot be decoded, or is no text although the headers name an encoding.
    """
    names = {name.strip(" \t\"'") for value in named for name in re.split("[,;]", value.lower())}
    compressions = names - _NONE
    for _ in range(MAX_LAYERS):
        if len(body) > limit:
            return body
        try:
            body = _without_one(body, "chunked" in names, compressions, limit)
        except _Unlike:
            break
        except zlib.error as error:
            raise OSError(str(error)) from error
    if compressions and not _is_text(body):
        raise OSError("no text")
    return body


def _is_text(body: bytes) -> bool:
    head = body[:_LOOKED_AT]
    return head.startswith(_MARKS) or len(head.translate(None, _CONTROL)) == len(head)


def _is_utf8_text(body: bytes) -> bool:
    """Whether it is surely no compressed data, of which a few dozen bytes may be free of control characters."""
    if not _is_text(body):
        return False
    try:
        return len(body) > _LOOKED_AT or bool(body.decode())
    except UnicodeDecodeError:
        return False


def _without_one(body: bytes, is_chunked: bool, compressions: set[str], limit: int) -> bytes:
    """Take the outermost encoding off, or raise _Unlike if there is none."""
    if _CHUNK.match(body[:_LOOKED_AT]):
        return _unchunked(body, is_chunked)
    if body.startswith(b"\x1f\x8b\x08"):
        return _of_gzip(body, limit)
    if body.startswith(b"\x28\xb5\x2f\xfd"):
        return ZstdReader(io.BytesIO(body)).read(limit + 1)
    if not compressions or _is_utf8_text(body):
        raise _Unlike
    for decode in (_of_deflate, _of_brotli):
        try:
            return decode(body, limit)
        except (zlib.error, OSError):
            continue
    raise _Unlike


def _of_gzip(body: bytes, limit: int) -> bytes:
    """By a faster reader, which takes what is truncated for whole; the last four bytes of one member are its length."""
    found = GzipReader(io.BytesIO(body)).read(limit + 1)
    return found if body[-4:] == len(found).to_bytes(4, "little") else _inflated(body, zlib.MAX_WBITS | 16, limit)


def _of_deflate(body: bytes, limit: int) -> bytes:
    """As RFC 9110 says, in zlib's format; or bare, as some servers send it."""
    try:
        return _inflated(body, zlib.MAX_WBITS, limit)
    except zlib.error:
        return _inflated(body, -zlib.MAX_WBITS, limit)


def _of_brotli(body: bytes, limit: int) -> bytes:
    return BrotliReader(io.BytesIO(body)).read(limit + 1)


def _unchunked(body: bytes, is_named: bool) -> bytes:
    """Join chunks. If no header names them, they are some only if they go on to a last one; a number may be the text's first line."""
    parts, at, is_first = [], 0, True
    while at < len(body):
        size = _CHUNK.match(body, at)
        end = size.end() + int(size[1], 16) if size else at
        if size and end == size.end():
            return b"".join(parts)
        line_end = _LINE_END.match(body, end) if size else None
        if not size or not line_end:
            if is_first or not is_named:
                raise _Unlike
            raise OSError("a chunk that is damaged")
        parts.append(body[size.end() : end])
        at, is_first = line_end.end(), False
    if not is_named:
        raise _Unlike
    return b"".join(parts)


def _inflated(body: bytes, bits: int, limit: int) -> bytes:
    """Decompress members of gzip, or a stream of deflate; what follows them and is none goes."""
    parts, left = [], limit + 1
    for _ in range(MAX_MEMBERS):
        decoder = zlib.decompressobj(bits)
        parts.append(decoder.decompress(body, left))
        left -= len(parts[-1])
        body = decoder.unused_data
        if not decoder.eof and left > 0:
            raise OSError("compressed data that ends too early")
        if bits < 0 and body.strip():
            raise OSError("bytes behind what has no header")
        if left == 0 or not body.startswith(b"\x1f\x8b\x08"):
            return b"".join(parts)
    raise OSError("more members than servers write")
