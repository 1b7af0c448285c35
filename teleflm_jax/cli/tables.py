"""Tables on the terminal, as `info` and `plan` print them."""

from collections.abc import Iterable

import rich.box
import rich.console
import rich.table

PIPED_WIDTH = 120
"""Columns where the output is no terminal."""


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
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(title, style="bold")
    console.print(table)
    if note:
        console.print(note + "\n")
