"""Rows of JSON Lines files, and of JSON files that hold an array of objects or a sequence of objects."""

import codecs
import json
import re
from collections.abc import Iterator

from teleflm_jax.documents.files import BYTE_ORDER_MARK
from teleflm_jax.documents.streams import DamagedSpan

_DECODER = json.JSONDecoder(strict=False)
"""Decoder that accepts unescaped control characters in strings: JSON forbids them, but the meaning is unambiguous."""
TOO_LONG = "longer than 64 MiB"
_BETWEEN = re.compile(r"[\s,\[\]]*")


def of_lines(parts: Iterator[bytes | DamagedSpan], limit: int, start: int = 0, stop: int | None = None) -> Iterator[object]:
    """Yield the value of each line, and a DamagedSpan for each line that is not JSON.

    Args:
        parts: The file's bytes, from `start` - 1 on if `start` is not 0.
        limit: Maximum bytes of a line; a longer one becomes a DamagedSpan.
        start: Offset in the file; lines that begin before it belong to another range.
        stop: Offset in the file; lines that begin there or later belong to another range.
    """
    for line in _lines(parts, limit, start, stop):
        if isinstance(line, DamagedSpan):
            yield line
        elif line and not line.isspace():
            yield _value(line)


def of_values(parts: Iterator[bytes | DamagedSpan], limit: int) -> Iterator[object]:
    """Yield the values of a JSON file; after an error, one DamagedSpan for the rest, because only parsing finds the end of a value."""
    decoder, text, position, is_over = codecs.getincrementaldecoder("utf-8-sig")(), "", 0, False
    while True:
        between = _BETWEEN.match(text, position)
        assert between is not None  # it matches an empty text as well
        position = between.end()
        if position < len(text):
            try:
                value, position = _DECODER.raw_decode(text, position)
                yield value
                continue
            except (ValueError, RecursionError):
                if is_over or len(text) - position > limit:
                    yield _rest(text[position:], 0, parts, "not JSON" if is_over else TOO_LONG)
                    return
        elif is_over:
            return
        text, position = text[position:], 0
        wanted = 2 * len(text)
        while len(text) <= wanted and not is_over:
            part = next(parts, None)
            is_over = part is None
            if isinstance(part, DamagedSpan):
                yield _rest(text, part.size, parts, part.reason)
                return
            try:
                text += decoder.decode(part or b"", is_over)
            except UnicodeDecodeError:
                yield _rest(text, len(part or b""), parts, "not UTF-8")
                return


def _rest(text: str, size: int, parts: Iterator[bytes | DamagedSpan], reason: str) -> DamagedSpan:
    rest = sum(part.size if isinstance(part, DamagedSpan) else len(part) for part in parts)
    return DamagedSpan(len(text.encode("utf-8", "replace")) + size + rest, reason)


def _value(line: bytes) -> object:
    try:
        return _DECODER.decode(line.decode())
    except UnicodeDecodeError:
        return DamagedSpan(len(line) + 1, "not UTF-8")
    except (ValueError, RecursionError):
        bare = line.strip(b"\0")  # a hole in a sparse file reads as zeros
        return _value(bare) if bare and bare != line else DamagedSpan(len(line) + 1, "not JSON")


def _lines(parts: Iterator[bytes | DamagedSpan], limit: int, start: int, stop: int | None) -> Iterator[bytes | DamagedSpan]:
    """Yield lines without their line ends; next to a damaged span, only lines that look complete."""
    held: list[bytes] = []
    size = 0  # bytes of the current line so far
    position = start - 1 if start else 0  # offset of the current line
    belongs_to_previous, damage = bool(start), None

    def ended() -> Iterator[bytes | DamagedSpan]:
        nonlocal damage
        line = b"".join(held)
        if damage:
            is_torn = not line.startswith(b"{")
            yield DamagedSpan(damage.size + (size if is_torn else 0), damage.reason)
            damage = None
            if is_torn:
                return
        if size > limit:
            yield DamagedSpan(size, TOO_LONG)
        else:
            yield line if position else line.removeprefix(BYTE_ORDER_MARK)

    for part in parts:
        if isinstance(part, DamagedSpan):
            is_whole = bool(held) and held[-1].rstrip().endswith(b"}")
            left = 0 if is_whole or damage else size
            if is_whole or damage:
                yield from ended()
            damage = DamagedSpan(part.size + left, part.reason)
            held, size = [], 0
            continue
        *ends, last = part.split(b"\n")
        for end in ends:
            if not (held or damage or belongs_to_previous) and position and stop is None and size + len(end) <= limit:
                position += len(end) + 1
                yield end  # the common case
                continue
            held.append(end)
            size += len(end)
            if stop is not None and position >= stop:
                return
            if not belongs_to_previous:
                yield from ended()
            belongs_to_previous = False
            position += size + 1
            held, size = [], 0
        size += len(last)
        if size > limit:
            held = []
        elif last:
            held.append(last)
    if (size or damage) and not belongs_to_previous and (stop is None or position < stop):
        yield from ended()
