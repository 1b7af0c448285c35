r"""Regular expressions of tokenizers, of which those are refused that may take much longer than their text is long.

The library's engine (Oniguruma) tries again from every character, up to ten million times from each: for a thousand characters `a+a+a+b`
took 200 s. The expressions of models are written in a small language, and this module knows no more of it: alternatives of characters and
classes with a repetition each, groups of short words, and looks ahead at one character.

What costs time is an alternative that fails after a long run, such as `\s*[\r\n]+` in blanks, and fails again from the run's next
character. It does not where a later alternative takes the whole run, as `\s+` does.
"""

import dataclasses
import math
import re

from teleflm_jax.tokenizer import patterns

LONGEST = 16_384
"""Characters of an expression; classes of all letters take some thousand."""
FEW = 16
"""Repetitions up to here are few."""
MOST_WAYS = 1_000
"""In which the few repetitions of one alternative may be tried."""
KNOWN = (r"\s+$", *patterns.PATTERNS.values())
"""The first is of models in use (deepseek-llm), although its time is the square of a run of blanks; the others are ours."""

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
    """A part of an alternative."""

    text: str
    """The part of the expression that is repeated."""
    least: int
    most: int | None
    """None: more than a few."""
    looks: bool
    """Takes no character."""
    ways: int
    """In which it may be tried, where these are few."""

    @property
    def may_fail(self) -> bool:
        return self.looks or self.least > 0


def refuse(expression: str) -> None:
    """Raise a ValueError unless the time of an expression grows with the length of the text."""
    if expression in KNOWN:
        return
    if len(expression) > LONGEST:
        raise ValueError(f"an expression of {len(expression):,} characters; at most {LONGEST:,}")
    alternatives = _alternatives(expression)
    for place, items in enumerate(alternatives):
        if math.prod(item.ways for item in items) > MOST_WAYS:
            raise ValueError("an expression of which one part may be tried in too many ways")
        if (run := _failing(items)) is not None and not _is_taken(run, alternatives[place:]):
            raise ValueError(f"an expression that may try a run of {run.text[:40]!r} again from each of its characters")


def _failing(items: list[_Item]) -> _Item | None:
    """The first item of an alternative that may take a long run before the alternative fails."""
    for place, item in enumerate(items):
        if item.most is None and any(later.may_fail for later in items[place + 1 :]):
            return item
    return None


def _is_taken(run: _Item, alternatives: list[list[_Item]]) -> bool:
    """Tell if, when the first of some alternatives fails after a run, one behind it takes the whole run, and none before that a part."""
    for items in alternatives:
        first = next((place for place, item in enumerate(items) if item.most is None), None)
        if first is None or items[first].text != run.text or any(item.may_fail for item in items[:first]):
            return False
        if _failing(items) is None:
            return True
        # from each place in the run the rest fails at once, or does not fail
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
            raise ValueError(f"an expression with {expression[place : place + 20]!r}, which is more than a tokenizer needs")
        place, (least, most) = match.end(), (1, 1)
        if times := _TIMES.match(expression, place):
            place, (least, most) = times.end(), _bounds(times)
            once = match["look"] or (match["group"] and (least, most) != (0, 1))
            lazy = most is None and "?" in (times["way"], times["lazy"])
            if once or lazy or expression[place : place + 1] in ("*", "+", "?", "{"):
                raise ValueError(f"an expression that repeats {match[0][:40]!r} in a way that no tokenizer needs")
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
