"""Bytes of a file, decompressed in bounded memory, with a `Gap` in place of what is damaged.

gzip, zstd, bzip2 and xz files are rows of members (gzip's members, zstd's frames, bzip2's and xz's streams) that are decompressed
independently. So a damaged member costs itself: the next one is found by its first bytes. What a reader makes of the bytes that border on a
gap is its own matter.
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
"""Bytes that are decompressed at a time, at most."""
INPUT = 1 << 16
"""Bytes that are read from a compressed file at a time."""
HELD = 1 << 20
"""The last bytes of a member are given when its end has been reached and its checksum fits: damage shows behind the place where it is."""
MAX_WINDOW = 1 << 27
"""Memory in bytes that a zstd or xz file may ask for; zstd's own limit."""
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
"""Compression -> how a member begins. Sources: RFC 1952, RFC 8878, and the formats of bzip2, xz and LZ4 frames."""
_MAGIC_BYTES = 10
ENDINGS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bzip2", ".xz": "xz", ".lz4": "lz4"}
"""Ending of a file's name -> compression."""


@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """A place where something could not be read."""

    size: int
    """Bytes of the file that were passed over; 0 where a file ends too early."""
    reason: str = DAMAGED


class _Damaged(Exception):
    """A member cannot be decompressed."""


class _Torn(Exception):
    """The file ends inside a member, of which these bytes have not been given yet."""

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
    """A file that is read forward, with the bytes that were read and not used."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._left = b""
        self._read = 0

    @property
    def position(self) -> int:
        """Offset of the first byte that was not used."""
        return self._read - len(self._left)

    def seek(self, position: int) -> None:
        self._file.seek(position)
        self._left, self._read = b"", position

    def take(self) -> bytes:
        """Return bytes that follow; none at the end of the file."""
        data, self._left = self._left, b""
        if not data:
            data = self._file.read(INPUT)
            self._read += len(data)
        return data

    def give_back(self, data: bytes) -> None:
        self._left = data + self._left

    def exactly(self, size: int) -> bytes:
        """Return so many bytes.

        Raises:
            EOFError: the file ends before.
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
    """Open a file of the user's.

    Raises:
        UserError: it cannot be opened.
    """
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(
            f"got the file {path!r} ({error.strerror}); allowed: files that can be read; change its permissions or leave it out"
        ) from error


def compression_of(head: bytes) -> str:
    """Name the compression of a file that begins so; empty for none that is known."""
    return next((name for name, magic in _MAGIC.items() if magic.match(head)), "")


def chunks(path: str, compression: str, start: int = 0) -> Iterator[bytes | Gap]:
    """Read a file.

    Args:
        path: the file.
        compression: one of ENDINGS' values, or empty.
        start: where to begin, in a file that is not compressed.

    Yields:
        Its bytes in order, and a Gap for each place that cannot be read. An empty chunk stands where a member of a compressed file ends.
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
    """Return a file's first bytes, decompressed; fewer where it is damaged."""
    with open_file(path) as file:
        if not compression:
            return file.read(size)
        found = b""
        try:
            for chunk in _lz4(file) if compression == "lz4" else _MEMBER[compression](_Input(file)):
                if isinstance(chunk, Gap) or len(found) >= size:
                    break
                found += chunk
        except _ERRORS as error:
            _raise_if_of_disk(error)
        return found[:size]


def whole(path: str, compression: str, limit: int) -> bytes | Gap:
    """Read a file that is one document: at most `limit` + 1 bytes of it; a Gap if any of it is damaged."""
    parts, size = [], 0
    for chunk in chunks(path, compression):
        if isinstance(chunk, Gap):
            return Gap(os.path.getsize(path))
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            break
    return b"".join(parts)[: limit + 1]


def _members(file: BinaryIO, compression: str) -> Iterator[bytes | Gap]:
    source, member, magic = _Input(file), _MEMBER[compression], _MAGIC[compression]
    size = os.fstat(file.fileno()).st_size
    start = 0
    while start < size:
        shown = start  # up to here all has been given
        try:
            for position, chunk in _held_back(member(source), source):
                shown = position
                yield chunk
            yield b""
            start = source.position
            continue
        except _Torn as torn:
            # or a length in the member is wrong, and leads past all that follow
            following = size if shown > start else _find(file, start + 1, magic)
            if following == size:
                yield from torn.held
                yield Gap(0)
                return
        except _ERRORS as error:
            _raise_if_of_disk(error)
        start = _find(file, max(start + 1, shown), magic)
        source.seek(start)
        if not _is_padding(file, shown, start):
            yield Gap(start - shown)


def _held_back(member: Iterator[bytes], source: _Input) -> Iterator[tuple[int, bytes]]:
    """Pass a member's bytes on, the last HELD of them when it has ended or the file has; with the place up to which they were read."""
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
    """Return where the next member begins, or the file's end."""
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
    """Whether there are only zeros, which tapes and archivers put behind a member."""
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


def _bufferless(make: Callable) -> Callable[[_Input], Iterator[bytes]]:
    """Decompress by a decoder that holds its input itself, as those of bzip2 and xz do."""

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
    """Decompress block by block: a few bytes may stand for a block of 128 KiB, and the library gives all that its input holds at once."""
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


def _lz4(file: BinaryIO) -> Iterator[bytes | Gap]:
    """Read all frames; behind damage nothing is read, since the library does not say where it is."""
    with pyarrow.CompressedInputStream(file, "lz4") as stream:
        try:
            while chunk := stream.read(CHUNK):
                yield chunk
        except OSError as error:
            _raise_if_of_disk(error)
            yield Gap(0 if file.tell() == os.fstat(file.fileno()).st_size else os.fstat(file.fileno()).st_size - file.tell())


_MEMBER: dict[str, Callable[[_Input], Iterator[bytes]]] = {
    "gzip": _gzip,
    "zstd": _zstd,
    "bzip2": _bufferless(bz2.BZ2Decompressor),
    "xz": _bufferless(lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_WINDOW + (1 << 20))),
}
