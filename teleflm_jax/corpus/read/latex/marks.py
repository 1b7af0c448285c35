"""The commands and comments of a LaTeX source, without those in verbatim text."""

import re
from collections.abc import Iterator

MARK = re.compile(
    r"\\begin\{(?P<environment>[A-Za-z]+\*?)\}"
    r"|\\verb\*?(?P<verb>[^A-Za-z*\s])"
    r"|\\(?:url|nolinkurl|path|href)\{[^{}\n]*\}"
    r"|\\(?P<command>[A-Za-z]+)|\\.|(?P<comment>%)",
    re.DOTALL,
)
"""What matters outside of verbatim text. A percent sign in an address begins no comment."""
_VERBATIM = frozenset("verbatim verbatim* Verbatim Verbatim* lstlisting minted alltt filecontents filecontents*".split())
_VERB_CHARACTERS, _COMMENT_END = 1000, r"\end{comment}"


def marks(text: str) -> Iterator[re.Match]:
    """Yield commands and comments, but for those in verbatim text."""
    position = 0
    endless: set[str] = set()  # looked for in vain once, there is no need to look again
    while mark := MARK.search(text, position):
        position = mark.end()
        environment = mark["environment"]
        if mark["verb"]:
            end = text.find(mark["verb"], position, position + _VERB_CHARACTERS)
            if end >= 0 and "\n" not in text[position:end]:
                position = end + 1
        elif environment in _VERBATIM and environment not in endless:
            closing = f"\\end{{{environment}}}"
            end = text.find(closing, position)
            if end < 0:
                endless.add(environment)
            else:
                position = end + len(closing)
        else:
            yield mark
            if mark["comment"]:
                position = find_end(text, "\n", position)
            elif environment == "comment":
                position = find_end(text, _COMMENT_END, position)


def find_end(text: str, closing: str, start: int) -> int:
    """Look for a closing mark; a text without one ends there."""
    end = text.find(closing, start)
    return len(text) if end < 0 else end


def without_comments(text: str) -> str:
    """Take out comments, and lines that are nothing else; verbatim text stays as it is."""
    parts, position = [], 0
    for mark in marks(text):
        if mark["comment"]:
            end = find_end(text, "\n", mark.start())
            begin = text.rfind("\n", position, mark.start()) + 1 or position
            # a line of its own, or the rest of one
            is_whole_line = text[begin : mark.start()].isspace() or (begin == mark.start() and (not begin or text[begin - 1] == "\n"))
            parts.append(text[position : begin if is_whole_line else mark.start()])
            position = min(end + 1, len(text)) if is_whole_line else end
        elif mark["environment"] == "comment":
            parts.append(text[position : mark.start()])
            position = find_end(text, _COMMENT_END, mark.end()) + len(_COMMENT_END)
    return "".join(parts) + text[position:]
