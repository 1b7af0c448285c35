"""Bytes of a file, decompressed in bounded memory, with a `DamagedSpan` in place of each damaged part.

gzip, zstd, bzip2 and xz files are sequences of members (gzip members, zstd frames, bzip2 and xz streams) that are decompressed
independently. A damaged member therefore loses only its own data: the next one is found by its first bytes. Readers decide what to do
with the bytes next to a damaged span.
"""

import bz2
import collections
import dataclasses
import lzma
import os
import re
import typing
from collections.abc import Callable, Iterator
from typing import BinaryIO

import pyarrow
import zstandard
from isal import igzip_lib, isal_zlib

from teleflm_jax.errors import UserError

CHUNK = 1 << 16
"""Maximum number of bytes that are decompressed at a time."""
INPUT = 1 << 16
"""Number of bytes that are read from a compressed file at a time."""
HELD = 1 << 20
"""Bytes at the end of a member that are held back until its checksum has been verified, because damage shows up later than it occurs."""
MAX_WINDOW = 1 << 27
"""Maximum window memory, in bytes, of a zstd or xz file; zstd's own limit."""
DAMAGED = "truncated or damaged file"
_ZSTD_BLOCK = 1 << 17
_ZSTD_HEADER = 18
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
_MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b\x08[\x00-\x1f]"),
    "zstd": re.compile(rb"(?:\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18)"),
    "bzip2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "lz4": re.compile(rb"\x04\x22\x4d\x18"),
}
"""Compression -> first bytes of a member. Sources: RFC 1952, RFC 8878, and the formats of bzip2, xz and LZ4 frames."""
_MAGIC_BYTES = 10
ENDINGS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bzip2", ".xz": "xz", ".lz4": "lz4"}
"""File extension -> compression."""


@dataclasses.dataclass(frozen=True, slots=True)
class DamagedSpan:
    """A part of a file that could not be read."""

    size: int
    """Bytes of the file that were skipped; 0 if the file is truncated."""
    reason: str = DAMAGED


class _Damaged(Exception):
    """Raised for a member that cannot be decompressed."""


class _Torn(Exception):
    """Raised if the file ends inside a member; `held` has the member's bytes that were not yielded yet."""

    def __init__(self, held: list[bytes]):
        super().__init__()
        self.held = held


_ERRORS: tuple[type[Exception], ...] = (
    _Damaged,
    typing.cast(type[Exception], igzip_lib.IsalError),
    lzma.LZMAError,
    zstandard.ZstdError,
    ValueError,
    EOFError,
    OSError,
)


class _Input:
    """A file that is read forward, with a buffer of bytes that were read and not used yet."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._left = b""
        self._read = 0

    @property
    def position(self) -> int:
        """Offset of the first unused byte."""
        return self._read - len(self._left)

    def seek(self, position: int) -> None:
        self._file.seek(position)
        self._left, self._read = b"", position

    def take(self) -> bytes:
        """Return the next bytes; empty at the end of the file."""
        data, self._left = self._left, b""
        if not data:
            data = self._file.read(INPUT)
            self._read += len(data)
        return data

    def give_back(self, data: bytes) -> None:
        self._left = data + self._left

    def exactly(self, size: int) -> bytes:
        """Return exactly `size` bytes.

        Raises:
            EOFError: The file ends before.
        """
        while len(self._left) < size:
            data = self._file.read(INPUT)
            if not data:
                raise EOFError
            self._read += len(data)
            self._left += data
        data, self._left = self._left[:size], self._left[size:]
        return data

    def skip(self, size: int) -> None:
        while size > 0:
            data = self.take()
            if not data:
                raise EOFError
            self.give_back(data[size:])
            size -= len(data)


def open_file(path: str) -> BinaryIO:
    """Open a file that the user named.

    Raises:
        UserError: The file cannot be opened.
    """
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(
            f"got the file {path!r} ({error.strerror}); allowed: files that can be read; change its permissions or remove it"
        ) from error


def compression_of(head: bytes) -> str:
    """Return the compression of a file that starts with `head`; empty if unknown."""
    return next((name for name, magic in _MAGIC.items() if magic.match(head)), "")


def chunks(path: str, compression: str, start: int = 0) -> Iterator[bytes | DamagedSpan]:
    """Yield a file's bytes in chunks.

    Args:
        path: The file.
        compression: One of the values of ENDINGS, or empty.
        start: Offset of the first byte, for a file that is not compressed.

    Yields:
        The bytes in order, a DamagedSpan for each part that cannot be read, and an empty chunk at the end of each member of a
        compressed file.
    """
    with open_file(path) as file:
        if not compression:
            file.seek(start)
            while chunk := file.read(CHUNK):
                yield chunk
        elif compression == "lz4":
            yield from _lz4(file)
        else:
            yield from _members(file, compression)


def beginning(path: str, compression: str, size: int) -> bytes:
    """Return the first `size` bytes of a file, decompressed; fewer if the file is damaged."""
    with open_file(path) as file:
        if not compression:
            return file.read(size)
        found = b""
        try:
            for chunk in _lz4(file) if compression == "lz4" else _MEMBER[compression](_Input(file)):
                if isinstance(chunk, DamagedSpan) or len(found) >= size:
                    break
                found += chunk
        except _ERRORS as error:
            _raise_if_of_disk(error)
        return found[:size]


def whole(path: str, compression: str, limit: int) -> bytes | DamagedSpan:
    """Return at most `limit` + 1 bytes of a file that is one document, or a DamagedSpan if any part of it is damaged."""
    parts, size = [], 0
    for chunk in chunks(path, compression):
        if isinstance(chunk, DamagedSpan):
            return DamagedSpan(os.path.getsize(path))
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            break
    return b"".join(parts)[: limit + 1]


def _members(file: BinaryIO, compression: str) -> Iterator[bytes | DamagedSpan]:
    source, member, magic = _Input(file), _MEMBER[compression], _MAGIC[compression]
    size = os.fstat(file.fileno()).st_size
    start = 0
    while start < size:
        shown = start  # everything before this offset has been yielded
        try:
            for position, chunk in _held_back(member(source), source):
                shown = position
                yield chunk
            yield b""
            start = source.position
            continue
        except _Torn as torn:
            # alternatively a length inside the member is wrong and points past all following members
            following = size if shown > start else _find(file, start + 1, magic)
            if following == size:
                yield from torn.held
                yield DamagedSpan(0)
                return
        except _ERRORS as error:
            _raise_if_of_disk(error)
        start = _find(file, max(start + 1, shown), magic)
        source.seek(start)
        if not _is_padding(file, shown, start):
            yield DamagedSpan(start - shown)


def _held_back(member: Iterator[bytes], source: _Input) -> Iterator[tuple[int, bytes]]:
    """Yield a member's bytes with the offset up to which they were read; hold back the last HELD bytes until the member or file ends."""
    held: collections.deque[tuple[int, bytes]] = collections.deque()
    size = 0
    try:
        for data in member:
            held.append((source.position, data))
            size += len(data)
            while size - len(held[0][1]) >= HELD:
                size -= len(held[0][1])
                yield held.popleft()
    except EOFError as error:
        raise _Torn([data for _, data in held]) from error
    yield from held


