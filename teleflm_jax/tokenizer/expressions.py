r"""Check of a tokenizer's regular expressions: those whose time may grow faster than the text are refused.

The library's engine (Oniguruma) retries at every character, up to ten million times at each: `a+a+a+b` took 200 s for a thousand
characters. The expressions of models use a small language, and this module accepts only that language: alternatives of characters and
classes with a repetition each, groups of short words, and lookahead at one character.

The costly case is an alternative that fails after a long run, such as `\s*[\r\n]+` on blanks, and fails again from the run's next
character. The case is harmless if a later alternative, such as `\s+`, matches the whole run.
"""

import dataclasses
import math
import re

from teleflm_jax.tokenizer import patterns

LONGEST = 16_384
"""Maximum characters of an expression; classes of all letters take a few thousand."""
FEW = 16
"""Maximum of a bounded repetition; more counts as unbounded."""
MOST_WAYS = 1_000
"""Maximum number of ways to match the bounded repetitions of one alternative."""
KNOWN = (r"\s+$", *patterns.PATTERNS.values())
"""Accepted unchecked. Models use the first (deepseek-llm), although its time is quadratic in a run of blanks; the others are ours."""

_ESCAPE = r"\\(?:[sSdDwWhHrntfvae]|[pP]\{\^?\w+\}|x\{[0-9A-Fa-f]+\}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|[^\w\s])"
_CLASS = rf"\[\^?(?!\])(?:{_ESCAPE}|[^\[\]\\])+\]"
_NESTED = rf"\[\^?(?!\])(?:{_ESCAPE}|[^\[\]\\]|{_CLASS}|\[:\^?\w+:\])+\]"
_ONE = rf"{_ESCAPE}|{_NESTED}|[^()\[\]|*+?{{}}\\^$]"
_ITEM = re.compile(
    rf"(?P<look>\(\?[!=](?:{_ONE})\)|[$^]|\\[bBAzZ])"
    rf"|(?P<group>\((?:\?i?:)?(?:{_ESCAPE}|{_CLASS}|[^()\[\]*+?{{}}\\])*\))"
    rf"|(?P<one>{_ONE})"
)
_TIMES = re.compile(
    r"(?P<sign>[*+?])(?P<way>[+?]?)|\{(?:(?P<exactly>\d{1,9})|(?!,\})(?P<least>\d{1,9})?,(?P<most>\d{1,9})?)\}(?P<lazy>\??)"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Item:
    """An element of an alternative, with its repetition."""

    text: str
    """The repeated part of the expression."""
    least: int
    most: int | None
    """Maximum repetitions; None if more than FEW."""
    looks: bool
    """True for a lookahead or an anchor, which matches no character."""
    ways: int
    """Number of ways to match it, if its repetition is bounded."""

    @property
    def may_fail(self) -> bool:
        return self.looks or self.least > 0


def refuse(expression: str) -> None:
    """Raise a ValueError unless the time of an expression is linear in the length of the text."""
    if expression in KNOWN:
        return
    if len(expression) > LONGEST:
        raise ValueError(f"an expression of {len(expression):,} characters; at most {LONGEST:,}")
    alternatives = _alternatives(expression)
    for place, items in enumerate(alternatives):
        if math.prod(item.ways for item in items) > MOST_WAYS:
            raise ValueError("an expression with a part that can match in too many ways")
        if (run := _failing(items)) is not None and not _is_taken(run, alternatives[place:]):
            raise ValueError(f"an expression that may retry a run of {run.text[:40]!r} at each of its characters")


def _failing(items: list[_Item]) -> _Item | None:
    """Return the first item that may match a long run before its alternative fails; None if there is none."""
    for place, item in enumerate(items):
        if item.most is None and any(later.may_fail for later in items[place + 1 :]):
            return item
    return None


def _is_taken(run: _Item, alternatives: list[list[_Item]]) -> bool:
    """Return True if, after the first alternative fails on a run, a later one matches the whole run and none before that a part of it."""
    for items in alternatives:
        first = next((place for place, item in enumerate(items) if item.most is None), None)
        if first is None or items[first].text != run.text or any(item.may_fail for item in items[:first]):
            return False
        if _failing(items) is None:
            return True
        # at each character of the run, the rest either fails at once or succeeds
        if _failing(items[first + 1 :]) is not None or sum(item.least > 0 for item in items[first + 1 :]) > 1:
            return False
    return False


def _alternatives(expression: str) -> list[list[_Item]]:
    found: list[list[_Item]] = [[]]
    place = 0
    while place < len(expression):
        if expression[place] == "|":
            found.append([])
            place += 1
            continue
        match = _ITEM.match(expression, place)
        if match is None:
            raise ValueError(f"an expression with {expression[place : place + 20]!r}, which is not part of the supported syntax")
        place, (least, most) = match.end(), (1, 1)
        if times := _TIMES.match(expression, place):
            place, (least, most) = times.end(), _bounds(times)
            once = match["look"] or (match["group"] and (least, most) != (0, 1))
            lazy = most is None and "?" in (times["way"], times["lazy"])
            if once or lazy or expression[place : place + 1] in ("*", "+", "?", "{"):
                raise ValueError(f"an expression that repeats {match[0][:40]!r} in an unsupported way")
        ways = (1 if most is None else most - least + 1) + (match["group"] or "").count("|")
        found[-1].append(_Item(text=match[0], least=least, most=most, looks=bool(match["look"]), ways=ways))
    return found


def _bounds(times: re.Match) -> tuple[int, int | None]:
    if times["sign"]:
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[times["sign"]]
    least = int(times["exactly"] or times["least"] or 0)
    most = int(last) if (last := times["exactly"] or times["most"]) else None
    if least > FEW or (most is not None and most < least):
        raise ValueError(f"an expression that repeats a part at least {least:,} times; at most {FEW}")
    return least, most if most is not None and most <= FEW else None
