"""Tables on the terminal, as `info`, `plan` and `report` print them."""

import dataclasses
from collections.abc import Iterable, Sequence

import rich.box
import rich.console
import rich.markup
import rich.table

from teleflm_jax import foreign

PIPED_WIDTH = 120
"""Columns where the output is no terminal."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of plain text, for the terminal or a page."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    text: bool = False
    """Whether its columns are flush left: words, not figures."""


def make_console() -> rich.console.Console:
    """A console as wide as the terminal, or of a fixed width in a pipe."""
    console = rich.console.Console(highlight=False)
    console.on_broken_pipe = _raise_again  # rich would exit with 1; what a closed pipe means is decided in one place, options.py
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


def _raise_again():
    raise  # noqa: PLE0704  (called while BrokenPipeError is handled)


def print_table(console: rich.console.Console, title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]], note: str = ""):
    """Print a title, a table whose columns but the first are flush right, and a note."""
    _print(console, Table(title, columns, list(rows), note))


def show(console: rich.console.Console, table: Table):
    """Print a table whose words come from outside: none of them is markup, or steers a terminal."""
    rows = [[_plain(cell) for cell in row] for row in table.rows]
    columns = [_plain(column) for column in table.columns]
    _print(console, dataclasses.replace(table, title=_plain(table.title), columns=columns, rows=rows, note=_plain(table.note)))


def _plain(text: str) -> str:
    return rich.markup.escape("\n".join(map(foreign.printable, text.split("\n"))))


def _print(console: rich.console.Console, content: Table):
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(content.columns):
        table.add_column(column, justify="right" if i and not content.text else "left", overflow="fold")
    for row in content.rows:
        table.add_row(*row)
    console.print(content.title, style="bold")
    console.print(table)
    if content.note:
        console.print(content.note + "\n")
