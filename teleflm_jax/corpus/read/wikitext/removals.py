"""Tidying of sentences around removed templates, references and pictures.

Blanks before commas, double blanks and empty parentheses are removed. Only places of a removal are changed, because French has blanks
before colons and programs have empty parentheses.
"""

import re

REMOVED = "\2"
"""Placeholder of removed markup; XML cannot contain this character, and the parser keeps it (a NUL would end the text)."""
_OPENING, _CLOSING = "([{（［【〔「『《〈“«„", ")]}）］】〕」』》〉”»"
_PAIRS = frozenset(("()", "[]", "（）", "［］", "【】", "〔〕", "「」", "『』", "《》", "“”", "«»"))
_SEPARATORS = ",;、，；"
_ENDS = _SEPARATORS + ".:。：" + _CLOSING
_BLANKS = " \t\u00a0\u3000"
_LOOSE = _BLANKS + _SEPARATORS + ":：/–—"
_RUN = re.compile(f"{REMOVED}(?:[ \t\u00a0]*{REMOVED})+")
_NO_TEXT = re.compile(r"[^\w\n]*(?=\n|$)")
_MAX_NESTED = 8


def tidy(text: str) -> str:
    """Remove the placeholders of a text and tidy their surroundings."""
    first, *others = _RUN.sub(REMOVED, text).split(REMOVED)
    parts = [first]
    for right in others:
        _join(parts, right)
    return "".join(parts)


def _join(parts: list[str], right: str) -> None:
    """Append a text to the last part, without the blanks and punctuation that the removal would leave."""
    left = parts.pop() if parts else ""
    for _ in range(_MAX_NESTED):
        if not left and parts:
            left = parts.pop()
        last, first = left[-1:] or "\n", right[:1] or "\n"
        if last + first in _PAIRS:
            left, right = left[:-1], right[1:]
        elif first in _CLOSING and last in _LOOSE:
            left = left.rstrip(_LOOSE)
        elif last in _OPENING and first in _LOOSE:
            right = right.lstrip(_LOOSE)
        elif first in _ENDS and last in _BLANKS:
            left = left.rstrip(_BLANKS)
        elif last in _SEPARATORS and first in _SEPARATORS + ".。":
            left = left[:-1]
        elif last in "\n" + _BLANKS and first in _BLANKS:
            right = right.lstrip(_BLANKS)
            if right[:1] not in _CLOSING:
                break
        elif last == "\n" and first in _SEPARATORS + ".。":
            right = right[1:]
        elif last in ".!?" and first.isupper() and left[-2:-1].islower():
            right = " " + right
        elif last == "\n" and (line := _NO_TEXT.match(right)) and line.end():
            right = right[line.end() :]
        else:
            break
    parts.extend(part for part in (left, right) if part)
