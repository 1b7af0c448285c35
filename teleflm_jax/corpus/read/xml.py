"""Splitting of XML dumps into elements; a damaged element loses only itself.

In XML, `<` occurs only at the start of a tag, so elements are found by their names as bytes, and each is parsed separately. Declarations
before the first element, including entities, are not parsed: no entity can expand, and using one is an error of its element.
"""

import codecs
import re
from collections.abc import Callable, Iterator
from typing import TypeVar
from xml.parsers import expat

from teleflm_jax.corpus.read import LONGEST
from teleflm_jax.documents.statistics import Statistics
from teleflm_jax.documents.streams import CHUNK, DAMAGED, DamagedSpan

TOO_LONG = f"longer than {LONGEST >> 20} MiB"
ROOM = 1 << 20
"""Maximum bytes of an element in addition to its text."""
MAX_DEPTH = 16
"""Maximum nesting of elements; dumps have five levels."""
REPAIRED = "characters that XML forbids taken out"
_TAIL = 64
"""Bytes that are kept of skipped data, because a tag may start in them."""
_ENCODING = re.compile(rb"\s*<\?xml[^>]{0,100}\bencoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']")
_CLOSED = re.compile(rb"</[^<>]*>\s*\Z")
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]")
_REFERENCE = re.compile(rb"&#(?:x([0-9A-Fa-f]{1,9})|([0-9]{1,9}));")
_Parsed = TypeVar("_Parsed")


def elements(
    parts: Iterator[bytes | DamagedSpan], name: str, path: str, statistics: Statistics, too_long: str = TOO_LONG
) -> Iterator[bytes]:
    """Yield the data before the first element, and then the elements.

    Args:
        parts: Chunks of the file.
        name: Name of the elements.
        path: Name of the file in statistics.
        statistics: Counts damaged elements.
        too_long: Reason to count elements of more than `LONGEST` + `ROOM` bytes.
    """
    spans = _spans(_as_utf8(parts), name.encode(), too_long)
    head = next(spans)
    assert isinstance(head, bytes)  # text before the first element, possibly empty
    yield head
    is_empty = True
    for span in spans:
        is_empty = False
        element = span if isinstance(span, DamagedSpan) else _whole(span, name.encode())
        if isinstance(element, DamagedSpan):
            statistics.drop(element.reason, path, "", element.size)
        else:
            yield element
    if is_empty:
        statistics.drop(DAMAGED, path, head)


def encoding_of(head: bytes) -> str | None:
    """Return the declared character set of a file; None for UTF-8."""
    found = _ENCODING.match(head.removeprefix(codecs.BOM_UTF8))
    return found[1].decode() if found and not found[1].lower().startswith(b"utf") else None


def refuse(*_: object) -> None:
    """Refuse declarations, which may define attributes of any length and entities that expand.

    Raises:
        ValueError: Always.
    """
    raise ValueError("a declaration in an element")


def parsed(element: bytes, parse: Callable[[bytes], _Parsed], path: str, statistics: Statistics) -> _Parsed | None:
    """Parse an element; count a damaged one and return None.

    Characters that XML forbids, literal or as references, are removed, and the rest of the element is kept.
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
            statistics.changed[REPAIRED].add(count, len(element) - len(bare))
            return found
    statistics.drop(DAMAGED, path, element)
    return None


def _without_forbidden(element: bytes) -> tuple[bytes, int]:
    """Remove characters that XML forbids and references to them; return the result and their number."""
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


def _whole(span: bytes, name: bytes) -> bytes | DamagedSpan:
    """Return the element at the start of a span, up to its end tag, or a single self-closing tag."""
    closing = b"</%s>" % name
    end = span.find(closing)
    if end >= 0:
        return span[: end + len(closing)]
    end = span.find(b"<", 1)
    tag = (span if end < 0 else span[:end]).rstrip()
    return tag if tag.endswith(b"/>") else DamagedSpan(len(span))


def _spans(parts: Iterator[bytes | DamagedSpan], name: bytes, too_long: str) -> Iterator[bytes | DamagedSpan]:
    """Yield the data before the first element, then the data from each element to the next, and a DamagedSpan for lost data."""
    begins = re.compile(rb"<%s(?=[\s/>])" % name)
    held, searched = b"", 0
    is_head, damage = True, None  # damage lasts until an element begins
    for part in parts:
        if isinstance(part, DamagedSpan):
            left = 0
            if damage:
                yield DamagedSpan(damage.size + len(held), damage.reason)
            elif is_head or not isinstance(_whole(held, name), DamagedSpan):
                yield held
            else:
                left = len(held)
            held, searched, is_head, damage = b"", 0, False, DamagedSpan(part.size + left, part.reason)
            continue
        held += part
        last = 0
        for begin in begins.finditer(held, searched):
            yield DamagedSpan(damage.size + begin.start(), damage.reason) if damage else held[last : begin.start()]
            last, is_head, damage = begin.start(), False, None
        held = held[last:]
        if not damage and len(held) > LONGEST + ROOM:
            damage = DamagedSpan(0, DAMAGED if is_head else too_long)
            if is_head:
                yield b""
                is_head = False
        if damage:
            damage, held = DamagedSpan(damage.size + max(0, len(held) - _TAIL), damage.reason), held[-_TAIL:]
        searched = max(0 if is_head or damage else 1, len(held) - _TAIL)
    is_closed = bool(_CLOSED.search(held.rstrip()[-_TAIL:]))
    is_whole = not damage and not is_head and not isinstance(_whole(held, name), DamagedSpan)
    yield DamagedSpan(damage.size + len(held), damage.reason) if damage else held
    if not is_closed and (is_whole or (damage and damage.reason != DAMAGED)):
        yield DamagedSpan(0)


def _as_utf8(parts: Iterator[bytes | DamagedSpan]) -> Iterator[bytes | DamagedSpan]:
    """Join small parts, and decode UTF-16 if the file starts with its byte order mark."""
    decoder = None
    held: list[bytes] = []
    size, is_first = 0, True
    for part in parts:
        if isinstance(part, DamagedSpan):
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
