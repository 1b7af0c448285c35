"""Figures over widths: loss against rate, the best rate against width, the predicted loss."""

import dataclasses
import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, NullFormatter

from teleflm_jax.observability.curves import STYLE, plain
from teleflm_jax.search.pictures import power_label
from teleflm_jax.search.prediction import LossFit
from teleflm_jax.search.tokens_law import TokensFit, TokensRun
from teleflm_jax.search.transfer import MUP, STANDARD, Optimum, Transfer

NAMES = {MUP: "µP", STANDARD: "standard parametrisation"}
COLORS = {MUP: "tab:blue", STANDARD: "tab:orange"}
REACH = 0.25
"""Height of the panels of losses over the spread of the optima and their curves: losses far above the best one are cut off."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoordinateRow:
    """Size of one activation in one run of a coordinate check."""

    parametrisation: str
    """mup or standard."""
    width: int
    step: int
    """Updates done; 0 is the initial model."""
    activation: str
    size: float
    """Mean absolute value of its coordinates."""


def transfer(found: Sequence[Transfer], rate: str) -> Figure:
    """Draw loss against the rate of that name, a line a width and a panel a parametrisation, with each optimum and its interval."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5 * len(found), 5.2), layout="constrained")
        panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, one in zip(panels, found, strict=True):
        shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(one.optima)))
        for optimum, shade in zip(one.optima, shades, strict=True):
            _landscape(axes, optimum, shade)
        axes.set(title=f"{NAMES[one.parametrisation]}: {_drift(one)}", xscale="log")
        axes.set_xlabel(plain(rate) + (" at the base width" if one.parametrisation == MUP else ""))
        if any(np.isinf(optimum.losses).any() for optimum in one.optima):
            axes.plot([], [], marker="x", color="grey", linestyle="none", label="diverged")
        axes.legend(title="width", frameon=False)
    lowest = min(float(optimum.losses.min()) for one in found for optimum in one.optima)
    highest = max(float(optimum.losses.min()) for one in found for optimum in one.optima)
    finite = np.concatenate([optimum.losses[np.isfinite(optimum.losses)] for one in found for optimum in one.optima])
    top = min(float(finite.max()), highest + 2 * max(highest - lowest, REACH * lowest))
    panels[0].set(ylabel="final loss, nats per token", ylim=(lowest - 0.06 * (top - lowest), top + 0.06 * (top - lowest)))
    return figure


def _landscape(axes: Axes, optimum: Optimum, shade: np.ndarray) -> None:
    known = np.isfinite(optimum.losses)
    errors = np.where(np.isfinite(optimum.spreads), optimum.spreads, 0.0)[known]
    axes.errorbar(
        optimum.rates[known], optimum.losses[known], yerr=errors, color=shade, marker="o", markersize=4, label=f"{optimum.width:,}"
    )
    for rate in optimum.rates[~known]:  # diverged: at the top of the panel
        axes.plot(rate, 0.985, marker="x", color=shade, transform=axes.get_xaxis_transform(), linestyle="none")
    if not optimum.bracketed:
        axes.plot(optimum.rate, optimum.loss, marker="o", markersize=11, markerfacecolor="none", color="tab:red", linestyle="none")
        return
    axes.plot(optimum.rate, optimum.loss, marker="*", markersize=14, color="tab:red", markeredgecolor="white", linestyle="none", zorder=3)
    if math.isfinite(optimum.low):
        axes.plot([optimum.low, optimum.high], [optimum.loss] * 2, color="tab:red", linewidth=1.5, zorder=3)


def _drift(one: Transfer) -> str:
    if not math.isfinite(one.drift):
        return "drift unknown"
    interval = f" [{one.drift_low:+z.2f}, {one.drift_high:+z.2f}]" if math.isfinite(one.drift_low) else ""
    return f"{one.drift:+z.2f}{interval} octaves per doubling"


