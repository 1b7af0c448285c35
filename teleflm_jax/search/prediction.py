"""Prediction of a wide model's loss from narrow ones: L(C) = a·C^b + c.

Given b, the law is linear in a and c, so b alone is searched (variable projection).
Source: nanoLM and Mu-scaling by Tele-FLM's authors, who fitted this form over widths and found that the law held to 52B.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from scipy import optimize

from teleflm_jax.errors import UserError

LEAST_WIDTHS = 4
"""Fewest widths of a fit with three parameters."""
ENOUGH_WIDTHS = 7
"""Widths below which a warning is due: with 4 to 6 of the authors' seven points, their largest model is predicted 2.2 to 1 % too low."""
FARTHEST = 10.0
"""Size of the predicted model over the largest fitted one, above which a warning is due."""
NEGLIGIBLE = 1e-3
"""Rise of the asymptote, in nats per token, that is never warned about."""
EXPONENTS = -np.geomspace(0.01, 3.0, 1_500)
"""Exponents that are tried; the best one is then refined."""
SAMPLES = 2_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizeRun:
    """A finished run."""

    size: float
    """Parameters, or whatever else the law runs over, such as FLOPs."""
    loss: float
    """Final loss in nats per token."""
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """L(C) = a·C^b + c."""

    a: float
    b: float
    c: float

    def __call__(self, size: float | np.ndarray) -> float | np.ndarray:
        """Return the loss at a size."""
        return self.a * np.power(size, self.b) + self.c


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predicted:
    """Loss that the law gives at one size."""

    size: float
    loss: float
    low: float
    """Ends of the 95 % interval of the law's value; the noise of a run at that size comes on top."""
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewerPoints:
    """The fit to the smallest sizes alone."""

    count: int
    c: float
    predicted: float
    """Loss at the largest size that is asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossFit:
    """The law, its uncertainty, and what it says of larger sizes."""

    law: PowerLaw
    sizes: np.ndarray
    losses: np.ndarray
    """Mean over seeds at each size."""
    residual: float
    """Standard deviation about the law, with three degrees of freedom used."""
    seeds_sigma: float | None
    """Pooled standard deviation between seeds; None if no size has several."""
    predicted: tuple[Predicted, ...]
    samples: np.ndarray
    """a, b, c of each resample [samples, 3]."""
    by_count: tuple[FewerPoints, ...]
    left_out: float | None
    """Predicted minus measured loss of the largest size when it is left out; None with fewer than five sizes."""
    warnings: tuple[str, ...]

    def interval(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends of the 95 % interval at each size."""
        return _interval(self.samples, sizes)


def fit(runs: Sequence[SizeRun], targets: Sequence[float], *, samples: int = SAMPLES, seed: int = 0) -> LossFit:
    """Fit the law to runs of several sizes and predict the loss at target sizes.

    Args:
        runs: of at least four sizes; seeds of one size are averaged.
        targets: sizes at which the loss is predicted.
        samples: of the parametric bootstrap, which draws losses about the law with the larger of residual and seeds' standard error.
        seed: of the bootstrap.

    Raises:
        UserError: fewer than four sizes, a loss that is not finite, or losses that do not fall with size.
    """
    sizes, losses, counts, sigma = _means(runs)
    if losses[-1] >= losses[0]:
        raise UserError(
            f"got a loss of {losses[0]:.4f} at the smallest size and {losses[-1]:.4f} at the largest; allowed: losses that fall with size; "
            "check that all runs have the same data, and each its best rates"
        )
    law = power_law(sizes, losses)
    residual = float(np.sqrt(np.sum((losses - law(sizes)) ** 2) / (len(sizes) - 3)))
    noise = np.maximum(residual, (sigma or 0.0) / np.sqrt(counts))
    draws = law(sizes) + np.random.default_rng(seed).normal(size=(samples, len(sizes))) * noise
    found = _power_laws(sizes, draws)
    low, high = _interval(found, np.array(targets, np.float64))
    predicted = tuple(
        Predicted(size=target, loss=loss, low=min(loss, float(least)), high=max(loss, float(most)))
        for target, loss, least, most in zip(targets, (float(law(target)) for target in targets), low, high, strict=True)
    )
    fewer = [(count, power_law(sizes[:count], losses[:count])) for count in range(LEAST_WIDTHS, len(sizes) + 1)]
    largest = max(targets, default=sizes[-1])
    by_count = tuple(FewerPoints(count=count, c=part.c, predicted=float(part(largest))) for count, part in fewer)
    left_out = float(fewer[-2][1](sizes[-1]) - losses[-1]) if len(fewer) > 1 else None
    return LossFit(
        law=law,
        sizes=sizes,
        losses=losses,
        residual=residual,
        seeds_sigma=sigma,
        predicted=predicted,
        samples=found,
        by_count=by_count,
        left_out=left_out,
        warnings=_warnings(law, by_count, largest / sizes[-1], residual, sigma),
    )


