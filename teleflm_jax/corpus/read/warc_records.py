"""Splitting of WARC and ARC files into records by their lengths; a damaged record or a wrong length loses only that record.

A length is right if it ends at another record or at the end of the file. If it is wrong, the next record is found by its first line.
"""

import dataclasses
import re
from collections.abc import Generator, Iterator

from teleflm_jax.documents.streams import DamagedSpan

MAX_HEADERS = 1 << 16
"""Maximum bytes of a record's headers."""
_LINE = 4096
"""Bytes that suffice to recognize the start of a record."""
_BETWEEN = re.compile(rb"[\r\n]*")


@dataclasses.dataclass(frozen=True, slots=True)
class RecordFormat:
    """Syntax of the records of a format."""

    begins: re.Pattern[bytes]
    headers_end: re.Pattern[bytes]
    """End of the headers; its group is empty if another record starts there."""
    length: re.Pattern[bytes]
    """Length of the content, in the headers."""
    terminator: bytes
    """Bytes after a record's content that rarely follow anything else; empty if the format has none."""
    wanted: re.Pattern[bytes]
    """Pattern in the headers of the records to read."""


WARC = RecordFormat(
    begins=re.compile(rb"WARC/[01]\.[0-9]{1,3}\r?\n(?=[A-Za-z])"),
    headers_end=re.compile(rb"\r?\n(?:(\r?\n)|(?=WARC/[01]\.))"),
    length=re.compile(rb"^content-length:[ \t]*([0-9]{1,18})[ \t]*\r?$", re.MULTILINE | re.IGNORECASE),
    terminator=b"\r\n\r\n",
    wanted=re.compile(rb"^warc-type:[ \t]*(?:response|resource|conversion)\b", re.MULTILINE | re.IGNORECASE),
)
"""Source: ISO 28500."""
ARC = RecordFormat(
    begins=re.compile(
        rb"[a-z][a-z0-9+.-]{1,20}:[^ \r\n]{1,3000} [0-9A-Fa-f.:]{2,45} [0-9]{8,14} [^ \r\n]{1,200} (?:[^\r\n]{1,500} )?[0-9]{1,18}\r?\n"
    ),
    headers_end=re.compile(rb"(\n)"),
    length=re.compile(rb" ([0-9]{1,18})\r?\n"),
    terminator=b"",
    wanted=re.compile(rb""),
)
"""The header is a line of URL, IP address, date, type and, last, length. Source: the Internet Archive's description of ARC files."""


@dataclasses.dataclass(frozen=True, slots=True)
class RawRecord:
    """A record with headers, content and terminator; a long record is cut."""

    offset: int
    """Offset in the decompressed file."""
    data: bytes


class _Segment:
    """Contiguous bytes up to the next damaged span, or to the end of a gzip member or zstd frame that a record follows."""

    def __init__(self, parts: Iterator[bytes | DamagedSpan], form: RecordFormat):
        self.held, self.at, self.form = b"", 0, form
        self.damage: DamagedSpan | None = None
        self._parts, self._next, self._is_over, self._is_ended = parts, b"", False, False
        self._begins_at = 0

    @property
    def offset(self) -> int:
        """Offset of `at` in the file."""
        return self._begins_at + self.at

    @property
    def left(self) -> int:
        """Number of buffered bytes from `at` on."""
        return len(self.held) - self.at

    def begin(self) -> bool:
        """Go to the next segment; return False if there is none."""
        self._begins_at += len(self.held)
        self.held, self.at, self.damage, self._next, self._is_ended = self._next, 0, None, b"", self._is_over
        return bool(self.held) or not self._is_over

    def fill(self, size: int) -> bool:
        """Buffer `size` bytes from `at` on; return False if there are fewer."""
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
        """Advance by `size` bytes, at most to the end of the segment."""
        while size > self.left:
            size -= self.left
            self.at = len(self.held)
            if not self.fill(1):
                return
        self.at += size

    def _more(self) -> bytes:
        """Return more bytes; empty at the end of the segment."""
        is_border = False
        while not self._is_ended:
            part = next(self._parts, None)
            if part is None:
                self._is_over = self._is_ended = True
            elif isinstance(part, DamagedSpan):
                self.damage, self._is_ended = part, True
            elif is_border and self.form.begins.match(part):
                self._next, self._is_ended = part, True
            elif part:
                return part
            else:
                is_border = True
        return b""