def optima(found: Sequence[Transfer], rate: str) -> Figure:
    """Draw the best rate against width with its interval, one line for each parametrisation."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.6), layout="constrained")
        axes = figure.subplots()
    widths = sorted({optimum.width for one in found for optimum in one.optima})
    for one in found:
        good = [optimum for optimum in one.optima if optimum.bracketed]
        rates = np.array([optimum.rate for optimum in good])
        ends = np.array([(optimum.low, optimum.high) for optimum in good]).reshape(-1, 2)
        reach = np.nan_to_num(np.abs(ends - rates[:, None])).T
        x, color = [optimum.width for optimum in good], COLORS[one.parametrisation]
        axes.errorbar(x, rates, yerr=reach, color=color, marker="o", capsize=4, label=NAMES[one.parametrisation])
        for optimum in one.optima:
            if not optimum.bracketed:
                axes.plot(optimum.width, optimum.rate, marker="o", markersize=9, markerfacecolor="none", color=color, linestyle="none")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(widths, [f"{width:,}" for width in widths])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    rates = np.array([optimum.rate for one in found for optimum in one.optima])
    axes.set(xlabel="width", ylabel=f"best {plain(rate)}", ylim=(rates.min() / 1.6, rates.max() * 1.6))
    if any(not optimum.bracketed for one in found for optimum in one.optima):
        axes.plot([], [], marker="o", markersize=9, markerfacecolor="none", color="grey", linestyle="none", label="not bracketed")
    axes.legend(frameon=False)
    return figure


def coordinates(rows: Sequence[CoordinateRow]) -> Figure:
    """Draw the coordinate check: size of each activation against width, a line a step; flat lines are what µP promises."""
    parametrisations = [name for name in (MUP, STANDARD) if any(row.parametrisation == name for row in rows)]
    names, steps = list(dict.fromkeys(row.activation for row in rows)), sorted({row.step for row in rows})
    widths = sorted({row.width for row in rows})
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(3.6 * len(names), 6), 3.2 * len(parametrisations) + 0.4), layout="constrained")
        panels = figure.subplots(len(parametrisations), len(names), sharey="col", squeeze=False)
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(steps)))
    for parametrisation, line in zip(parametrisations, panels, strict=True):
        for name, axes in zip(names, line, strict=True):
            for step, shade in zip(steps, shades, strict=True):
                key = (parametrisation, name, step)
                own = sorted((row.width, row.size) for row in rows if (row.parametrisation, row.activation, row.step) == key)
                axes.plot(*np.array(own).reshape(-1, 2).T, "o-", color=shade, markersize=4, label=f"step {step}")
            axes.set(title=plain(name), yscale="log")
            axes.yaxis.set_major_formatter(power_label)
            axes.yaxis.set_minor_formatter(power_label)
            axes.set_xscale("log", base=2)
            axes.set_xticks(widths, [f"{width:,}" for width in widths])
        line[0].set_ylabel(f"{NAMES[parametrisation]}\nmean absolute value")
    for axes in panels[-1]:
        axes.set_xlabel("width")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), frameon=False, ncols=len(steps), loc="outside upper center")
    return figure


def prediction(fit: LossFit, measured: Sequence[tuple[float, float]], *, unit: str = "parameters", labels: Sequence[str] = ()) -> Figure:
    """Draw the law through the fitted sizes, its interval beyond them, and losses that were measured there.

    Args:
        fit: the law.
        measured: (size, loss) of runs that the fit has not seen; may be empty.
        unit: of sizes.
        labels: one for each fitted size, such as its width; may be empty.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(15, 5.0), layout="constrained")
        axes, counts = figure.subplots(1, 2, width_ratios=(3, 2))
    ends = [fit.sizes.min(), fit.sizes.max(), *(one.size for one in fit.predicted), *(size for size, _ in measured)]
    sizes = np.geomspace(min(ends) / 1.2, max(ends) * 1.2, 200)
    low, high = fit.interval(sizes)
    axes.fill_between(sizes, low, high, color="tab:blue", alpha=0.18, linewidth=0, label="95 % interval")
    axes.plot(sizes, fit.law(sizes), color="tab:blue", label=f"{fit.law.a:.3g}·C^{fit.law.b:.3f} + {fit.law.c:.3f}")
    axes.axhline(fit.law.c, color="tab:blue", linestyle=":", linewidth=1)
    axes.plot(fit.sizes, fit.losses, "o", color="black", label="fitted")
    for size, loss, label in zip(fit.sizes, fit.losses, labels, strict=False):
        axes.annotate(plain(label), (size, loss), xytext=(4, 5), textcoords="offset points", fontsize=8)
    predicted = [one.size for one in fit.predicted], [one.loss for one in fit.predicted]
    reach = [[one.loss - one.low for one in fit.predicted], [one.high - one.loss for one in fit.predicted]]
    if fit.predicted:
        axes.errorbar(*predicted, yerr=reach, fmt="D", color="tab:blue", markerfacecolor="white", capsize=4, label="predicted")
    if measured:
        axes.plot(*np.array(measured).T, "*", color="tab:red", markersize=13, label="measured")
    axes.set(xscale="log", yscale="log", xlabel=unit, ylabel="final loss, nats per token")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _plain_log(axes)
    axes.legend(frameon=False)
    _by_count(counts, fit, measured)
    return figure


