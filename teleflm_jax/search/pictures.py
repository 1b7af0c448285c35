"""Figures of a search: figure 1 of the report, marginals, parallel coordinates, importance of settings."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, NullFormatter, NullLocator

from teleflm_jax.observability import history
from teleflm_jax.observability.curves import STYLE, plain
from teleflm_jax.search.edges import SearchedRange
from teleflm_jax.search.importance import Importance
from teleflm_jax.search.ranking import CRITERIA, Curve, Ranking, blocks

CHOSEN, OTHER, DIVERGED = "tab:red", "#7d9cc0", "#9a9a9a"
COLUMNS = 4
"""Panels side by side."""
FEW = 12
"""Trials up to which the raw values of all are drawn; of more, only those of the chosen point."""
SMOOTH = 60
"""Parts of a curve that are averaged."""
FENCE = 3.0
"""Quartile distances above the third quartile up to which losses are drawn at their place; higher ones are drawn at the top."""


def curves(trials: Sequence[Curve], chosen: int) -> Figure:
    """Draw loss and gradient norm of all trials against tokens, the chosen point in red. Source: report, figure 1."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(15, 5.2), layout="constrained")
        loss, gradient = figure.subplots(1, 2)
    drawn = [trial for trial in trials if len(trial.tokens)]
    for trial in sorted(drawn, key=lambda trial: (trial.point == chosen, trial.outcome != "diverged")):
        for axes, values in ((loss, trial.loss), (gradient, trial.grad_norm)):
            _curve(axes, trial, values, chosen=trial.point == chosen, raw=trial.point == chosen or len(drawn) <= FEW)
    _limits(loss, [trial.loss for trial in drawn if trial.outcome != "diverged"])
    _limits(gradient, [trial.grad_norm for trial in drawn if trial.outcome != "diverged"])
    loss.set(title="training loss", ylabel="nats per token")
    gradient.set(title="gradient norm before clipping", yscale="log")
    gradient.yaxis.set_major_formatter(power_label)
    gradient.yaxis.set_minor_formatter(power_label)
    for axes in (loss, gradient):
        axes.set(xscale="log", xlabel="tokens")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        if warmup := max((trial.warmup_tokens for trial in drawn), default=0):
            axes.axvline(warmup, color="black", linewidth=0.8, linestyle=":")
    handles = [
        Line2D([], [], color=CHOSEN, linewidth=2, label=f"chosen: point {chosen}"),
        Line2D([], [], color=OTHER, label="other points"),
    ]
    if any(trial.outcome == "diverged" for trial in drawn):
        handles.append(Line2D([], [], color=DIVERGED, linestyle="--", label="diverged"))
    if any(trial.warmup_tokens for trial in drawn):
        handles.append(Line2D([], [], color="black", linewidth=0.8, linestyle=":", label="end of warm-up"))
    loss.legend(handles=handles, frameon=False)
    return figure


def _curve(axes: Axes, trial: Curve, values: np.ndarray, *, chosen: bool, raw: bool) -> None:
    """Draw a trial's means over equal parts of log tokens, and its raw values faintly beside them."""
    known = np.isfinite(values) & (values > 0)
    tokens, values = trial.tokens[known], values[known]
    dashed = trial.outcome == "diverged"
    look: dict[str, Any] = {"color": CHOSEN if chosen else DIVERGED if dashed else OTHER, "linestyle": "--" if dashed else "-"}
    if raw:
        axes.plot(*history.downsample(tokens, values), linewidth=0.5, alpha=0.3, **look)
    time, mean = blocks(np.log(tokens), values, SMOOTH)
    axes.plot(np.exp(time), mean, linewidth=2.0 if chosen else 1.2, **look)


def _limits(axes: Axes, values: Sequence[np.ndarray]) -> None:
    """Show what completed trials span; what diverges leaves the picture."""
    finite = np.concatenate([np.empty(0), *(column[np.isfinite(column) & (column > 0)] for column in values)])
    if len(finite):
        low, high = finite.min(), finite.max()
        axes.set_ylim(low * 0.9, high * 1.1)


def power_label(value: float, _: int) -> str:
    """Label 1, 2 and 5 times the powers of ten."""
    digit = value / 10 ** math.floor(math.log10(value) + 1e-9)
    return f"{value:g}" if round(digit, 6) in (1, 2, 5) else ""