def records(parts: Iterator[bytes | DamagedSpan], form: RecordFormat, limit: int, size: int | None) -> Iterator[RawRecord | DamagedSpan]:
    """Split a file into records.

    Args:
        parts: Chunks of the file.
        form: WARC or ARC.
        limit: Maximum bytes of a record; the rest of a longer record is skipped.
        size: Size of the file, if it is not compressed.

    Yields:
        The records, and a DamagedSpan for each part that is not a record.
    """
    segment = _Segment(parts, form)
    while segment.begin():
        torn = yield from _segment_records(segment, limit, size)
        if segment.damage:
            yield DamagedSpan(segment.damage.size + torn, segment.damage.reason)
        elif torn:
            yield DamagedSpan(torn)


def _segment_records(segment: _Segment, limit: int, size: int | None) -> Generator[RawRecord | DamagedSpan, None, int]:
    """Yield the records of a segment; return the number of bytes at its end that belong to no record."""
    form = segment.form
    while True:
        segment.at = _behind_line_ends(segment.held, segment.at)
        if not segment.left:
            if segment.fill(1):
                continue
            return 0
        headers = _headers(segment)
        length = form.length.search(segment.held, segment.at, segment.at + headers)
        whole = headers + int(length[1]) if length else 0
        if whole and (size is None or segment.offset + whole <= size):
            is_wanted = form.wanted.search(segment.held, segment.at, segment.at + headers)
            if whole > limit:
                segment.fill(limit)
                record, end = RawRecord(segment.offset, segment.held[segment.at : segment.at + limit]), segment.offset + whole
                segment.skip(whole)  # the record is not buffered, so a wrong length cannot be corrected
                if segment.offset < end:
                    return segment.offset - record.offset
                if is_wanted:
                    yield record
                continue
            if segment.fill(whole) and _is_followed(segment, whole):
                if is_wanted:  # including the terminator, which avoids copying a member's bytes
                    yield RawRecord(segment.offset, segment.held[segment.at : segment.at + whole + len(form.terminator)])
                segment.at += whole
                continue
        lost = _skip_to_next(segment)
        if not segment.left:
            return lost
        yield DamagedSpan(lost)


def _headers(segment: _Segment) -> int:
    """Return the size of the headers of the record at this position; 0 if there is none."""
    segment.fill(_LINE)
    if not segment.form.begins.match(segment.held, segment.at):
        return 0
    for size in (_LINE, MAX_HEADERS):
        segment.fill(size)
        if found := segment.form.headers_end.search(segment.held, segment.at, segment.at + size):
            return found.end() - segment.at if found[1] else 0
    return 0


def _is_followed(segment: _Segment, size: int) -> bool:
    """Return True if a terminator, another record or the end of the segment follows these bytes."""
    terminator = segment.form.terminator
    segment.fill(size + len(terminator))
    if terminator and segment.held.startswith(terminator, segment.at + size):
        return True
    segment.fill(size + _LINE)
    end = _behind_line_ends(segment.held, segment.at + size)
    return end == len(segment.held) or bool(segment.form.begins.match(segment.held, end))


def _behind_line_ends(held: bytes, at: int) -> int:
    """Return the position after line ends, which may separate records."""
    line_ends = _BETWEEN.match(held, at)
    assert line_ends is not None  # it matches an empty text as well
    return line_ends.end()


def _skip_to_next(segment: _Segment) -> int:
    """Advance to the next record or the end of the segment; return the number of bytes skipped."""
    start = segment.offset
    segment.at += 1
    while True:
        for found in segment.form.begins.finditer(segment.held, segment.at):
            # a match inside a line is part of a text
            if segment.held[found.start() - 1 : found.start()] == b"\n":
                segment.at = found.start()
                return segment.offset - start
        segment.at = max(segment.at, len(segment.held) - _LINE)
        if not segment.fill(segment.left + 1):
            segment.at = len(segment.held)
            return segment.offset - start
