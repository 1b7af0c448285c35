"""Loss against parameters and tokens: L(N, D) = E + A/N^α + B/D^β, the form of Chinchilla (Hoffmann and others, 2022).

Given α and β, the law is linear in E, A and B, which must not be negative. Each run counts once, with a schedule that has finished: a loss
from the middle of a longer schedule is too high, and would pass for a law of its own.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import optimize

from teleflm_jax.errors import UserError

LEAST_RUNS = 6
"""Fewest runs of a fit with five parameters."""
LEAST_VALUES = 3
"""Fewest different numbers of parameters, and of tokens: with two, every exponent fits."""
EXPONENTS = np.geomspace(0.05, 2.0, 24)
"""Values of α and β that are tried; the best pair is then refined."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokensRun:
    """A run whose schedule has finished."""

    parameters: float
    tokens: float
    loss: float
    """Final loss in nats per token."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokensLaw:
    """L(N, D) = E + A/N^α + B/D^β."""

    floor: float
    """E, the loss that neither parameters nor tokens remove."""
    a: float
    alpha: float
    b: float
    beta: float

    def __call__(self, parameters: float | np.ndarray, tokens: float | np.ndarray) -> float | np.ndarray:
        """Return the loss of a model of so many parameters after so many tokens."""
        return self.floor + self.a * np.power(parameters, -self.alpha) + self.b * np.power(tokens, -self.beta)

    @property
    def parameters_exponent(self) -> float:
        """Exponent with which the best number of parameters grows with compute: β / (α + β)."""
        return self.beta / (self.alpha + self.beta)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokensFit:
    """The law and how well it fits."""

    law: TokensLaw
    residual: float
    """Standard deviation about the law, with five degrees of freedom used."""
    warnings: tuple[str, ...]


def fit(runs: Sequence[TokensRun]) -> TokensFit:
    """Fit the law to runs by least squares.

    Raises:
        UserError: too few runs, or too few different numbers of parameters or tokens.
    """
    n, d, losses = (np.array([getattr(run, name) for run in runs], np.float64) for name in ("parameters", "tokens", "loss"))
    values = len(set(n)), len(set(d))
    if len(runs) < LEAST_RUNS or min(values) < LEAST_VALUES:
        raise UserError(
            f"got {len(runs)} runs with {values[0]} numbers of parameters and {values[1]} of tokens; allowed: at least {LEAST_RUNS}, "
            f"{LEAST_VALUES} and {LEAST_VALUES} for a law with five parameters; train more widths, each for several budgets"
        )
    if not np.isfinite(losses).all():
        raise UserError("got a loss that is not finite; allowed: finite losses; leave out runs that diverged")
    units = float(np.exp(np.log(n).mean())), float(np.exp(np.log(d).mean()))
    x, y = n / units[0], d / units[1]
    pairs = [(alpha, beta) for alpha in EXPONENTS for beta in EXPONENTS]
    start = min(pairs, key=lambda pair: _linear(pair, x, y, losses)[1])
    low, high = EXPONENTS[0], EXPONENTS[-1]
    options = {"xatol": 1e-8, "fatol": 1e-14, "maxiter": 2_000}
    found = optimize.minimize(
        lambda pair: _linear(pair, x, y, losses)[1], start, method="Nelder-Mead", bounds=[(low, high)] * 2, options=options
    )
    alpha, beta = map(float, found.x)
    (floor, a, b), error = _linear((alpha, beta), x, y, losses)
    law = TokensLaw(floor=float(floor), a=float(a * units[0] ** alpha), alpha=alpha, b=float(b * units[1] ** beta), beta=beta)
    freedom = len(runs) - 5
    return TokensFit(law=law, residual=error / np.sqrt(freedom), warnings=_warnings(law, n.min(), d.min()))


def _linear(exponents: Sequence[float], x: np.ndarray, y: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, float]:
    """Return E, A and B, none of them negative, and the norm of the errors, given the exponents."""
    terms = np.stack([np.ones_like(x), x ** -exponents[0], y ** -exponents[1]], axis=1)
    return optimize.nnls(terms, losses)


def _warnings(law: TokensLaw, parameters: float, tokens: float) -> tuple[str, ...]:
    """Return what the runs do not determine; the smallest numbers of parameters and tokens say how large a term is at most."""
    found = []
    for name, exponent, largest in (("α", law.alpha, law.a * parameters**-law.alpha), ("β", law.beta, law.b * tokens**-law.beta)):
        if largest < 1e-6:
            found.append(f"the term of {name} is zero: the loss does not fall with it in these runs")
        elif not EXPONENTS[0] * 1.01 < exponent < EXPONENTS[-1] * 0.99:
            found.append(f"{name} = {exponent:.3g} is at the end of what was tried: these runs do not determine it")
    if law.floor < 1e-6:
        found.append("E is zero: these runs do not determine the floor")
    return tuple(found)
