"""An author's macros, written out where they are used."""

import dataclasses
import re

from teleflm_jax.corpus.read import LONGEST
from teleflm_jax.corpus.read.latex.marks import marks

MAX_MACRO_DEPTH = 20
MACRO_CHARACTERS = 2000
"""Of one definition; longer ones are programs."""
EXPANSION_COST = 16
"""Characters that a macro counts for besides its own, so that empty ones end too."""
_DEFINERS = frozenset("newcommand renewcommand providecommand DeclareRobustCommand def gdef DeclareMathOperator".split())
_DEFINED = re.compile(r"(\*?)\s{0,99}(?:\{\s{0,9}\\([A-Za-z@]{1,99})\s{0,9}\}|\\([A-Za-z@]{1,99}))\s{0,99}(?:\[0\]\s{0,99})?(\{?)")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


@dataclasses.dataclass(slots=True)
class Macros:
    """Definitions that a paper has made so far, and how much they may still add to it."""

    bodies: dict[str, str] = dataclasses.field(default_factory=dict)
    left: int = LONGEST
    """Characters that may still be written out."""

    def spend(self, characters: int) -> None:
        """Count characters that are written out.

        Raises:
            OverflowError: they are more than a text may have.
        """
        self.left -= characters
        if self.left < 0:
            raise OverflowError


def expand(text: str, macros: Macros, active: tuple[str, ...] = ()) -> str:
    """Take the definitions of macros without arguments out and write the macros out where they are used.

    Args:
        text: without comments.
        macros: those known before; what the text defines is added.
        active: macros whose bodies this text is in; they stay as they are, so that one that names itself ends.

    Raises:
        OverflowError: they unfold to more than LONGEST characters.
    """
    parts, position = [], 0
    for mark in marks(text):
        command = mark["command"]
        if mark.start() < position or not command:
            continue
        if command in _DEFINERS:
            end = _define(text, mark, macros)
            if end:
                parts.append(text[position : mark.start()])
                position = end
        elif command in macros.bodies and command not in active and len(active) < MAX_MACRO_DEPTH:
            body = macros.bodies[command]
            macros.spend(len(body) + EXPANSION_COST)
            parts += (text[position : mark.start()], expand(body, macros, (*active, command)))
            position = mark.end()
    return "".join(parts) + text[position:]


def _define(text: str, mark: re.Match, macros: Macros) -> int:
    """Take a definition up; return where it ends, or 0 if it stays where it is."""
    found = _DEFINED.match(text, mark.end())
    if not found:
        return 0
    name = found[2] or found[3]
    end = _closing_brace(text, found.end()) if found[4] else 0
    if not found[4] or end < 0:
        macros.bodies.pop(name, None)  # it takes arguments from here on
        macros.spend(MACRO_CHARACTERS if end < 0 else 0)
        return 0
    body = text[found.end() : end]
    if "@" in body or "#" in body or "@" in name:
        macros.bodies.pop(name, None)  # how LaTeX's own commands are made
    elif mark["command"] == "DeclareMathOperator":
        macros.bodies[name] = f"\\operatorname{found[1]}{{{body}}}"
    else:
        macros.bodies[name] = body
    return end + 1


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for brace in _BRACE.finditer(text, start, start + MACRO_CHARACTERS):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if not depth:
            return brace.start()
    return -1
