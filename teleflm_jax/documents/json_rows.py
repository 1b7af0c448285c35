"""Rows of JSON Lines, and of JSON files that hold an array of objects or one object after another."""

import codecs
import json
import re
from collections.abc import Iterator

from teleflm_jax.documents.files import BYTE_ORDER_MARK
from teleflm_jax.documents.streams import Gap

_DECODER = json.JSONDecoder(strict=False)
"""It lets control characters stand in strings, where JSON wants them escaped: what is meant is not in doubt."""
TOO_LONG = "longer than 64 MiB"
_BETWEEN = re.compile(r"[\s,\[\]]*")


def of_lines(parts: Iterator[bytes | Gap], limit: int, start: int = 0, stop: int | None = None) -> Iterator[object]:
    """Yield the value of each line, and a Gap for what is none.

    Args:
        parts: a file's bytes, from `start` - 1 on if `start` is not 0.
        limit: bytes of a line; a longer one is a Gap.
        start: lines that begin before this place of the file belong to another piece of it.
        stop: and so do those that begin here or later.
    """
    for line in _lines(parts, limit, start, stop):
        if isinstance(line, Gap):
            yield line
        elif line and not line.isspace():
            yield _value(line)


def of_values(parts: Iterator[bytes | Gap], limit: int) -> Iterator[object]:
    """Yield the values of a JSON file, and a Gap for what cannot be read: all that follows, since nothing else ends a value."""
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
            if isinstance(part, Gap):
                yield _rest(text, part.size, parts, part.reason)
                return
            try:
                text += decoder.decode(part or b"", is_over)
            except UnicodeDecodeError:
                yield _rest(text, len(part or b""), parts, "not UTF-8")
                return


def _rest(text: str, size: int, parts: Iterator[bytes | Gap], reason: str) -> Gap:
    rest = sum(part.size if isinstance(part, Gap) else len(part) for part in parts)
    return Gap(len(text.encode("utf-8", "replace")) + size + rest, reason)


def _value(line: bytes) -> object:
    try:
        return _DECODER.decode(line.decode())
    except UnicodeDecodeError:
        return Gap(len(line) + 1, "not UTF-8")
    except (ValueError, RecursionError):
        bare = line.strip(b"\0")  # a hole in a file reads as zeros
        return _value(bare) if bare and bare != line else Gap(len(line) + 1, "not JSON")


def _lines(parts: Iterator[bytes | Gap], limit: int, start: int, stop: int | None) -> Iterator[bytes | Gap]:
    """Yield lines without their ends; of those that border on a gap, what may be whole."""
    held: list[bytes] = []
    size = 0  # of the line that has begun
    position = start - 1 if start else 0  # where it begins
    is_anothers, gap = bool(start), None

    def ended() -> Iterator[bytes | Gap]:
        nonlocal gap
        line = b"".join(held)
        if gap:
            is_torn = not line.startswith(b"{")
            yield Gap(gap.size + (size if is_torn else 0), gap.reason)
            gap = None
            if is_torn:
                return
        if size > limit:
            yield Gap(size, TOO_LONG)
        else:
            yield line if position else line.removeprefix(BYTE_ORDER_MARK)

    for part in parts:
        if isinstance(part, Gap):
            is_whole = bool(held) and held[-1].rstrip().endswith(b"}")
            left = 0 if is_whole or gap else size
            if is_whole or gap:
                yield from ended()
            gap = Gap(part.size + left, part.reason)
            held, size = [], 0
            continue
        *ends, last = part.split(b"\n")
        for end in ends:
            if not (held or gap or is_anothers) and position and stop is None and size + len(end) <= limit:
                position += len(end) + 1
                yield end  # as most lines
                continue
            held.append(end)
            size += len(end)
            if stop is not None and position >= stop:
                return
            if not is_anothers:
                yield from ended()
            is_anothers = False
            position += size + 1
            held, size = [], 0
        size += len(last)
        if size > limit:
            held = []
        elif last:
            held.append(last)
    if (size or gap) and not is_anothers and (stop is None or position < stop):
        yield from ended()
