"""Records of WARC and ARC files, cut out by their lengths: one that is damaged, or whose length is wrong, costs itself.

A length is right if a record, or nothing, follows what it says. Where it is wrong, the next record is found by how records begin.
"""

import dataclasses
import re
from collections.abc import Generator, Iterator

from teleflm_jax.documents.streams import Gap

MAX_HEADERS = 1 << 16
"""Bytes of a record's own headers."""
_LINE = 4096
"""Bytes from which it can be told whether a record begins."""
_BETWEEN = re.compile(rb"[\r\n]*")


@dataclasses.dataclass(frozen=True, slots=True)
class Format:
    """How records are written."""

    begins: re.Pattern[bytes]
    headers_end: re.Pattern[bytes]
    """With a group, or without it where another record's headers begin."""
    length: re.Pattern[bytes]
    """Of the content, in the headers."""
    terminator: bytes
    """What follows a record's content and can hardly follow anything else; empty: nothing that is so clear."""
    wanted: re.Pattern[bytes]
    """In the headers of records that are read."""


WARC = Format(
    begins=re.compile(rb"WARC/[01]\.[0-9]{1,3}\r?\n(?=[A-Za-z])"),
    headers_end=re.compile(rb"\r?\n(?:(\r?\n)|(?=WARC/[01]\.))"),
    length=re.compile(rb"^content-length:[ \t]*([0-9]{1,18})[ \t]*\r?$", re.MULTILINE | re.IGNORECASE),
    terminator=b"\r\n\r\n",
    wanted=re.compile(rb"^warc-type:[ \t]*(?:response|resource|conversion)\b", re.MULTILINE | re.IGNORECASE),
)
"""Source: ISO 28500."""
ARC = Format(
    begins=re.compile(
        rb"[a-z][a-z0-9+.-]{1,20}:[^ \r\n]{1,3000} [0-9A-Fa-f.:]{2,45} [0-9]{8,14} [^ \r\n]{1,200} (?:[^\r\n]{1,500} )?[0-9]{1,18}\r?\n"
    ),
    headers_end=re.compile(rb"(\n)"),
    length=re.compile(rb" ([0-9]{1,18})\r?\n"),
    terminator=b"",
    wanted=re.compile(rb""),
)
"""A line with address, IP address, date, type and, last, length. Source: the Internet Archive's description of ARC files."""


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A record: its headers, its content and its end; of a long one the beginning."""

    offset: int
    """Where it begins in the file, decompressed."""
    data: bytes


class _Stretch:
    """Bytes without a gap between them: to the next gap, or to the end of a gzip member or zstd frame that a record follows."""

    def __init__(self, parts: Iterator[bytes | Gap], form: Format):
        self.held, self.at, self.form = b"", 0, form
        self.gap: Gap | None = None
        self._parts, self._next, self._is_over, self._is_ended = parts, b"", False, False
        self._begins_at = 0

    @property
    def offset(self) -> int:
        """Where in the file `at` is."""
        return self._begins_at + self.at

    @property
    def left(self) -> int:
        """Bytes that are held from `at` on."""
        return len(self.held) - self.at

    def begin(self) -> bool:
        """Go to the next stretch; False if there is none."""
        self._begins_at += len(self.held)
        self.held, self.at, self.gap, self._next, self._is_ended = self._next, 0, None, b"", self._is_over
        return bool(self.held) or not self._is_over

    def fill(self, size: int) -> bool:
        """Hold so many bytes from `at` on; False if there are fewer."""
        if self.left >= size:
            return True
        parts, found = [self.held[self.at :]], self.left
        while found < size and (part := self._more()):
            parts.append(part)
            found += len(part)
        self._begins_at += self.at
        self.held, self.at = b"".join(parts), 0
        return found >= size

    def skip(self, size: int) -> None:
        """Go on behind these bytes, or at the stretch's end."""
        while size > self.left:
            size -= self.left
            self.at = len(self.held)
            if not self.fill(1):
                return
        self.at += size

    def _more(self) -> bytes:
        """Return more bytes; none at the stretch's end."""
        is_border = False
        while not self._is_ended:
            part = next(self._parts, None)
            if part is None:
                self._is_over = self._is_ended = True
            elif isinstance(part, Gap):
                self.gap, self._is_ended = part, True
            elif is_border and self.form.begins.match(part):
                self._next, self._is_ended = part, True
            elif part:
                return part
            else:
                is_border = True
        return b""


