"""Apostrophes for italics (two) and bold (three), taken out as MediaWiki reads them.

A line whose italics and bold are both left open has an apostrophe of its own among them: `l'''Iliade''` is `l'` and an italic word.
"""

import re

APOSTROPHE = "\1"
"""Stands for one that is no markup; no XML has this character."""
_LINE = re.compile(r"^.*''.*$", re.MULTILINE)
_MARK = re.compile("''+")


def strip(text: str) -> str:
    """Take the markup out."""
    return _LINE.sub(lambda line: _strip(line[0]), text).replace(APOSTROPHE, "'")


def _strip(line: str) -> str:
    marks = list(_MARK.finditer(line))
    lengths = [len(mark[0]) for mark in marks]
    italic = sum(length == 2 or length >= 5 for length in lengths)
    bold = sum(length >= 3 for length in lengths)
    own = -1
    if italic % 2 and bold % 2:
        own = max(
            (mark.start() for mark in marks if len(mark[0]) == 3),
            key=lambda start: (_rank(line, start), -start),
            default=-1,
        )
    return _MARK.sub(lambda mark: "'" * max(mark.start() == own, len(mark[0]) == 4, len(mark[0]) - 5), line)


def _rank(line: str, start: int) -> int:
    """How likely three apostrophes begin with one of their own: behind a word of one letter most, then behind any word."""
    behind = line[max(0, start - 2) : start]
    if not behind or behind[-1] == " ":
        return 0
    return 2 if len(behind) < 2 or behind[0] == " " else 1
