"""Decoding of the content and transfer encodings of HTTP bodies, detected from the body and not only from the headers.

Crawlers keep headers of encodings that they have decoded, or remove headers and keep the encodings; servers declare encodings that they do
not use, and use others. Sources: RFC 9110 and RFC 9112; RFC 1950, RFC 1952 and RFC 8878 for the first bytes of compressed data.
"""

import io
import re
import zlib
from collections.abc import Iterable

from fastwarc.stream_io import BrotliReader, GzipReader, ZstdReader

MAX_LAYERS = 4
"""Maximum nesting of encodings."""
MAX_MEMBERS = 100
"""Maximum number of gzip members; each of them copies the rest of the data."""
_NONE = frozenset(("", "identity", "none", "binary", "7bit", "8bit", "utf-8", "utf8", "chunked"))
"""Declared values that are not compressions, some of them character sets."""
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]{0,1000})?\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_CONTROL = bytes((*range(0x09), *range(0x0E, 0x1B), *range(0x1C, 0x20)))
"""Control characters that text lacks, except UTF-16, and that compressed data has within a few bytes; ESC is used by ISO-2022."""
_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
_LOOKED_AT = 4096


class _NotEncoded(Exception):
    """Raised if the body does not have the encoding."""


def decoded(body: bytes, named: Iterable[str], limit: int) -> bytes:
    """Remove the encodings of a body.

    Args:
        body: Body of a response.
        named: Values of the headers Content-Encoding and Transfer-Encoding.
        limit: Maximum bytes of the result; a longer result is cut to limit + 1 bytes.

    Raises:
        OSError: The body is encoded and cannot be decoded, or is not text although the headers declare an encoding.
    """
    names = {name.strip(" \t\"'") for value in named for name in re.split("[,;]", value.lower())}
    compressions = names - _NONE
    for _ in range(MAX_LAYERS):
        if len(body) > limit:
            return body
        try:
            body = _without_one(body, "chunked" in names, compressions, limit)
        except _NotEncoded:
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
    """Return True for UTF-8 text; a short body without control characters may also be compressed data, so it must decode."""
    if not _is_text(body):
        return False
    try:
        return len(body) > _LOOKED_AT or bool(body.decode())
    except UnicodeDecodeError:
        return False


def _without_one(body: bytes, is_chunked: bool, compressions: set[str], limit: int) -> bytes:
    """Remove the outermost encoding, or raise _NotEncoded if there is none."""
    if _CHUNK.match(body[:_LOOKED_AT]):
        return _unchunked(body, is_chunked)
    if body.startswith(b"\x1f\x8b\x08"):
        return _of_gzip(body, limit)
    if body.startswith(b"\x28\xb5\x2f\xfd"):
        return ZstdReader(io.BytesIO(body)).read(limit + 1)
    if not compressions or _is_utf8_text(body):
        raise _NotEncoded
    for decode in (_of_deflate, _of_brotli):
        try:
            return decode(body, limit)
        except (zlib.error, OSError):
            continue
    raise _NotEncoded


def _of_gzip(body: bytes, limit: int) -> bytes:
    """Decompress with a faster reader, which accepts truncated data; the last four bytes of a member, its length, are checked."""
    found = GzipReader(io.BytesIO(body)).read(limit + 1)
    return found if body[-4:] == len(found).to_bytes(4, "little") else _inflated(body, zlib.MAX_WBITS | 16, limit)


def _of_deflate(body: bytes, limit: int) -> bytes:
    """Decompress the zlib format of RFC 9110, or raw deflate, which some servers send."""
    try:
        return _inflated(body, zlib.MAX_WBITS, limit)
    except zlib.error:
        return _inflated(body, -zlib.MAX_WBITS, limit)


def _of_brotli(body: bytes, limit: int) -> bytes:
    return BrotliReader(io.BytesIO(body)).read(limit + 1)


def _unchunked(body: bytes, is_named: bool) -> bytes:
    """Join chunks. Without a header, the body counts as chunked only if the last chunk is present: its first line may just be a number."""
    parts, at, is_first = [], 0, True
    while at < len(body):
        size = _CHUNK.match(body, at)
        end = size.end() + int(size[1], 16) if size else at
        if size and end == size.end():
            return b"".join(parts)
        line_end = _LINE_END.match(body, end) if size else None
        if not size or not line_end:
            if is_first or not is_named:
                raise _NotEncoded
            raise OSError("a damaged chunk")
        parts.append(body[size.end() : end])
        at, is_first = line_end.end(), False
    if not is_named:
        raise _NotEncoded
    return b"".join(parts)


def _inflated(body: bytes, bits: int, limit: int) -> bytes:
    """Decompress gzip members or a deflate stream; other data after them is dropped."""
    parts, left = [], limit + 1
    for _ in range(MAX_MEMBERS):
        decoder = zlib.decompressobj(bits)
        parts.append(decoder.decompress(body, left))
        left -= len(parts[-1])
        body = decoder.unused_data
        if not decoder.eof and left > 0:
            raise OSError("truncated compressed data")
        if bits < 0 and body.strip():
            raise OSError("bytes after raw deflate data")
        if left == 0 or not body.startswith(b"\x1f\x8b\x08"):
            return b"".join(parts)
    raise OSError("too many gzip members")
