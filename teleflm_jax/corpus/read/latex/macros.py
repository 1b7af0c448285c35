"""Expansion of authors' macros."""

import dataclasses
import re

from teleflm_jax.corpus.read import LONGEST
from teleflm_jax.corpus.read.latex.scanner import scan

MAX_MACRO_DEPTH = 20
MACRO_CHARACTERS = 2000
"""Maximum characters of a definition; longer ones are programs."""
EXPANSION_COST = 16
"""Characters charged for each expansion in addition to its own, so that empty macros terminate too."""
_DEFINERS = frozenset("newcommand renewcommand providecommand DeclareRobustCommand def gdef DeclareMathOperator".split())
_DEFINED = re.compile(r"(\*?)\s{0,99}(?:\{\s{0,9}\\([A-Za-z@]{1,99})\s{0,9}\}|\\([A-Za-z@]{1,99}))\s{0,99}(?:\[0\]\s{0,99})?(\{?)")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


@dataclasses.dataclass(slots=True)
class Macros:
    """Definitions of a paper so far, and the remaining budget of their expansion."""

    bodies: dict[str, str] = dataclasses.field(default_factory=dict)
    left: int = LONGEST
    """Remaining characters of expansion."""

    def spend(self, characters: int) -> None:
        """Charge characters of expansion.

        Raises:
            OverflowError: The budget is exhausted.
        """
        self.left -= characters
        if self.left < 0:
            raise OverflowError


def expand(text: str, macros: Macros, active: tuple[str, ...] = ()) -> str:
    """Remove the definitions of macros without arguments and expand their uses.

    Args:
        text: LaTeX without comments.
        macros: Macros known so far; definitions in the text are added.
        active: Macros that are being expanded; they are not expanded again, so that recursive macros terminate.

    Raises:
        OverflowError: The expansion exceeds LONGEST characters.
    """
    parts, position = [], 0
    for token in scan(text):
        command = token["command"]
        if token.start() < position or not command:
            continue
        if command in _DEFINERS:
            end = _define(text, token, macros)
            if end:
                parts.append(text[position : token.start()])
                position = end
        elif command in macros.bodies and command not in active and len(active) < MAX_MACRO_DEPTH:
            body = macros.bodies[command]
            macros.spend(len(body) + EXPANSION_COST)
            parts += (text[position : token.start()], expand(body, macros, (*active, command)))
            position = token.end()
    return "".join(parts) + text[position:]


def _define(text: str, token: re.Match, macros: Macros) -> int:
    """Record a definition; return its end, or 0 if it is kept in the text."""
    found = _DEFINED.match(text, token.end())
    if not found:
        return 0
    name = found[2] or found[3]
    end = _closing_brace(text, found.end()) if found[4] else 0
    if not found[4] or end < 0:
        macros.bodies.pop(name, None)  # from here on the macro takes arguments
        macros.spend(MACRO_CHARACTERS if end < 0 else 0)
        return 0
    body = text[found.end() : end]
    if "@" in body or "#" in body or "@" in name:
        macros.bodies.pop(name, None)  # a definition in the style of LaTeX's internals
    elif token["command"] == "DeclareMathOperator":
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