def tokens(fit: TokensFit, runs: Sequence[TokensRun]) -> Figure:
    """Draw loss against tokens and against compute, a line for each number of parameters, with the law L(N, D)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(15, 5.0), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
    models = sorted({run.parameters for run in runs})
    for model, shade in zip(models, matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(models))), strict=True):
        own = [run for run in runs if run.parameters == model]
        seen = np.geomspace(min(run.tokens for run in own), max(run.tokens for run in own), 50)
        for axes, unit in zip(panels, (1.0, 6 * model), strict=True):
            label = f"{EngFormatter(places=1, sep='')(model)} parameters"
            axes.plot([run.tokens * unit for run in own], [run.loss for run in own], "o", color=shade, label=label)
            axes.plot(seen * unit, fit.law(model, seen), color=shade, linewidth=1)
    for axes, unit in zip(panels, ("tokens", "training FLOPs (6·parameters·tokens)"), strict=True):
        axes.set(xscale="log", yscale="log", xlabel=unit)
        _plain_log(axes)
    panels[0].xaxis.set_major_formatter(EngFormatter(sep=""))
    panels[0].xaxis.set_minor_formatter(NullFormatter())
    panels[0].set(ylabel="final loss, nats per token")
    panels[0].legend(frameon=False)
    return figure


def _plain_log(axes: Axes) -> None:
    """Mark a short logarithmic axis at round numbers: powers of ten are too far apart."""
    low, high = axes.get_ylim()
    ticks = [tick for tick in MaxNLocator(9, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_formatter(NullFormatter())


def _by_count(axes: Axes, fit: LossFit, measured: Sequence[tuple[float, float]]) -> None:
    """Draw c and the predicted loss against the number of sizes used."""
    count = [part.count for part in fit.by_count]
    axes.plot(count, [part.predicted for part in fit.by_count], "o-", color="tab:blue", label="predicted loss at the largest size")
    axes.plot(count, [part.c for part in fit.by_count], "s--", color="tab:purple", label="asymptote c")
    target = max((one.size for one in fit.predicted), default=fit.sizes[-1])
    for size, loss in measured:
        if size == target:
            axes.axhline(loss, color="tab:red", linewidth=1.2, label="measured")
    axes.set(xlabel="smallest sizes used in the fit", ylabel="nats per token")
    axes.set_xticks(count)
    axes.margins(y=0.15)
    axes.legend(frameon=False)
