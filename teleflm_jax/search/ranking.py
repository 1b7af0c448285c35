"""Ranking of the points of a search, with ties where differences lie within the spread of the seeds.

Source: report, section 3.5: the chosen combination was judged by the rate of loss decrease, the stability of its trend and the stability
of the gradient norm. The report gives no formulas and no order; ours are in docs/search.md, section "How points are ranked".
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from teleflm_jax.errors import UserError

BLOCKS = 256
"""Blocks of equal width in log tokens, over which a curve is averaged before a line is fitted to it."""
SPIKE_WINDOW = 128
"""Steps before a step that decide whether its loss is a spike (definition of OLMo-core)."""
SPIKE_SIGMAS = 6.0
SIGMA = 1.4826
"""Standard deviation of a normal distribution, divided by its median absolute deviation."""
Z95 = 1.96

CRITERIA = {
    "heldout": "held-out bits per byte",
    "loss": "final training loss",
    "decrease": "rate of loss decrease",
    "residual": "residual about the trend",
    "spikes": "spikes",
    "gradient_variation": "variation of gradient norm",
    "gradient_slope": "slope of gradient norm",
}
"""Criterion -> what it is in words. A lower value is better, except for `decrease`; a falling gradient norm is as good as a level one."""
RANK_BY = ("heldout", "decrease", "residual", "spikes", "gradient_variation", "gradient_slope")
"""Default order of the criteria. The final loss comes first because a steep slope from a bad start is not a better model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """A trial's rows and outcome."""

    point: int
    seed: int
    values: Mapping[str, float]
    """Setting -> value."""
    tokens: np.ndarray
    loss: np.ndarray
    """In nats per token, a row a step; NaN where it was not finite."""
    grad_norm: np.ndarray
    """Before clipping."""
    warmup_tokens: float
    """Tokens after which the learning rate is at its peak; earlier rows are not judged."""
    heldout: float | None = None
    """Final bits per byte on held-out text."""
    outcome: str = "completed"
    """completed, diverged, running or waiting."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Mean over seeds and spread (sample standard deviation); of one seed, the uncertainty of the measurement itself."""

    mean: float
    spread: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankedPoint:
    """A point of the search with its place."""

    point: int
    values: Mapping[str, float]
    rank: int | None
    """Place by the first criterion, shared by points that tie in it; None if the point has diverged or has no completed trial."""
    tied: bool
    """True if another point has the same rank."""
    completed: int
    """Number of seeds that have completed."""
    diverged: int
    unfinished: int
    estimates: Mapping[str, Estimate]
    """Criterion -> estimate; without those that were not measured."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking:
    """All points, best first, then unfinished ones, then those that have diverged."""

    points: tuple[RankedPoint, ...]
    rank_by: tuple[str, ...]
    tolerance: Mapping[str, float]
    """Criterion -> largest difference from the best of a group that counts as a tie."""
    notes: tuple[str, ...]

    @property
    def chosen(self) -> RankedPoint:
        """Best point."""
        return self.points[0]


def measure(curve: Curve) -> dict[str, Estimate]:
    """Measure a completed trial by each criterion, with the uncertainty that one run shows by itself."""
    after = (curve.tokens > curve.warmup_tokens) & np.isfinite(curve.loss) & np.isfinite(curve.grad_norm) & (curve.grad_norm > 0)
    if after.sum() < 3:
        raise UserError(
            f"got {after.sum()} finite rows after warm-up in point {curve.point}, seed {curve.seed}; "
            "allowed: at least 3; train longer, or warm up for fewer steps"
        )
    time, loss = blocks(np.log(curve.tokens[after]), curve.loss[after])
    slope, intercept, low, high = map(float, stats.theilslopes(loss, time))
    residuals = loss - intercept - slope * time
    scale = SIGMA * float(np.median(np.abs(residuals - np.median(residuals))))
    norm = curve.grad_norm[after]
    variation = float(norm.std() / norm.mean())
    relative = 1 / math.sqrt(2 * len(loss))  # of a standard deviation that is estimated from so many values
    time, log_norm = blocks(np.log(curve.tokens[after]), np.log(norm))
    trend, _, trend_low, trend_high = map(float, stats.theilslopes(log_norm, time))
    final = float(np.mean(curve.loss[after][-max(1, after.sum() // 20) :]))
    found = {
        "loss": Estimate(mean=final, spread=scale),
        "decrease": Estimate(mean=-slope, spread=(high - low) / 2 / Z95),
        "residual": Estimate(mean=scale, spread=scale * relative),
        "gradient_variation": Estimate(mean=variation, spread=variation * relative),
        "gradient_slope": Estimate(mean=trend, spread=(trend_high - trend_low) / 2 / Z95),
    }
    if curve.heldout is not None:
        found["heldout"] = Estimate(mean=curve.heldout, spread=scale / final * curve.heldout)
    if (count := spikes(curve.loss)) is not None:
        found["spikes"] = Estimate(mean=float(count), spread=math.sqrt(count))
    return found


def blocks(time: np.ndarray, values: np.ndarray, most: int = BLOCKS) -> tuple[np.ndarray, np.ndarray]:
    """Return means over blocks of equal width in time; short curves are returned as they are."""
    if len(time) <= most:
        return time, values
    block = np.minimum(most * (time - time[0]) / (time[-1] - time[0]), most - 1).astype(int)
    count = np.bincount(block, minlength=most)
    known = count > 0
    means = lambda column: np.bincount(block, weights=column, minlength=most)[known] / count[known]  # noqa: E731
    return means(time), means(values)


def spikes(loss: np.ndarray) -> int | None:
    """Count losses above the mean + 6 σ of the 128 steps before them; None if the run is too short for one window."""
    finite = loss[np.isfinite(loss)]
    if len(finite) <= SPIKE_WINDOW:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(finite[:-1], SPIKE_WINDOW)
    return int(np.sum(finite[SPIKE_WINDOW:] > windows.mean(axis=1) + SPIKE_SIGMAS * windows.std(axis=1)))


def rank(curves: Sequence[Curve], rank_by: Sequence[str] = RANK_BY) -> Ranking:
    """Rank points by the criteria in their order; a criterion decides only among points that tie in all before it.

    Raises:
        UserError: a criterion is unknown, no trial has completed, or completed trials have different horizons.
    """
    _check(curves, rank_by)
    measured = {(curve.point, curve.seed): measure(curve) for curve in curves if curve.outcome == "completed"}
    criteria, notes = _criteria(tuple(rank_by), measured)
    points = [_point([curve for curve in curves if curve.point == point], measured) for point in sorted({curve.point for curve in curves})]
    judged = [point for point in points if point.completed and not point.diverged]
    if not judged:
        raise UserError(
            "got a search in which each point has a trial that diverged; allowed: a point without one; search lower learning rates"
        )
    tolerance, by_seeds = _tolerances(judged, criteria)
    if not by_seeds:
        notes.append("one seed a point: ties are judged by the scatter within each run, which is not the spread between seeds")
    if any(point.unfinished for point in points):
        notes.append("provisional: some trials have not finished")
    ordered = []
    for group in _groups(judged, criteria[0], tolerance):
        first = len(ordered) + 1
        ordered += [dataclasses.replace(point, rank=first, tied=len(group) > 1) for point in _order(group, criteria[1:], tolerance)]
    others = [point for point in points if point not in judged]
    return Ranking(
        points=(*ordered, *sorted(others, key=lambda point: (point.diverged > 0, point.point))),
        rank_by=criteria,
        tolerance=tolerance,
        notes=tuple(notes),
    )


def _check(curves: Sequence[Curve], rank_by: Sequence[str]) -> None:
    if unknown := [name for name in rank_by if name not in CRITERIA]:
        raise UserError(f"got search.rank_by with {unknown[0]!r}; allowed: {', '.join(CRITERIA)}")
    if not rank_by or len(set(rank_by)) < len(rank_by):
        raise UserError(f"got search.rank_by = {tuple(rank_by)}; allowed: each criterion at most once, and at least one")
    completed = [curve for curve in curves if curve.outcome == "completed"]
    if not completed:
        raise UserError("got a search without a completed trial; allowed: at least one; finish it with `search run`")
    horizons = sorted({int(curve.tokens[-1]) for curve in completed if len(curve.tokens)})
    if len(horizons) > 1:
        raise UserError(
            f"got trials of {horizons[0]} and of {horizons[-1]} tokens; allowed: one horizon, because it decides which rate is best; "
            "train all trials for the same number of steps"
        )


def _criteria(rank_by: tuple[str, ...], measured: Mapping[tuple[int, int], Mapping[str, Estimate]]) -> tuple[tuple[str, ...], list[str]]:
    """Return the criteria that all completed trials have, and notes about the others."""
    notes = []
    missing = [name for name in rank_by if not all(name in found for found in measured.values())]
    kept = tuple(name for name in rank_by if name not in missing)
    if "heldout" in missing:
        notes.append("not every trial has a held-out loss: the final training loss is compared in its place")
        kept = tuple("loss" if name == "heldout" else name for name in rank_by if name == "heldout" or name in kept and name != "loss")
    if "spikes" in missing:
        notes.append(f"spikes were not counted: that needs more than {SPIKE_WINDOW} steps")
    return kept or ("loss",), notes


def _point(curves: Sequence[Curve], measured: Mapping[tuple[int, int], Mapping[str, Estimate]]) -> RankedPoint:
    found = [measured[curve.point, curve.seed] for curve in curves if curve.outcome == "completed"]
    estimates = {}
    for name in CRITERIA:
        values = [one[name] for one in found if name in one]
        if len(values) == 1:
            estimates[name] = values[0]
        elif values:
            means = [value.mean for value in values]
            estimates[name] = Estimate(mean=float(np.mean(means)), spread=float(np.std(means, ddof=1)))
    return RankedPoint(
        point=curves[0].point,
        values=curves[0].values,
        rank=None,
        tied=False,
        completed=len(found),
        diverged=sum(curve.outcome == "diverged" for curve in curves),
        unfinished=sum(curve.outcome not in ("completed", "diverged") for curve in curves),
        estimates=estimates,
    )


def _tolerances(points: Sequence[RankedPoint], criteria: Sequence[str]) -> tuple[dict[str, float], bool]:
    """Return the pooled σ of each criterion, and whether it is that of seeds: the root of the mean variance over points."""
    several = [point for point in points if point.completed > 1]
    freedom = np.array([point.completed - 1 for point in several] or [1] * len(points))
    tolerance = {}
    for name in criteria:
        variances = np.array([point.estimates[name].spread ** 2 for point in several or points])
        tolerance[name] = float(np.sqrt(np.average(variances, weights=freedom)))
    return tolerance, bool(several)


def _groups(points: Sequence[RankedPoint], name: str, tolerance: Mapping[str, float]) -> list[list[RankedPoint]]:
    """Split points into groups, best first; a group is its best point and all within the tolerance of that."""
    value = {point.point: _cost(name, point.estimates[name].mean) for point in points}
    rest = sorted(points, key=lambda point: (value[point.point], point.point))
    found = []
    while rest:
        best = value[rest[0].point]
        count = sum(value[point.point] - best <= tolerance[name] for point in rest)
        found.append(rest[:count])
        rest = rest[count:]
    return found


def _order(points: Sequence[RankedPoint], criteria: Sequence[str], tolerance: Mapping[str, float]) -> list[RankedPoint]:
    """Order points that tie so far by the other criteria, and finally by their numbers."""
    if not criteria or len(points) == 1:
        return sorted(points, key=lambda point: point.point)
    return [point for group in _groups(points, criteria[0], tolerance) for point in _order(group, criteria[1:], tolerance)]


def _cost(name: str, value: float) -> float:
    if name == "gradient_slope":
        return max(value, 0.0)
    return -value if name == "decrease" else value
