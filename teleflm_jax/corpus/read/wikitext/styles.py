"""Removal of apostrophes for italics (two) and bold (three), following MediaWiki's rules.

If both italics and bold are unclosed in a line, one of the apostrophes is literal: `l'''Iliade''` is `l'` and an italic word.
"""

import re

APOSTROPHE = "\1"
"""Placeholder of a literal apostrophe; XML cannot contain this character."""
_LINE = re.compile(r"^.*''.*$", re.MULTILINE)
_MARK = re.compile("''+")


def strip(text: str) -> str:
    """Remove the markup."""
    return _LINE.sub(lambda line: _strip(line[0]), text).replace(APOSTROPHE, "'")


def _strip(line: str) -> str:
    marks = list(_MARK.finditer(line))
    lengths = [len(mark[0]) for mark in marks]
    italic = sum(length == 2 or length >= 5 for length in lengths)
    bold = sum(length >= 3 for length in lengths)
    literal = -1
    if italic % 2 and bold % 2:
        literal = max(
            (mark.start() for mark in marks if len(mark[0]) == 3),
            key=lambda start: (_rank(line, start), -start),
            default=-1,
        )
    return _MARK.sub(lambda mark: "'" * max(mark.start() == literal, len(mark[0]) == 4, len(mark[0]) - 5), line)


def _rank(line: str, start: int) -> int:
    """Rank how likely the first of three apostrophes is literal: most likely after a one-letter word, then after any word."""
    behind = line[max(0, start - 2) : start]
    if not behind or behind[-1] == " ":
        return 0
    return 2 if len(behind) < 2 or behind[0] == " " else 1
