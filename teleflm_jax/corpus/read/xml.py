"""XML dumps, element by element: one that is damaged costs itself.

`<` stands in XML for nothing but the beginning of a tag, so elements are found by their names as bytes, and each is parsed alone. What a
file declares before the first one, entities too, is not parsed: none can unfold, and one that is used is an error of its element.
"""

import codecs
import re
from collections.abc import Callable, Iterator
from typing import TypeVar
from xml.parsers import expat

from teleflm_jax.corpus.read import LONGEST
from teleflm_jax.documents.statistics import Tally
from teleflm_jax.documents.streams import CHUNK, DAMAGED, Gap

TOO_LONG = f"longer than {LONGEST >> 20} MiB"
ROOM = 1 << 20
"""Bytes of an element besides its text."""
MAX_DEPTH = 16
"""Of elements inside one another; a dump has five."""
MENDED = "characters that XML forbids taken out"
_TAIL = 64
"""Bytes that are kept of what is passed over: a tag may have begun in them."""
_ENCODING = re.compile(rb"\s*<\?xml[^>]{0,100}\bencoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']")
_CLOSED = re.compile(rb"</[^<>]*>\s*\Z")
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]")
_REFERENCE = re.compile(rb"&#(?:x([0-9A-Fa-f]{1,9})|([0-9]{1,9}));")
_Parsed = TypeVar("_Parsed")


def elements(parts: Iterator[bytes | Gap], name: str, path: str, tally: Tally, too_long: str = TOO_LONG) -> Iterator[bytes]:
    """Yield what stands before the first element, and then the elements.

    Args:
        parts: the file.
        name: of the elements.
        path: what the file is called.
        tally: counts what is no whole element.
        too_long: the reason why an element of more than `LONGEST` and `ROOM` bytes is passed over.
    """
    spans = _spans(_as_utf8(parts), name.encode(), too_long)
    head = next(spans)
    assert isinstance(head, bytes)  # what stands before the first element, maybe nothing
    yield head
    is_empty = True
    for span in spans:
        is_empty = False
        element = span if isinstance(span, Gap) else _whole(span, name.encode())
        if isinstance(element, Gap):
            tally.drop(element.reason, path, "", element.size)
        else:
            yield element
    if is_empty:
        tally.drop(DAMAGED, path, head)


def encoding_of(head: bytes) -> str | None:
    """Return the character set that a file declares; None for UTF-8."""
    found = _ENCODING.match(head.removeprefix(codecs.BOM_UTF8))
    return found[1].decode() if found and not found[1].lower().startswith(b"utf") else None


def refuse(*_: object) -> None:
    """Refuse declarations, which may give attributes values of any length and entities that unfold.

    Raises:
        ValueError: always.
    """
    raise ValueError("a declaration in an element")


def parsed(element: bytes, parse: Callable[[bytes], _Parsed], path: str, tally: Tally) -> _Parsed | None:
    """Parse an element; None if it is damaged, which is counted.

    Characters that XML forbids, as such or as references, cost no more than themselves.
    """
    try:
        return parse(element)
    except (expat.ExpatError, ValueError, LookupError):
        bare, count = _without_forbidden(element)
    if count:
        try:
            found = parse(bare)
        except (expat.ExpatError, ValueError, LookupError):
            pass
        else:
            tally.changed[MENDED].add(count, len(element) - len(bare))
            return found
    tally.drop(DAMAGED, path, element)
    return None


def _without_forbidden(element: bytes) -> tuple[bytes, int]:
    """Take characters out that XML forbids, and references to such; return how many there were, too."""
    count = 0

    def checked(reference: re.Match[bytes]) -> bytes:
        nonlocal count
        point = int(reference[1], 16) if reference[1] else int(reference[2])
        allowed = point in (9, 10, 13) or 0x20 <= point < 0xD800 or 0xE000 <= point < 0xFFFE or 0x10000 <= point < 0x110000
        count += not allowed
        return reference[0] if allowed else b""

    bare, found = _FORBIDDEN.subn(b"", element)
    bare = _REFERENCE.sub(checked, bare)
    return bare, count + found


def _whole(span: bytes, name: bytes) -> bytes | Gap:
    """Return the element that a span begins with: up to its end tag, or one tag alone."""
    closing = b"</%s>" % name
    end = span.find(closing)
    if end >= 0:
        return span[: end + len(closing)]
    end = span.find(b"<", 1)
    tag = (span if end < 0 else span[:end]).rstrip()
    return tag if tag.endswith(b"/>") else Gap(len(span))


def _spans(parts: Iterator[bytes | Gap], name: bytes, too_long: str) -> Iterator[bytes | Gap]:
    """Yield the file from its beginning to the first element, then from each one's beginning to the next one's, and what is lost."""
    begins = re.compile(rb"<%s(?=[\s/>])" % name)
    held, searched = b"", 0
    is_head, gap = True, None  # a gap goes on until an element begins
    for part in parts:
        if isinstance(part, Gap):
            left = 0
            if gap:
                yield Gap(gap.size + len(held), gap.reason)
            elif is_head or not isinstance(_whole(held, name), Gap):
                yield held
            else:
                left = len(held)
            held, searched, is_head, gap = b"", 0, False, Gap(part.size + left, part.reason)
            continue
        held += part
        last = 0
        for begin in begins.finditer(held, searched):
            yield Gap(gap.size + begin.start(), gap.reason) if gap else held[last : begin.start()]
            last, is_head, gap = begin.start(), False, None
        held = held[last:]
        if not gap and len(held) > LONGEST + ROOM:
            gap = Gap(0, DAMAGED if is_head else too_long)
            if is_head:
                yield b""
                is_head = False
        if gap:
            gap, held = Gap(gap.size + max(0, len(held) - _TAIL), gap.reason), held[-_TAIL:]
        searched = max(0 if is_head or gap else 1, len(held) - _TAIL)
    is_closed = bool(_CLOSED.search(held.rstrip()[-_TAIL:]))
    is_whole = not gap and not is_head and not isinstance(_whole(held, name), Gap)
    yield Gap(gap.size + len(held), gap.reason) if gap else held
    if not is_closed and (is_whole or (gap and gap.reason != DAMAGED)):
        yield Gap(0)


def _as_utf8(parts: Iterator[bytes | Gap]) -> Iterator[bytes | Gap]:
    """Join small parts, and decode UTF-16 where a file begins with its mark."""
    decoder = None
    held: list[bytes] = []
    size, is_first = 0, True
    for part in parts:
        if isinstance(part, Gap):
            yield b"".join(held)
            yield part
            held, size = [], 0
            continue
        if is_first and part:
            is_first = False
            if part.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                decoder = codecs.getincrementaldecoder("utf-16")("replace")
        held.append(decoder.decode(part).encode() if decoder else part)
        size += len(part)
        if size >= CHUNK:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)
