"""A page of HTML: tables and figures in a single file that needs no network and runs no script.

Its content comes from names of folders and from logs, so all of it is escaped, and the page forbids scripts and requests.
"""

import base64
import dataclasses
import html
import io
import typing
from collections.abc import Iterable, Sequence

if typing.TYPE_CHECKING:  # tables alone need no matplotlib
    from matplotlib.figure import Figure

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c1f23; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #e3e5e8; font-variant-numeric: tabular-nums; }}
th:first-child, td:first-child, .text td, .text th {{ text-align: left; overflow-wrap: anywhere; }}
img {{ max-width: 100%; }} p {{ color: #555b63; }}
</style>
</head>
<body>
"""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of plain text, for the terminal or a page."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    text: bool = False
    """Align all columns to the left, because they hold words and not numbers."""


def document(title: str, parts: Iterable[str]) -> str:
    """Return the page of a title in plain text and of parts in HTML."""
    return "\n".join([_HEAD.format(title=html.escape(title)), f"<h1>{html.escape(title)}</h1>", *parts, "</body>", "</html>", ""])


def table(content: Table) -> str:
    """Return a table with its title and note."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in content.columns)
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in content.rows)
    note = paragraph(content.note) if content.note else ""
    kind = ' class="text"' if content.text else ""
    return f"<h2>{html.escape(content.title)}</h2>\n<table{kind}>\n<tr>{head}</tr>\n{body}\n</table>\n{note}"


def paragraph(text: str) -> str:
    """Return a paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def picture(caption: str, figure: "Figure") -> str:
    """Return a figure as an inline picture with its caption."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<h2>{html.escape(caption)}</h2>\n<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
