"""Scanner for the commands and comments of a LaTeX source, except those in verbatim text."""

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"\\begin\{(?P<environment>[A-Za-z]+\*?)\}"
    r"|\\verb\*?(?P<verb>[^A-Za-z*\s])"
    r"|\\(?:url|nolinkurl|path|href)\{[^{}\n]*\}"
    r"|\\(?P<command>[A-Za-z]+)|\\.|(?P<comment>%)",
    re.DOTALL,
)
"""Tokens outside verbatim text. A percent sign in a URL does not start a comment."""
_VERBATIM = frozenset("verbatim verbatim* Verbatim Verbatim* lstlisting minted alltt filecontents filecontents*".split())
_VERB_CHARACTERS, _COMMENT_END = 1000, r"\end{comment}"


def scan(text: str) -> Iterator[re.Match]:
    """Yield commands and comments, except those in verbatim text."""
    position = 0
    endless: set[str] = set()  # environments without an end, which need not be searched again
    while token := _TOKEN.search(text, position):
        position = token.end()
        environment = token["environment"]
        if token["verb"]:
            end = text.find(token["verb"], position, position + _VERB_CHARACTERS)
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
            yield token
            if token["comment"]:
                position = find_end(text, "\n", position)
            elif environment == "comment":
                position = find_end(text, _COMMENT_END, position)


def find_end(text: str, closing: str, start: int) -> int:
    """Return the position of a closing token, or the end of the text."""
    end = text.find(closing, start)
    return len(text) if end < 0 else end


def without_comments(text: str) -> str:
    """Remove comments, and lines that are only a comment; verbatim text is unchanged."""
    parts, position = [], 0
    for token in scan(text):
        if token["comment"]:
            end = find_end(text, "\n", token.start())
            begin = text.rfind("\n", position, token.start()) + 1 or position
            # the comment is either a whole line or the rest of one
            is_whole_line = text[begin : token.start()].isspace() or (begin == token.start() and (not begin or text[begin - 1] == "\n"))
            parts.append(text[position : begin if is_whole_line else token.start()])
            position = min(end + 1, len(text)) if is_whole_line else end
        elif token["environment"] == "comment":
            parts.append(text[position : token.start()])
            position = find_end(text, _COMMENT_END, token.end()) + len(_COMMENT_END)
    return "".join(parts) + text[position:]