def _find(file: BinaryIO, start: int, magic: re.Pattern[bytes]) -> int:
    """Return the offset of the next member, or of the end of the file."""
    file.seek(start)
    held, at, size = b"", start, 1 << 12
    while data := file.read(size):
        held, size = held + data, min(2 * size, 1 << 20)
        if found := magic.search(held):
            return at + found.start()
        at += max(0, len(held) - _MAGIC_BYTES + 1)
        held = held[-_MAGIC_BYTES + 1 :]
    return file.tell()


def _is_padding(file: BinaryIO, start: int, stop: int) -> bool:
    """Return True if the range holds only zeros, which tapes and archivers write after a member."""
    position = file.tell()
    file.seek(start)
    data = file.read(min(INPUT, stop - start))
    file.seek(position)
    return stop - start <= INPUT and not data.strip(b"\0")


def _raise_if_of_disk(error: Exception) -> None:
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _gzip(source: _Input) -> Iterator[bytes]:
    decoder = isal_zlib.decompressobj(isal_zlib.MAX_WBITS | 16)
    while not decoder.eof:
        data = source.take()
        if not data:
            raise EOFError
        if found := decoder.decompress(data, CHUNK):
            yield found
        source.give_back(decoder.unused_data or decoder.unconsumed_tail)


def _self_buffering(make: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]) -> Callable[[_Input], Iterator[bytes]]:
    """Return a member reader for decoders that buffer their own input, such as those of bzip2 and xz."""

    def member(source: _Input) -> Iterator[bytes]:
        decoder = make()
        while not decoder.eof:
            data = source.take() if decoder.needs_input else b""
            if not data and decoder.needs_input:
                raise EOFError
            if found := decoder.decompress(data, CHUNK):
                yield found
        source.give_back(decoder.unused_data)

    return member


def _zstd(source: _Input) -> Iterator[bytes]:
    """Decompress block by block: a few bytes can encode a block of 128 KiB, and the library decompresses all of its input at once."""
    head = source.exactly(8)
    if _SKIPPABLE.match(head):
        source.skip(int.from_bytes(head[4:], "little"))
        return
    if not _MAGIC["zstd"].match(head):
        raise _Damaged
    size = zstandard.frame_header_size(head + bytes(_ZSTD_HEADER))
    head += source.exactly(size - len(head)) if size > len(head) else b""
    source.give_back(head[size:])
    head = head[:size]
    decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
    has_checksum = zstandard.get_frame_parameters(head).has_checksum
    decoder.decompress(head)
    is_last = False
    while not is_last:
        header = source.exactly(3)
        value = int.from_bytes(header, "little")
        is_last, kind, length = bool(value & 1), value >> 1 & 3, value >> 3
        if length > _ZSTD_BLOCK or kind == 3:
            raise _Damaged
        if found := decoder.decompress(header + source.exactly(1 if kind == 1 else length)):
            yield found
    if has_checksum and (found := decoder.decompress(source.exactly(4))):
        yield found


def _lz4(file: BinaryIO) -> Iterator[bytes | DamagedSpan]:
    """Read all frames. Nothing after damage is read, because the library does not report where the damage is."""
    with pyarrow.CompressedInputStream(file, "lz4") as stream:
        try:
            while chunk := stream.read(CHUNK):
                yield chunk
        except OSError as error:
            _raise_if_of_disk(error)
            yield DamagedSpan(0 if file.tell() == os.fstat(file.fileno()).st_size else os.fstat(file.fileno()).st_size - file.tell())


_MEMBER: dict[str, Callable[[_Input], Iterator[bytes]]] = {
    "gzip": _gzip,
    "zstd": _zstd,
    "bzip2": _self_buffering(bz2.BZ2Decompressor),
    "xz": _self_buffering(lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_WINDOW + (1 << 20))),
}
