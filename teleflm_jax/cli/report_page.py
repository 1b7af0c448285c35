"""The report as one HTML page: tables and figures in a single file that needs no network and runs no script.

Its content comes from names of folders and from logs, so all of it is escaped, and the page forbids scripts and requests.
"""

import base64
import html
import io
import pathlib
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from teleflm_jax import atomic_write
from teleflm_jax.cli.tables import Table
from teleflm_jax.observability import curves
from teleflm_jax.observability.ledger import CATEGORIES, SessionSeconds

COLORS = {
    "start-up": "#e6a700",
    "compile": "#c77cff",
    "data wait": "#7a4b1e",
    "steps": "#2a9d4a",
    "checkpoint": "#2f6fde",
    "validation": "#35b8c9",
    "lost": "#d62728",
    "down": "#30343b",
    "other": "#b4b8bf",
}
"""Category of the time line -> color."""
SHOWN = 60
"""Sessions of a run in the time line; of more, neighbours are drawn as one."""
UNITS = ((86_400, "days"), (3_600, "hours"), (60, "minutes"), (1, "seconds"))

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


def write(path: pathlib.Path, title: str, tables: Sequence[Table], figures: Sequence[tuple[str, Figure]]) -> None:
    """Write the page, whole or not at all, and close its figures.

    Args:
        path: of the page.
        title: plain text.
        tables: tables in order; those with `text` come after the pictures, because they are long.
        figures: pictures with their captions.
    """
    parts = [_HEAD.format(title=html.escape(title)), f"<h1>{html.escape(title)}</h1>"]
    parts += [_table(table) for table in tables if not table.text]
    parts += [_picture(caption, figure) for caption, figure in figures]
    parts += [_table(table) for table in tables if table.text]
    atomic_write.write(path, "\n".join([*parts, "</body>", "</html>", ""]).encode(errors="replace"))


def timeline(runs: Sequence[tuple[str, Sequence[SessionSeconds]]]) -> Figure:
    """Draw where the seconds went: one bar for each run, session after session with the pauses between them.

    Inside a session the categories are in their own order, not in that of the events.
    """
    with matplotlib.rc_context({**curves.STYLE, "axes.grid.axis": "x", "axes.axisbelow": True}):
        figure = Figure(figsize=(15, 1.6 + 0.5 * len(runs)), layout="constrained")
        axes = figure.subplots()
    longest = max((sum(sum(session.seconds.values()) for session in sessions) for _, sessions in runs), default=0.0)
    unit, name = next((unit, name) for unit, name in UNITS if longest >= 3 * unit or unit == 1)
    for category in CATEGORIES:
        axes.barh(0, 0, color=COLORS[category], label=category)
    for i, (_, sessions) in enumerate(runs):
        at = 0.0
        for seconds in _together(sessions):
            for category in sorted(seconds, key=lambda category: category == "down"):
                axes.barh(i, seconds[category] / unit, left=at, height=0.6, color=COLORS[category])
                at += seconds[category] / unit
    axes.set_yticks(range(len(runs)), [curves.plain(name) for name, _ in runs])
    axes.set(xlabel=f"{name} since the first start", ylim=(len(runs) - 0.4, -0.6))
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, ncols=len(CATEGORIES), loc="outside lower left")
    return figure


def _together(sessions: Sequence[SessionSeconds]) -> list[dict[str, float]]:
    """Return seconds by category of each session; neighboring sessions are summed if there are too many to distinguish."""
    size = max(1, -(-len(sessions) // SHOWN))
    groups = [sessions[i : i + size] for i in range(0, len(sessions), size)]
    return [{category: sum(session.seconds[category] for session in group) for category in CATEGORIES} for group in groups]


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f"<p>{html.escape(table.note)}</p>" if table.note else ""
    kind = ' class="text"' if table.text else ""
    return f"<h2>{html.escape(table.title)}</h2>\n<table{kind}>\n<tr>{head}</tr>\n{body}\n</table>\n{note}"


def _picture(caption: str, figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<h2>{html.escape(caption)}</h2>\n<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