def marginals(ranking: Ranking, ranges: Sequence[SearchedRange]) -> Figure:
    """Draw the first criterion against each setting: a dot a point, and a line through the means at each value."""
    name = ranking.rank_by[0]
    rows = -(-len(ranges) // COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(15, 3.2 * rows + 0.4), layout="constrained")
        grid = figure.subplots(rows, COLUMNS, squeeze=False)
    known = [point for point in ranking.points if name in point.estimates and not point.diverged]
    diverged = [point for point in ranking.points if point.diverged]
    y = np.array([point.estimates[name].mean for point in known])
    quarter, most = np.percentile(y, [25, 75])
    top = min(y.max(), most + FENCE * (most - quarter)) if len(y) > 2 else y.max()
    height = max(top - y.min(), 1e-3 * abs(top))
    for axes, searched in zip(grid.flat, ranges, strict=False):
        x = np.array([point.values[searched.setting] for point in known])
        levels = np.unique(x)
        if len(levels) < len(x):
            axes.plot(levels, [y[x == level].mean() for level in levels], color="black", linewidth=1, zorder=1, label="mean at each value")
        axes.scatter(x[y <= top], y[y <= top], c=OTHER, s=22, label="other points")
        if (y > top).any():
            axes.scatter(x[y > top], [top + 0.1 * height] * int((y > top).sum()), c=OTHER, marker="^", s=30, label="higher than shown")
        if diverged:
            x = [point.values[searched.setting] for point in diverged]
            axes.scatter(x, [top + 0.1 * height] * len(diverged), c=DIVERGED, marker="x", label="diverged")
        chosen = ranking.chosen
        label = f"chosen: point {chosen.point}"
        axes.scatter(chosen.values[searched.setting], chosen.estimates[name].mean, c=CHOSEN, s=70, zorder=3, label=label)
        axes.set(xlabel=plain(searched.setting), ylim=(y.min() - 0.1 * height, top + 0.2 * height))
        if searched.log:
            _log_values(axes, searched.values)
    for axes in grid[:, 0]:
        axes.set_ylabel(CRITERIA[name])
    for axes in grid.flat[len(ranges) :]:
        axes.set_axis_off()
    figure.legend(*grid.flat[0].get_legend_handles_labels(), frameon=False, ncols=5, loc="outside upper center")
    return figure


def _log_values(axes: Axes, values: Sequence[float]) -> None:
    """Mark a logarithmic axis at the values searched, at most five of them."""
    axes.set_xscale("log")
    axes.set_xticks(values[:: -(-len(values) // 5)])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.xaxis.set_minor_locator(NullLocator())


def parallel(ranking: Ranking, ranges: Sequence[SearchedRange]) -> Figure:
    """Draw each point as a line through its values, on one axis a setting and a last one for the first criterion."""
    name = ranking.rank_by[0]
    known = [point for point in ranking.points if name in point.estimates and not point.diverged]
    results = np.array([point.estimates[name].mean for point in known])
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(15, 5.4), layout="constrained")
        axes = figure.subplots()
    shades = matplotlib.colormaps["viridis"](np.argsort(np.argsort(results)) / max(len(results) - 1, 1))
    for point, result, shade in reversed(list(zip(known, results, shades, strict=True))):
        heights = [_height(point.values[searched.setting], searched.values, log=searched.log) for searched in ranges]
        heights.append(_height(result, (results.min(), results.max()), log=False))
        chosen = point is ranking.chosen
        look: dict[str, Any] = (
            {"color": CHOSEN, "linewidth": 3.0, "zorder": 3} if chosen else {"color": shade, "linewidth": 1.3, "alpha": 0.7}
        )
        axes.plot(range(len(heights)), heights, **look)
    for i, searched in enumerate(ranges):
        few = searched.values if len(searched.values) <= 7 else (searched.values[0], searched.values[-1])
        _axis(axes, i, [(value, _height(value, searched.values, log=searched.log)) for value in few])
    _axis(axes, len(ranges), [(results.min(), 0.0), (results.max(), 1.0)] if results.max() > results.min() else [(results.min(), 0.5)])
    labels = [_wrapped(plain(searched.setting)) for searched in ranges] + [_wrapped(CRITERIA[name])]
    axes.set_xticks(range(len(labels)), labels)
    axes.set(yticks=[], xlim=(-0.15, len(ranges) + 0.45), ylim=(-0.06, 1.06))
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    axes.legend(
        handles=[
            Line2D([], [], color=CHOSEN, linewidth=3, label=f"chosen: point {ranking.chosen.point}"),
            Line2D([], [], color=matplotlib.colormaps["viridis"](0.0), label="better"),
            Line2D([], [], color=matplotlib.colormaps["viridis"](1.0), label="worse"),
        ],
        frameon=False,
        ncols=3,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
    )
    return figure


def _height(value: float, values: Sequence[float], *, log: bool) -> float:
    """Return the place of a value between the ends of its axis, from 0 to 1."""
    low, at, high = (np.log(x) if log else x for x in (min(values), value, max(values)))
    return float((at - low) / (high - low)) if high > low else 0.5


def _axis(axes: Axes, place: int, marks: Sequence[tuple[float, float]]) -> None:
    axes.axvline(place, color="black", linewidth=0.8, ymin=0.05, ymax=0.95)
    for value, height in marks:
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
        axes.text(place + 0.03, height, f"{value:.4g}", fontsize=9, va="center", bbox=box, zorder=4)


def _wrapped(name: str) -> str:
    """Break a long name at underscores and dots."""
    words = name.replace("_", "_ ").replace(".", ". ")
    return "\n".join(line.replace("_ ", "_").replace(". ", ".") for line in textwrap.wrap(words, 18))


def importances(found: Importance) -> Figure:
    """Draw the share of each setting as a bar with its interval, most important on top."""
    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "x", "axes.axisbelow": True}):
        figure = Figure(figsize=(10, 1.2 + 0.45 * len(found.settings)), layout="constrained")
        axes = figure.subplots()
    places = np.arange(len(found.settings))
    reach = np.abs(found.intervals - found.shares[:, None]).T * (np.sign(found.intervals - found.shares[:, None]).T * [[-1], [1]] > 0)
    axes.barh(places, found.shares, xerr=reach, color=OTHER, ecolor="black", capsize=3, height=0.6)
    axes.set_yticks(places, [plain(name) for name in found.settings])
    axes.invert_yaxis()
    axes.set(xlabel="share of the variance of the final loss, with 95 % interval", xlim=(0, None))
    return figure