def power_law(sizes: np.ndarray, losses: np.ndarray) -> PowerLaw:
    """Return the law with the least squared error; b lies between -3 and -0.01."""
    unit = np.exp(np.mean(np.log(sizes)))  # sizes about 1: a then has the size of a loss
    x = sizes / unit
    near = int(np.argmin(np.abs(EXPONENTS - _power_laws(x, losses[None])[0, 1])))
    ends = EXPONENTS[min(near + 1, len(EXPONENTS) - 1)], EXPONENTS[max(near - 1, 0)]
    best = optimize.minimize_scalar(_error, bounds=ends, args=(x, losses), method="bounded", options={"xatol": 1e-10})
    b = float(getattr(best, "x"))  # noqa: B009  (scipy's stubs do not know the attribute)
    a, c = _linear(b, x, losses)
    return PowerLaw(a=float(a / unit**b), b=b, c=float(c))


def _linear(b: float, x: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return a and c, given b."""
    return np.linalg.lstsq(np.stack([x**b, np.ones_like(x)], axis=1), losses)[0]


def _error(b: float, x: np.ndarray, losses: np.ndarray) -> float:
    a, c = _linear(b, x, losses)
    return float(np.sum((losses - a * x**b - c) ** 2))


def _power_laws(sizes: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return a, b, c for each row of losses [samples, sizes].

    b is the best value of the grid, moved to the top of the parabola through its neighbours.
    """
    unit = np.exp(np.mean(np.log(sizes)))
    log_x = np.log(sizes / unit)
    centred_losses = losses - losses.mean(axis=1, keepdims=True)
    basis = np.exp(log_x * EXPONENTS[:, None])
    basis -= basis.mean(axis=1, keepdims=True)
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    fall = centred_losses @ basis.T  # the part of the losses that a falling law of each b explains; negative for rising losses
    best = np.clip(np.argmax(fall, axis=1), 1, len(EXPONENTS) - 2)
    left, middle, right = (fall[np.arange(len(losses)), best + k] for k in (-1, 0, 1))
    bend = left - 2 * middle + right
    move = np.where(bend < 0, (left - right) / np.where(bend < 0, 2 * bend, 1.0), 0.0)
    b = EXPONENTS[best] * (EXPONENTS[1] / EXPONENTS[0]) ** np.clip(move, -1, 1)
    powers = np.exp(log_x * b[:, None])
    centred = powers - powers.mean(axis=1, keepdims=True)
    a = np.sum(centred_losses * centred, axis=1) / np.sum(centred**2, axis=1)
    return np.stack([a / unit**b, b, losses.mean(axis=1) - a * powers.mean(axis=1)], axis=1)


def _interval(samples: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b, c = samples.T[:, :, None]
    low, high = np.percentile(a * sizes[None] ** b + c, [2.5, 97.5], axis=0)
    return low, high


def _means(runs: Sequence[SizeRun]) -> tuple[np.ndarray, np.ndarray, np.ndarray, float | None]:
    """Return sizes ascending, the mean loss and the number of seeds at each, and the pooled σ between seeds."""
    for run in runs:
        if not np.isfinite(run.loss) or not run.size > 0:
            raise UserError(
                f"got a loss of {run.loss} at size {run.size:g}; allowed: finite losses and positive sizes; leave out runs that diverged"
            )
    sizes = sorted({run.size for run in runs})
    if len(sizes) < LEAST_WIDTHS:
        raise UserError(f"got {len(sizes)} widths; allowed: at least {LEAST_WIDTHS} for a law with three parameters; train more widths")
    groups = [np.array([run.loss for run in runs if run.size == size]) for size in sizes]
    freedom = sum(len(group) - 1 for group in groups)
    sigma = float(np.sqrt(sum(len(group) * group.var() for group in groups) / freedom)) if freedom else None
    return np.array(sizes, np.float64), np.array([group.mean() for group in groups]), np.array([len(group) for group in groups]), sigma


def _warnings(law: PowerLaw, by_count: Sequence[FewerPoints], reach: float, residual: float, sigma: float | None) -> tuple[str, ...]:
    found = []
    count = by_count[-1].count
    if count < ENOUGH_WIDTHS:
        found.append(
            f"{count} widths: few points under-predict. With 4, 5 and 6 of the seven published points, the largest model is predicted "
            "2.2 %, 1.6 % and 1.0 % too low"
        )
    rise = by_count[-1].c - by_count[0].c
    if rise > max(residual, NEGLIGIBLE) and all(more.c > fewer.c for fewer, more in itertools.pairwise(by_count)):
        climb = " → ".join(f"{part.c:.3f}" for part in by_count)
        found.append(f"c rises with each added width ({climb}): it has not settled, and the prediction is likely too low")
    if reach > FARTHEST:
        found.append(f"the predicted size is {reach:.0f} times the largest fitted one: the interval covers noise, not a law that bends")
    if not EXPONENTS[-1] * 0.999 < law.b < EXPONENTS[0] * 1.001:
        found.append(f"b = {law.b:.3g} is at the end of what was tried: these sizes do not determine the asymptote c")
    if sigma is not None and residual > 3 * sigma:
        found.append(f"the residual ({residual:.4f}) is more than three times the seeds' σ ({sigma:.4f}): the law does not fit these runs")
    return tuple(found)
