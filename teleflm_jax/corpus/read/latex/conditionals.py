r"""Branches of a LaTeX source that are never typeset: `\iffalse`, `\if0`, and switches made by `\newif`.

Authors hide drafts and answers to reviewers by them. What depends on anything else stays, with both its branches.
"""

import dataclasses
import re
from collections.abc import Iterator

from teleflm_jax.corpus.read.latex.marks import marks

_TESTS = frozenset(
    "if ifcat ifx ifcase ifnum ifdim ifodd ifvmode ifhmode ifmmode ifinner ifvoid ifhbox ifvbox ifeof ifdefined ifcsname iffontchar "
    "ifincsname ifpdf ifxetex ifluatex ifPDFTeX ifXeTeX ifLuaTeX ifpdfabsnum ifpdfabsdim ifpdfprimitive".split()
)
"""TeX's conditionals, and those of the packages that ask for the engine. Others that begin so, as `\\iff` and `\\ifthenelse`, have no
`\\fi`. Source: The TeXbook, chapter 20; the manuals of e-TeX, pdfTeX and iftex."""
_NAME = re.compile(r"\s{0,9}\\if([A-Za-z]+)")
_ZERO = re.compile(r"\s{0,9}0(?P<other>[^\s0\\{}]?)")
_REST_OF_LINE = re.compile(r"[ \t]*\n")


@dataclasses.dataclass(slots=True)
class _Branch:
    """The branch of a conditional that a place in the text is in."""

    known: bool
    """Whether the source alone says if it is typeset; if not, the commands of the conditional stay."""
    live: bool


def without_dead_branches(text: str) -> str:
    """Take out what is not typeset, and the commands that say so; text whose conditionals do not end stays as it is.

    Args:
        text: a whole paper without comments: a switch may be set anywhere in it.
    """
    parts: list[str] = []
    position, is_blank, is_live = 0, True, True
    for start, end, was_live, is_live in _turns(text):
        if was_live:
            parts.append(text[position:start])
            line_end, line = parts[-1].rpartition("\n")[1:]
            is_blank = (is_blank or bool(line_end)) and not line.strip()
        # a line with nothing else on it goes as a whole, so that no paragraph ends there
        rest = _REST_OF_LINE.match(text, end) if is_live and is_blank else None
        position = rest.end() if rest else end
    return "".join(parts) + text[position:] if is_live else text


def _turns(text: str) -> Iterator[tuple[int, int, bool, bool]]:
    """Yield the commands to be taken out: start, end, whether text before is typeset, and text behind.

    The last says that text behind is not typeset where a conditional has no end.
    """
    switches = {"iftrue": True, "iffalse": False}
    branches: list[_Branch] = []
    dead = skipped = 0
    for mark in marks(text):
        command = mark["command"]
        if not command or mark.start() < skipped:
            continue
        was_live = not dead
        if command == "newif" and (name := _NAME.match(text, mark.end())):
            switches[f"if{name[1]}"] = False
            skipped = name.end()
        elif (value := _value(text, command, mark.end(), switches)) is not None:
            branches.append(_Branch(known=True, live=value))
            dead += not value
            zero = _ZERO.match(text, mark.end()) if command == "if" else None
            yield mark.start(), zero.end() if zero else mark.end(), was_live, not dead
        elif command in _TESTS:
            branches.append(_Branch(known=False, live=True))
        elif command == "else" and branches and branches[-1].known:
            dead += 1 if branches[-1].live else -1
            branches[-1].live = not branches[-1].live
            yield mark.start(), mark.end(), was_live, not dead
        elif command == "fi" and branches:
            branch = branches.pop()
            dead -= not branch.live
            if branch.known:
                yield mark.start(), mark.end(), was_live, not dead
        elif was_live:
            _set(command, switches)
    if any(branch.known for branch in branches):
        yield len(text), len(text), False, False


def _value(text: str, command: str, end: int, switches: dict[str, bool]) -> bool | None:
    r"""Say how a conditional turns out; None if the source alone does not say. `\if0` compares 0 with what follows."""
    if command == "if" and (zero := _ZERO.match(text, end)):
        return False if zero["other"] or text[zero.end() : zero.end() + 1].isspace() else None
    return switches.get(command)


def _set(command: str, switches: dict[str, bool]) -> None:
    for ending, value in (("true", True), ("false", False)):
        if command.endswith(ending) and (name := f"if{command.removesuffix(ending)}") in switches:
            switches[name] = value
