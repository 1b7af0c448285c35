"""Transfer of the best learning rate across widths, under µP and under standard parametrisation.

What is claimed is that the optimum stays where it is, not that µP reaches a lower loss than a standard parametrisation tuned at each width.
Source: Tensor Programs V; the picture (loss against rate, a line a width) is that of Mu-scaling by Tele-FLM's authors.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import interpolate, stats

from teleflm_jax.errors import UserError

MUP, STANDARD = "mup", "standard"
REACH = 2
"""Rates on each side of the lowest loss that the quadratic is fitted to."""
NARROW = 256
"""Width below which the optimum may drift even under µP (Tensor Programs V asks for at least this width and four layers)."""
SHALLOW = 4
SAMPLES = 1_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class RateRun:
    """A finished run at one width and one rate."""

    width: int
    rate: float
    """Searched rate, as written at the base width under µP."""
    seed: int
    loss: float
    """Final loss; not finite if the run has diverged."""
    parametrisation: str
    """mup or standard."""
    base_width: int
    """mup.base_width of the run; equal to its width under standard parametrisation."""
    shape: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Quantities that must be equal in all runs: head size, layers, vocabulary, batch tokens, steps, …"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimum:
    """Best rate at one width."""

    width: int
    rates: np.ndarray
    """Rates tried, ascending."""
    losses: np.ndarray
    """Mean over seeds at each rate; infinite if one has diverged."""
    spreads: np.ndarray
    """Sample standard deviation over seeds; NaN where there is one seed."""
    rate: float
    """Lowest point of the quadratic in log2 rate; the best rate tried if the optimum is not bracketed."""
    loss: float
    """Loss at that point."""
    low: float
    """Ends of the 95 % interval of the rate; NaN with one seed or without a bracket."""
    high: float
    samples: np.ndarray
    """log2 of the optimum in each resample; empty with one seed or without a bracket."""
    bracketed: bool
    """True if rates below and above the best one were tried."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WidthStep:
    """Losses of two neighbouring widths at the chosen rate."""

    narrow: int
    wide: int
    difference: float
    """Loss of the wider model minus that of the narrower."""
    allowed: float
    """Two standard errors of that difference; NaN with one seed."""

    @property
    def worse(self) -> bool:
        """True if the wider model is worse beyond two standard errors."""
        return self.difference > (0.0 if math.isnan(self.allowed) else self.allowed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer:
    """Result for one parametrisation."""

    parametrisation: str
    optima: tuple[Optimum, ...]
    """By width, ascending."""
    drift: float
    """Octaves of rate per doubling of width, by regression over the bracketed widths; NaN with fewer than two."""
    drift_low: float
    """Ends of the 95 % interval of the drift, from the seeds; NaN where it is unknown."""
    drift_high: float
    shift: float
    """Octaves from the narrowest to the widest bracketed width."""
    penalty: float
    """Loss that the narrowest width's best rate adds at the widest width; infinite if it diverges there."""
    chosen_rate: float
    """Rate tried that is nearest to the narrowest width's optimum."""
    steps: tuple[WidthStep, ...]
    notes: tuple[str, ...]


def judge(runs: Sequence[RateRun], *, samples: int = SAMPLES, seed: int = 0) -> list[Transfer]:
    """Judge the transfer under each parametrisation that the runs have, µP first.

    Raises:
        UserError: the runs cannot be compared: see `check`.
    """
    check(runs)
    found = []
    for name in (MUP, STANDARD):
        if own := [run for run in runs if run.parametrisation == name]:
            found.append(_transfer(name, own, np.random.default_rng(seed), samples))
    return found


def check(runs: Sequence[RateRun]) -> None:
    """Refuse runs whose optima cannot be compared.

    Raises:
        UserError: a shape differs, a parametrisation is not what it is called, or there are fewer than two widths or three rates.
    """
    if not runs:
        raise UserError("got no finished run; allowed: at least two widths and three rates; run the trials first")
    for name in sorted({name for run in runs for name in run.shape}):
        values = sorted({run.shape.get(name, math.nan) for run in runs})
        if len(values) > 1:
            raise UserError(
                f"got runs with {name} {values[0]:g} and {values[-1]:g}; allowed: one, because only the width may differ in a transfer"
            )
    for name in sorted({run.parametrisation for run in runs}):
        own = [run for run in runs if run.parametrisation == name]
        if name not in (MUP, STANDARD):
            raise UserError(f"got parametrisation {name!r}; allowed: {MUP}, {STANDARD}")
        bases = sorted({run.base_width for run in own})
        if name == MUP and len(bases) > 1:
            raise UserError(f"got µP runs with base widths {bases}; allowed: one, because a run at its own base width transfers nothing")
        if name == STANDARD and (wrong := [run for run in own if run.base_width != run.width]):
            raise UserError(
                f"got a standard run of width {wrong[0].width} with mup.base_width = {wrong[0].base_width}; allowed: its own width; "
                "change mup.base_width"
            )
        widths, rates = {run.width for run in own}, {run.rate for run in own}
        if len(widths) < 2 or len(rates) < 3:
            raise UserError(f"got {len(widths)} widths and {len(rates)} rates ({name}); allowed: at least two widths and three rates")


def optimum(runs: Sequence[RateRun], deviations: np.ndarray, generator: np.random.Generator, samples: int) -> Optimum:
    """Find the best rate of runs of one width by a quadratic in log2 rate about the lowest loss.

    Args:
        runs: of one width.
        deviations: of single runs from the means of their seeds (`seed_deviations`); the bootstrap draws losses about the means from them.
        generator: of the bootstrap.
        samples: of the bootstrap.

    Raises:
        UserError: every rate has a run that diverged.
    """
    rates, groups = _by_rate(runs)
    losses = np.array([group.mean() for group in groups])
    spreads = np.array([group.std(ddof=1) if len(group) > 1 and np.isfinite(group).all() else math.nan for group in groups])
    if not np.isfinite(losses).any():
        raise UserError(f"got only diverged runs at width {runs[0].width}; allowed: a rate that trains; try lower rates")
    best = int(losses.argmin())
    bracketed = 0 < best < len(rates) - 1
    octaves = np.log2(rates)
    at, loss = _lowest(octaves, losses)
    found = np.empty(0)
    if bracketed and len(deviations):
        counts = np.array([len(group) for group in groups])
        error = generator.choice(deviations, (samples, len(rates), counts.max())) * (np.arange(counts.max()) < counts[:, None])
        found = np.array([_lowest(octaves, row)[0] for row in losses + error.sum(axis=2) / counts])
    low, high = np.exp2(np.percentile(found, [2.5, 97.5])) if len(found) else (math.nan, math.nan)
    return Optimum(
        width=runs[0].width,
        rates=rates,
        losses=losses,
        spreads=spreads,
        rate=float(2**at),
        loss=loss,
        low=float(low),
        high=float(high),
        samples=found,
        bracketed=bracketed,
    )


def seed_deviations(widths: Sequence[Sequence[RateRun]]) -> np.ndarray:
    """Return deviations from the mean of the seeds at the rates near the optimum of each width, scaled to the variance of one run.

    They are pooled over widths, because one width has few, and widened by Student's t for the number that there is.
    """
    near = []
    for runs in widths:
        _, groups = _by_rate(runs)
        best = int(np.argmin([group.mean() for group in groups]))
        near += [group for group in groups[max(0, best - REACH) : best + REACH + 1] if len(group) > 1 and np.isfinite(group).all()]
    if not near:
        return np.empty(0)
    widening = stats.t.ppf(0.975, sum(len(group) - 1 for group in near)) / stats.norm.ppf(0.975)
    return np.concatenate([(group - group.mean()) * math.sqrt(len(group) / (len(group) - 1)) for group in near]) * widening


def _by_rate(runs: Sequence[RateRun]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the rates, ascending, and the losses at each; infinite for diverged runs."""
    rates = np.array(sorted({run.rate for run in runs}))
    return rates, [np.array([run.loss if math.isfinite(run.loss) else math.inf for run in runs if run.rate == rate]) for rate in rates]


def _lowest(octaves: np.ndarray, losses: np.ndarray) -> tuple[float, float]:
    """Return place and loss of the lowest point: the quadratic's if it lies between the neighbours, or else that of the best rate tried."""
    best = int(losses.argmin())
    window = slice(max(0, best - REACH), best + REACH + 1)
    known = np.isfinite(losses[window])
    x, y = octaves[window][known] - octaves[best], losses[window][known]
    if 0 < best < len(losses) - 1 and len(x) >= 3:
        curve, slope, level = np.polyfit(x, y, 2)
        if curve > 0 and octaves[best - 1] <= octaves[best] - slope / (2 * curve) <= octaves[best + 1]:
            return float(octaves[best] - slope / (2 * curve)), float(level - slope**2 / (4 * curve))
    return float(octaves[best]), float(losses[best])


def _transfer(name: str, runs: Sequence[RateRun], generator: np.random.Generator, samples: int) -> Transfer:
    widths = sorted({run.width for run in runs})
    groups = [[run for run in runs if run.width == width] for width in widths]
    deviations = seed_deviations(groups)
    optima = tuple(optimum(group, deviations, generator, samples) for group in groups)
    good = [one for one in optima if one.bracketed]
    drift, low, high, shift, penalty = (math.nan,) * 5
    if len(good) > 1:
        doublings = np.log2([one.width for one in good])
        places = np.log2([one.rate for one in good])
        drift, shift = _slope(doublings, places), float(places[-1] - places[0])
        penalty = _penalty(good[-1], good[0].rate)
        if all(len(one.samples) for one in good):
            slopes = [_slope(doublings, row) for row in np.stack([one.samples for one in good], axis=1)]
            low, high = (float(end) for end in np.percentile(slopes, [2.5, 97.5]))
    chosen = _chosen(optima)
    return Transfer(
        parametrisation=name,
        optima=optima,
        drift=drift,
        drift_low=low,
        drift_high=high,
        shift=shift,
        penalty=penalty,
        chosen_rate=chosen,
        steps=_steps(runs, widths, chosen),
        notes=_notes(name, runs, optima),
    )


def _penalty(one: Optimum, rate: float) -> float:
    """Return the loss added by a rate that is not the best one, from a spline in log2 rate; infinite above rates that train, NaN below."""
    finite = np.isfinite(one.losses)
    octaves = np.log2(one.rates[finite])
    if not octaves[0] <= math.log2(rate) <= octaves[-1]:
        return math.inf if math.log2(rate) > octaves[-1] and not finite.all() else math.nan
    curve = interpolate.CubicSpline(octaves, one.losses[finite])
    return float(curve(math.log2(rate)) - curve(math.log2(one.rate)))


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.polyfit(x, y, 1)[0])


def _chosen(optima: Sequence[Optimum]) -> float:
    """Return the rate tried at every width that is nearest to the narrowest width's optimum."""
    common = sorted(set.intersection(*(set(one.rates.tolist()) for one in optima)))
    return min(common or optima[0].rates.tolist(), key=lambda rate: abs(math.log2(rate / optima[0].rate)))


def _steps(runs: Sequence[RateRun], widths: Sequence[int], rate: float) -> tuple[WidthStep, ...]:
    losses = {width: np.array([run.loss for run in runs if run.width == width and run.rate == rate]) for width in widths}
    found = []
    for narrow, wide in itertools.pairwise([width for width in widths if len(losses[width])]):
        pair = losses[narrow], losses[wide]
        variance = sum(group.var(ddof=1) / len(group) if len(group) > 1 else math.nan for group in pair)
        difference = float(pair[1].mean() - pair[0].mean())
        found.append(WidthStep(narrow=narrow, wide=wide, difference=difference, allowed=2 * math.sqrt(variance)))
    return tuple(found)


def _notes(name: str, runs: Sequence[RateRun], optima: Sequence[Optimum]) -> tuple[str, ...]:
    notes = []
    for one in optima:
        if not one.bracketed:
            end = "lowest" if one.rate == one.rates[0] else "highest"
            notes.append(
                f"width {one.width}: not bracketed, the best rate is the {end} tried ({one.rate:.3g}); it is left out of the drift"
            )
    if max(len([run for run in runs if run.width == one.width]) / len(one.rates) for one in optima) == 1:
        notes.append("one seed: no intervals; a drift within the noise between seeds cannot be told from none")
    if name == MUP and optima[0].width < NARROW:
        notes.append(f"narrowest width {optima[0].width}: below {NARROW} the optimum may drift under µP too")
    if name == MUP and (layers := runs[0].shape.get("layers", SHALLOW)) < SHALLOW:
        notes.append(f"{layers:g} layers: transfer is expected from {SHALLOW} layers on")
    return tuple(notes)
