"""Records of WARC files, cut out by their lengths: one that is damaged, or whose length is wrong, costs itself.

A length is right if a record, or nothing, follows what it says. Where it is wrong, the next record is found by how records begin.
"""

import dataclasses
import re
from collections.abc import Generator, Iterator

from teleflm_jax.corpus.streams import Gap

MAX_HEADERS = 1 << 16
"""Bytes of a record's own headers."""
_BEGINS = re.compile(rb"WARC/[01]\.[0-9]{1,3}\r?\n(?=[A-Za-z])")
_LENGTH = re.compile(rb"^content-length:[ \t]*([0-9]{1,18})[ \t]*\r?$", re.MULTILINE | re.IGNORECASE)
_END_OF_HEADERS = re.compile(rb"\r?\n\r?\n")
_BETWEEN = re.compile(rb"[\r\n]*")


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A record: its headers and its content, of a long one the beginning."""

    offset: int
    """Where it begins in the file, decompressed."""
    data: bytes


class _Stretch:
    """Bytes without a gap between them: to the next gap, or to the end of a gzip member or zstd frame that a record follows."""

    def __init__(self, parts: Iterator[bytes | Gap]):
        self.held, self.offset = bytearray(), 0
        self.gap: Gap | None = None
        self._parts, self._next, self._is_over, self._is_ended = parts, b"", False, False

    def begin(self) -> bool:
        """Go to the next stretch; False if there is none."""
        self.held, self.gap, self._next, self._is_ended = bytearray(self._next), None, b"", self._is_over
        return bool(self.held) or not self._is_over

    def more(self) -> bool:
        """Hold more bytes; False at the stretch's end."""
        is_border = False
        while not self._is_ended:
            part = next(self._parts, None)
            if part is None:
                self._is_over = self._is_ended = True
            elif isinstance(part, Gap):
                self.gap, self._is_ended = part, True
            elif is_border and _BEGINS.match(part):
                self._next, self._is_ended = part, True
            elif part:
                self.held += part
                return True
            else:
                is_border = True
        return False

    def fill(self, size: int) -> bool:
        """Hold so many bytes; False if there are fewer."""
        while len(self.held) < size:
            if not self.more():
                return False
        return True

    def drop(self, size: int) -> None:
        """Go on behind these bytes."""
        while size > len(self.held):
            size -= len(self.held)
            self.offset += len(self.held)
            self.held.clear()
            if not self.more():
                return
        self.offset += size
        del self.held[:size]


def records(parts: Iterator[bytes | Gap], limit: int, size: int | None) -> Iterator[Record | Gap]:
    """Cut a file into records.

    Args:
        parts: the file.
        limit: bytes of a record that are needed; what follows them in a longer one is passed over.
        size: of a file that is not compressed.

    Yields:
        Its records, and a Gap for each place that is none.
    """
    stretch = _Stretch(parts)
    while stretch.begin():
        torn = yield from _of_stretch(stretch, limit, size)
        if stretch.gap:
            yield Gap(stretch.gap.size + torn, stretch.gap.reason)
        elif torn:
            yield Gap(torn)


def _of_stretch(stretch: _Stretch, limit: int, size: int | None) -> Generator[Record | Gap, None, int]:
    """Yield the records of a stretch; return how many bytes at its end are of none."""
    while True:
        stretch.drop(_BETWEEN.match(stretch.held).end())
        if not stretch.held:
            if stretch.more():
                continue
            return 0
        end = _end_of_headers(stretch)
        length = _LENGTH.search(stretch.held, 0, end)
        whole = end + int(length[1]) if length else 0
        if whole and (size is None or stretch.offset + whole <= size):
            is_long = whole > limit
            stretch.fill(min(whole, limit) if is_long else whole + 4)
            record = Record(stretch.offset, bytes(stretch.held[: min(whole, limit)]))
            if is_long:
                # it must not be held, so there is no way back if its length is wrong
                stretch.drop(whole)
                if stretch.offset == record.offset + whole:
                    yield record
                    continue
                return stretch.offset - record.offset
            if len(stretch.held) >= whole and _is_followed(stretch, whole):
                yield record
                stretch.drop(whole)
                continue
        lost = _to_next(stretch)
        if not stretch.held:
            return lost
        yield Gap(lost)


def _end_of_headers(stretch: _Stretch) -> int:
    """Return where a record's content begins; 0 if there is no record here."""
    stretch.fill(_BEGINS.groups + 16)
    if not _BEGINS.match(stretch.held):
        return 0
    at = 0
    while True:
        found = _END_OF_HEADERS.search(stretch.held, max(0, at - 4), MAX_HEADERS)
        if found:
            return found.end()
        at = len(stretch.held)
        if at >= MAX_HEADERS or not stretch.more():
            return 0


def _is_followed(stretch: _Stretch, end: int) -> bool:
    """Whether a record's end, another record or nothing follows."""
    if stretch.held.startswith(b"\r\n\r\n", end):
        return True
    at = _BETWEEN.match(stretch.held, end).end()
    while at + 16 > len(stretch.held) and stretch.more():
        at = _BETWEEN.match(stretch.held, end).end()
    return at == len(stretch.held) or bool(_BEGINS.match(stretch.held, at))


def _to_next(stretch: _Stretch) -> int:
    """Go on where the next record begins, or at the stretch's end; return how many bytes that was."""
    lost, at = 0, 1
    while True:
        found = _BEGINS.search(stretch.held, at)
        # the bytes of a record stand behind the end of another's, so that a word in a text begins none
        if found and stretch.held[found.start() - 1 : found.start()] == b"\n":
            stretch.drop(found.start())
            return lost + found.start()
        if found:
            at = found.end()
            continue
        passed = max(0, len(stretch.held) - 64)
        stretch.drop(passed)
        lost, at = lost + passed, 1
        if not stretch.more():
            lost += len(stretch.held)
            stretch.drop(len(stretch.held))
            return lost
