"""Importance of each setting of a search: its share of the variance of the final loss.

On a full grid a share is the variance of the means at each of the setting's values, divided by the variance of all points (a main effect).
Elsewhere it is that of the setting's term in a quadratic without products, fitted by ridge regression. The rest is interactions and noise.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from teleflm_jax.errors import UserError
from teleflm_jax.search import edges

RIDGE = 1e-3
"""Penalty per point on coefficients, of terms scaled to unit variance: settles fits with more terms than points."""
SAMPLES = 1_000
LEAST_POINTS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class PointLosses:
    """Final losses of one point of the search."""

    values: Mapping[str, float]
    losses: tuple[float, ...]
    """One a seed; without diverged ones."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Importance:
    """Shares of all settings."""

    settings: tuple[str, ...]
    """Settings that vary, most important first."""
    shares: np.ndarray
    samples: np.ndarray
    """Shares in each resample [samples, settings]."""
    method: str
    notes: tuple[str, ...]

    @property
    def intervals(self) -> np.ndarray:
        """Ends of the 95 % interval of each share [settings, 2]."""
        return np.percentile(self.samples, [2.5, 97.5], axis=0).T

    def more_than(self, first: Sequence[str], second: Sequence[str]) -> float:
        """Return the part of resamples in which the mean share of the first settings is larger than that of the second ones."""
        means = [self.samples[:, [self.settings.index(name) for name in names]].mean(axis=1) for names in (first, second)]
        return float(np.mean(means[0] > means[1]))


def importance(points: Sequence[PointLosses], *, samples: int = SAMPLES, seed: int = 0) -> Importance:
    """Compute shares and their bootstrap: over the seeds of each point on a grid with several of them, else over points and their seeds.

    Raises:
        UserError: fewer than four points have a loss, or no setting varies.
    """
    used = [point for point in points if point.losses]
    if len(used) < LEAST_POINTS:
        raise UserError(
            f"got {len(used)} points with a completed trial; allowed: at least {LEAST_POINTS} for importances; search more points"
        )
    settings = [name for name in used[0].values if len({point.values[name] for point in used}) > 1]
    if not settings:
        raise UserError("got a search in which no setting varies; allowed: at least one with two values")
    values = np.array([[point.values[name] for name in settings] for point in used], np.float64)
    grid = _is_grid(values)
    notes = []
    if len(used) < len(points):
        notes.append(
            f"{len(points) - len(used)} of {len(points)} points have no completed trial and are left out: what diverges does not count"
        )
    if not grid and len(used) <= 2 * len(settings):
        notes.append(f"{len(used)} points for {len(settings)} settings: settings that move together share what either explains")
    share = _grid_shares if grid else _fit_shares
    found = share(values, np.array([np.mean(point.losses) for point in used]))
    order = np.argsort(-found, kind="stable")
    generator = np.random.default_rng(seed)
    resampled = np.array([share(*_resample(values, used, generator, keep=grid)) for _ in range(samples)])
    return Importance(
        settings=tuple(settings[i] for i in order),
        shares=found[order],
        samples=resampled[:, order],
        method="means at each value of a full grid" if grid else "quadratic fit without products",
        notes=tuple(notes),
    )


def _resample(
    values: np.ndarray, points: Sequence[PointLosses], generator: np.random.Generator, *, keep: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Draw seeds of each point, and points too unless they are to be kept and have several seeds each."""
    keep = keep and min(len(point.losses) for point in points) > 1
    chosen = np.arange(len(points)) if keep else generator.integers(len(points), size=len(points))
    return values[chosen], np.array([generator.choice(points[i].losses, len(points[i].losses)).mean() for i in map(int, chosen)])


def _is_grid(values: np.ndarray) -> bool:
    levels = [sorted(set(column)) for column in values.T]
    return math.prod(map(len, levels)) == len(values) and set(itertools.product(*levels)) == set(map(tuple, values.tolist()))


def _grid_shares(values: np.ndarray, losses: np.ndarray) -> np.ndarray:
    total = losses.var()
    if total == 0:
        return np.zeros(values.shape[1])
    found = []
    for column in values.T:
        levels = np.unique(column, return_inverse=True)[1]
        count = np.bincount(levels)
        means = np.bincount(levels, weights=losses) / count
        found.append(np.average((means - losses.mean()) ** 2, weights=count) / total)
    return np.array(found)


def _fit_shares(values: np.ndarray, losses: np.ndarray) -> np.ndarray:
    total = losses.var()
    if total == 0:
        return np.zeros(values.shape[1])
    terms = np.stack([term for column in values.T for term in _terms(column)], axis=1)
    target = losses - losses.mean()
    weights = np.linalg.solve(terms.T @ terms + RIDGE * len(losses) * np.eye(terms.shape[1]), terms.T @ target)
    effects = (terms * weights).reshape(len(losses), -1, 2).sum(axis=2)
    return effects.var(axis=0) / total


def _terms(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the linear and the quadratic term of a setting, orthogonal and of unit variance; zeros for what does not vary."""
    x = _unit(np.log(column) if edges.is_log(column.tolist()) else column)
    square = _unit(x**2)
    return x, _unit(square - x * (x @ square) / len(x))


def _unit(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean()
    scale = centred.std()
    return centred / scale if scale > 1e-9 else np.zeros_like(x)
