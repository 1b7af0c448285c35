"""Figures of runs: losses, gradient norm and learning rate against tokens, speed against steps. Source of the first: report, figure 2.

Every curve has at most 4,000 points (`history.downsample`): a run of millions of steps looks the same and is drawn quickly.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from teleflm_jax import atomic_write
from teleflm_jax.observability import history

STYLE: dict[Any, Any] = {"axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False}

COLUMNS = 4
"""Panels side by side."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunCurves:
    """Data of a run that is drawn."""

    label: str
    """Name of the run; empty if it is the only one."""
    metrics: history.Columns
    evals: Sequence[Mapping[str, Any]]
    """Rows of evals.jsonl."""


def draw(logs: history.Logs) -> pathlib.Path:
    """Draw curves.png into the folder of a run from its logs; return its path."""
    path = logs.folder / "curves.png"
    figure = losses([RunCurves(label="", metrics=logs.metrics(), evals=logs.evals())])
    with atomic_write.replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return path


def losses(runs: Sequence[RunCurves]) -> Figure:
    """Draw training and validation loss, gradient norm and learning rate against tokens."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(20, 4.2), layout="constrained")
        training, validation, gradient, rate = figure.subplots(1, 4)
    _curves(training, runs, "tokens", "loss", "tab:blue")
    training.set(title="training loss", xlabel="tokens", ylabel="nats per token")
    for i, run in enumerate(runs):
        for kind, name in enumerate(sorted({name for row in run.evals for name in row if name.startswith("loss/")})):
            points = np.array([(history.number(row.get("tokens")), history.number(row[name])) for row in run.evals if name in row])
            # one run: a colour a domain; several: a colour a run, and a line style a domain
            look: dict[str, Any] = {"color": f"C{i}", "linestyle": ("-", "--", ":", "-.")[kind % 4]} if run.label else {}
            label = plain(" ".join(filter(None, (run.label, name.removeprefix("loss/")))))
            validation.plot(*points.T, marker="o", markersize=3, label=label, **look)
    if validation.lines:
        validation.legend(frameon=False)
    validation.set(title="validation loss, held-out text", xlabel="tokens", ylabel="nats per token")
    _curves(gradient, runs, "tokens", "grad_norm", "tab:red")
    gradient.set(title="gradient norm before clipping", xlabel="tokens", yscale="log")
    _curves(rate, runs, "tokens", "learning_rate", "tab:orange", smooth=False)
    rate.set(title="learning rate of vector-like weights", xlabel="tokens", ylim=(0, None))
    for axes in (training, validation, gradient, rate) if validation.lines else (training, gradient, rate):
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    return figure


def evaluations(runs: Sequence[RunCurves]) -> list[tuple[str, Figure]]:
    """Draw bits per byte of each domain, and scores of benchmark tasks, against tokens; return figures with captions.

    A kind that no run has measured gets no figure. Source: report, figures 3 and 4.
    """
    kinds = (("Bits per byte on held-out text", "bpb/", "bits per byte"), ("Benchmark tasks", "suite/", "score"))
    return [(title, figure) for title, prefix, unit in kinds if (figure := _panels(runs, prefix, unit)) is not None]


def _panels(runs: Sequence[RunCurves], prefix: str, unit: str) -> Figure | None:
    """Draw one panel for each column whose name has the prefix, with one curve for each run."""
    names = sorted({name for run in runs for row in run.evals for name in row if name.startswith(prefix)})
    if not names:
        return None
    rows = -(-len(names) // COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(15, 3.0 * rows), layout="constrained")
        grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        for i, run in enumerate(runs):
            points = np.array([(history.number(row.get("tokens")), history.number(row[name])) for row in run.evals if name in row])
            axes.plot(*points.reshape(-1, 2).T, marker="o", markersize=3, color=f"C{i}", label=plain(run.label))
        axes.set(title=plain(name.removeprefix(prefix)), xlabel="tokens", ylabel=unit)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if any(run.label for run in runs):
            axes.legend(frameon=False)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    return figure


def speeds(runs: Sequence[RunCurves]) -> Figure:
    """Draw tokens per second and MFU against steps."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(15, 3.6), layout="constrained")
        speed, mfu = figure.subplots(1, 2)
    _curves(speed, runs, "step", "tokens_per_second", "tab:green")
    speed.set(title="tokens per second", xlabel="step", ylim=(0, None))
    _curves(mfu, runs, "step", "mfu", "tab:purple")
    mfu.set(title="MFU", xlabel="step", ylim=(0, None))
    speed.yaxis.set_major_formatter(EngFormatter(sep=""))
    return figure


def plain(label: str) -> str:
    """Escape a label for matplotlib: no formula, no letter that its font may lack, and no leading `_`, which hides it."""
    text = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in label)
    return text.replace("$", r"\$") if not text.startswith("_") else " " + text.replace("$", r"\$")


def _curves(axes: Axes, runs: Sequence[RunCurves], x: str, y: str, color: str, *, smooth: bool = True) -> None:
    """Draw every run's values: faint beside their running mean, or alone; a single run has a colour of its own."""
    for i, run in enumerate(runs):
        known = np.isfinite(run.metrics[x]) & np.isfinite(run.metrics[y])
        position, values = run.metrics[x][known], run.metrics[y][known]
        look: dict[str, Any] = {"color": f"C{i}" if run.label else color}
        if smooth:
            axes.plot(*history.downsample(position, values), linewidth=0.6, alpha=0.35, **look)
        mean = history.running_mean(values) if smooth else values
        axes.plot(*history.downsample(position, mean), linewidth=1.5, label=plain(run.label), **look)
    if any(run.label for run in runs):
        axes.legend(frameon=False)