def records(parts: Iterator[bytes | Gap], form: Format, limit: int, size: int | None) -> Iterator[Record | Gap]:
    """Cut a file into records.

    Args:
        parts: the file.
        form: WARC or ARC.
        limit: bytes of a record that are needed; what follows them in a longer one is passed over.
        size: of a file that is not compressed.

    Yields:
        Its records, and a Gap for each place that is none.
    """
    stretch = _Stretch(parts, form)
    while stretch.begin():
        torn = yield from _of_stretch(stretch, limit, size)
        if stretch.gap:
            yield Gap(stretch.gap.size + torn, stretch.gap.reason)
        elif torn:
            yield Gap(torn)


def _of_stretch(stretch: _Stretch, limit: int, size: int | None) -> Generator[Record | Gap, None, int]:
    """Yield the records of a stretch; return how many bytes at its end are of none."""
    form = stretch.form
    while True:
        stretch.at = _behind_space(stretch.held, stretch.at)
        if not stretch.left:
            if stretch.fill(1):
                continue
            return 0
        headers = _headers(stretch)
        length = form.length.search(stretch.held, stretch.at, stretch.at + headers)
        whole = headers + int(length[1]) if length else 0
        if whole and (size is None or stretch.offset + whole <= size):
            is_wanted = form.wanted.search(stretch.held, stretch.at, stretch.at + headers)
            if whole > limit:
                stretch.fill(limit)
                record, end = Record(stretch.offset, stretch.held[stretch.at : stretch.at + limit]), stretch.offset + whole
                stretch.skip(whole)  # it must not be held, so there is no way back if its length is wrong
                if stretch.offset < end:
                    return stretch.offset - record.offset
                if is_wanted:
                    yield record
                continue
            if stretch.fill(whole) and _is_followed(stretch, whole):
                if is_wanted:  # with its end, since a member's bytes need not be copied then
                    yield Record(stretch.offset, stretch.held[stretch.at : stretch.at + whole + len(form.terminator)])
                stretch.at += whole
                continue
        lost = _to_next(stretch)
        if not stretch.left:
            return lost
        yield Gap(lost)


def _headers(stretch: _Stretch) -> int:
    """Return how many bytes the headers of a record are; 0 if none begins here."""
    stretch.fill(_LINE)
    if not stretch.form.begins.match(stretch.held, stretch.at):
        return 0
    for size in (_LINE, MAX_HEADERS):
        stretch.fill(size)
        if found := stretch.form.headers_end.search(stretch.held, stretch.at, stretch.at + size):
            return found.end() - stretch.at if found[1] else 0
    return 0


def _is_followed(stretch: _Stretch, size: int) -> bool:
    """Whether a record's end, another record or nothing follows these bytes."""
    terminator = stretch.form.terminator
    stretch.fill(size + len(terminator))
    if terminator and stretch.held.startswith(terminator, stretch.at + size):
        return True
    stretch.fill(size + _LINE)
    end = _behind_space(stretch.held, stretch.at + size)
    return end == len(stretch.held) or bool(stretch.form.begins.match(stretch.held, end))


def _behind_space(held: bytes, at: int) -> int:
    """Return the place behind what may stand between records."""
    space = _BETWEEN.match(held, at)
    assert space is not None  # it matches nothing as well
    return space.end()


def _to_next(stretch: _Stretch) -> int:
    """Go on where the next record begins, or at the stretch's end; return how many bytes that was."""
    start = stretch.offset
    stretch.at += 1
    while True:
        for found in stretch.form.begins.finditer(stretch.held, stretch.at):
            # what is no line's beginning is a word in a text
            if stretch.held[found.start() - 1 : found.start()] == b"\n":
                stretch.at = found.start()
                return stretch.offset - start
        stretch.at = max(stretch.at, len(stretch.held) - _LINE)
        if not stretch.fill(stretch.left + 1):
            stretch.at = len(stretch.held)
            return stretch.offset - start
