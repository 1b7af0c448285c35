"""The report of runs as one HTML page."""

import pathlib
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from teleflm_jax import atomic_write
from teleflm_jax.observability import curves, page
from teleflm_jax.observability.ledger import CATEGORIES, SessionSeconds
from teleflm_jax.observability.page import Table

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


def write(path: pathlib.Path, title: str, tables: Sequence[Table], figures: Sequence[tuple[str, Figure]]) -> None:
    """Write the page, whole or not at all, and close its figures.

    Args:
        path: of the page.
        title: plain text.
        tables: tables in order; those with `text` come after the pictures, because they are long.
        figures: pictures with their captions.
    """
    parts = [page.table(content) for content in tables if not content.text]
    parts += [page.picture(caption, figure) for caption, figure in figures]
    parts += [page.table(content) for content in tables if content.text]
    atomic_write.write(path, page.document(title, parts).encode(errors="replace"))


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
