"""Tables on the terminal, as `info`, `plan` and `report` print them."""

import dataclasses
from collections.abc import Iterable

import rich.box
import rich.console
import rich.markup
import rich.table

from teleflm_jax import foreign
from teleflm_jax.observability.page import Table

PIPED_WIDTH = 120
"""Width of the output in characters if it is not a terminal."""


def make_console() -> rich.console.Console:
    """Return a console as wide as the terminal, or of a fixed width in a pipe."""
    console = rich.console.Console(highlight=False)
    console.on_broken_pipe = _raise_again  # rich would exit with 1; options.py decides what a closed pipe means
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


def _raise_again():
    raise  # noqa: PLE0704  (called while BrokenPipeError is handled)


def print_table(console: rich.console.Console, title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]], note: str = ""):
    """Print a title, a table whose columns are right-aligned except for the first, and a note."""
    _print(console, Table(title, columns, list(rows), note))


def show(console: rich.console.Console, table: Table):
    """Print a table with text from outside, escaped so that none of it is markup or a terminal's control sequence."""
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
