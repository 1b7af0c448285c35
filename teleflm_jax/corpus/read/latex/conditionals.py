r"""Removal of branches of a LaTeX source that are never typeset: `\iffalse`, `\if0`, and switches made by `\newif`.

Authors hide drafts and answers to reviewers with them. Other conditionals keep both of their branches.
"""

import dataclasses
import re
from collections.abc import Iterator

from teleflm_jax.corpus.read.latex.scanner import scan

_TESTS = frozenset(
    "if ifcat ifx ifcase ifnum ifdim ifodd ifvmode ifhmode ifmmode ifinner ifvoid ifhbox ifvbox ifeof ifdefined ifcsname iffontchar "
    "ifincsname ifpdf ifxetex ifluatex ifPDFTeX ifXeTeX ifLuaTeX ifpdfabsnum ifpdfabsdim ifpdfprimitive".split()
)
"""Conditionals of TeX and of packages that test the engine. Other commands that start with `\\if`, such as `\\iff` and `\\ifthenelse`,
have no `\\fi`. Source: The TeXbook, chapter 20; the manuals of e-TeX, pdfTeX and iftex."""
_NAME = re.compile(r"\s{0,9}\\if([A-Za-z]+)")
_ZERO = re.compile(r"\s{0,9}0(?P<other>[^\s0\\{}]?)")
_REST_OF_LINE = re.compile(r"[ \t]*\n")


@dataclasses.dataclass(slots=True)
class _Branch:
    """The current branch of a conditional."""

    known: bool
    """True if the source alone determines whether the branch is typeset; otherwise the conditional's commands are kept."""
    live: bool
    """True if the branch is typeset."""


def without_dead_branches(text: str) -> str:
    """Remove text that is not typeset and its conditionals; text with unclosed conditionals is returned unchanged.

    Args:
        text: A whole paper without comments, because a switch may be set anywhere in it.
    """
    parts: list[str] = []
    position, is_blank, is_live = 0, True, True
    for start, end, was_live, is_live in _dead_commands(text):
        if was_live:
            parts.append(text[position:start])
            line_end, line = parts[-1].rpartition("\n")[1:]
            is_blank = (is_blank or bool(line_end)) and not line.strip()
        # a line with nothing else is removed as a whole, so that it does not end a paragraph
        rest = _REST_OF_LINE.match(text, end) if is_live and is_blank else None
        position = rest.end() if rest else end
    return "".join(parts) + text[position:] if is_live else text


def _dead_commands(text: str) -> Iterator[tuple[int, int, bool, bool]]:
    """Yield the commands to remove: start, end, True if the text before is typeset, True if the text after is typeset.

    If a conditional has no end, the last item marks the text after it as not typeset.
    """
    switches = {"iftrue": True, "iffalse": False}
    branches: list[_Branch] = []
    dead = skipped = 0
    for token in scan(text):
        command = token["command"]
        if not command or token.start() < skipped:
            continue
        was_live = not dead
        if command == "newif" and (name := _NAME.match(text, token.end())):
            switches[f"if{name[1]}"] = False
            skipped = name.end()
        elif (value := _known_value(text, command, token.end(), switches)) is not None:
            branches.append(_Branch(known=True, live=value))
            dead += not value
            zero = _ZERO.match(text, token.end()) if command == "if" else None
            yield token.start(), zero.end() if zero else token.end(), was_live, not dead
        elif command in _TESTS:
            branches.append(_Branch(known=False, live=True))
        elif command == "else" and branches and branches[-1].known:
            dead += 1 if branches[-1].live else -1
            branches[-1].live = not branches[-1].live
            yield token.start(), token.end(), was_live, not dead
        elif command == "fi" and branches:
            branch = branches.pop()
            dead -= not branch.live
            if branch.known:
                yield token.start(), token.end(), was_live, not dead
        elif was_live:
            _set_switch(command, switches)
    if any(branch.known for branch in branches):
        yield len(text), len(text), False, False


def _known_value(text: str, command: str, end: int, switches: dict[str, bool]) -> bool | None:
    r"""Return the value of a conditional; None if the source does not determine it. `\if0` compares 0 with the next token."""
    if command == "if" and (zero := _ZERO.match(text, end)):
        return False if zero["other"] or text[zero.end() : zero.end() + 1].isspace() else None
    return switches.get(command)


def _set_switch(command: str, switches: dict[str, bool]) -> None:
    for ending, value in (("true", True), ("false", False)):
        if command.endswith(ending) and (name := f"if{command.removesuffix(ending)}") in switches:
            switches[name] = value
