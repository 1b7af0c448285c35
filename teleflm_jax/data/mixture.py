"""Mixture of domains: the domain of the n-th example of a run and its position in that domain, by arithmetic without state or files.

Example n is at u = frac((n·GOLDEN + offset) / 2^64), and the domains divide [0, 1) by their weights, in the order of their names.
Multiples of the golden ratio fill the interval as evenly as any sequence can, so among any n examples a domain of weight w has n·w of them
up to a small constant, and consecutive examples are far apart in the interval. The number of draws of a domain before n is a sum of
floors, which Euclid's algorithm computes in about 60 steps, so a run can start at any example. A change of weights moves the borders from
its step on, and the counts continue. All integers are exact: u in 64-bit arithmetic that wraps by definition, sums and positions in Python
integers.

Our choice: Grain's own mixture derives positions from the current weights alone and therefore repeats and skips records after a change.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np

from teleflm_jax.errors import UserError

MODULUS = 2**64
GOLDEN = 11400714819323198485  # the odd number next to 2^64 divided by the golden ratio

History = tuple[tuple[int, Mapping[str, float]], ...]
"""((from_step, {domain: weight}), …): the weights that apply from each step on; steps ascend from 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """Weights that apply from example `start` on: domain d has u in [borders[d], borders[d + 1]) / 2^64."""

    start: int
    borders: tuple[int, ...]
    surplus: tuple[int, ...]
    """Draws of each domain before `start`, minus the draws that these borders would have made."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
    """The order of a run's examples over its domains."""

    domains: tuple[str, ...]
    batch_size: int
    offset: int
    phases: tuple[Phase, ...]

    def locate(self, step: int, rows: range) -> tuple[np.ndarray, list[int]]:
        """Locate the examples of some rows of one step's batch.

        Returns:
            For each row, the index into `domains` (int64 [rows]) and the position in that domain's own order (Python integers).
        """
        first = step * self.batch_size + rows.start
        phase = self._phase(first)
        u = (np.uint64(first) + np.arange(len(rows), dtype=np.uint64)) * np.uint64(GOLDEN) + np.uint64(self.offset)
        inner = np.array([border for border in phase.borders[1:-1] if border < MODULUS], dtype=np.uint64)
        chosen = np.searchsorted(inner, u, side="right")
        following = _drawn(phase, self.offset, first)
        positions = []
        for domain in chosen:
            positions.append(following[domain])
            following[domain] += 1
        return chosen, positions

    def counts(self, examples: int) -> dict[str, int]:
        """Return the number of draws of each domain among the first `examples`."""
        return dict(zip(self.domains, _drawn(self._phase(examples), self.offset, examples), strict=True))

    def _phase(self, example: int) -> Phase:
        return next(phase for phase in reversed(self.phases) if phase.start <= example)


def build(history: History, *, batch_size: int, seed: int) -> Mixture:
    """Build the mixture of a run from the history of its weights.

    Raises:
        UserError: The history does not begin at step 0 or does not ascend.
    """
    steps = [step for step, _ in history]
    if not steps or steps[0] != 0 or any(a >= b for a, b in zip(steps, steps[1:], strict=False)):
        raise UserError(f"got a mixture history from steps {steps}; allowed: ascending steps from 0; start from another checkpoint")
    domains = tuple(sorted({domain for _, weights in history for domain in weights}))
    offset = int.from_bytes(hashlib.blake2b(f"mixture {seed}".encode(), digest_size=8).digest(), "big")
    phases: list[Phase] = []
    for step, weights in history:
        start = step * batch_size
        borders = _borders([weights.get(domain, 0.0) for domain in domains])
        before = _drawn(phases[-1], offset, start) if phases else [0] * len(domains)
        surplus = tuple(drawn - alone for drawn, alone in zip(before, _shares(borders, offset, start), strict=True))
        phases.append(Phase(start=start, borders=borders, surplus=surplus))
    return Mixture(domains=domains, batch_size=batch_size, offset=offset, phases=tuple(phases))


def extend_history(history: History, step: int, weights: Mapping[str, float], *, change: bool) -> History:
    """Return the history of a run that resumes at data step `step`, extended by `weights` if they differ from the current ones.

    Args:
        history: History of the checkpoint; empty for a new run.
        step: Data step.
        weights: Weights of the configuration.
        change: True if a change of the mixture is intended.

    Raises:
        UserError: The weights differ from the current ones and `change` is False.
    """
    if not history:
        return ((0, dict(weights)),)
    if dict(history[-1][1]) == dict(weights):
        return history
    if not change:
        raise UserError(
            f"got data.proportions={dict(weights)}, but the run has used {dict(history[-1][1])} so far; allowed: the same, or an intended "
            "change; change them back, or add --gin_param 'data.change_proportions = True'"
        )
    return (*(entry for entry in history if entry[0] < step), (step, dict(weights)))


def refuse_exhaustion(mixture: Mixture, *, steps: int, records: Mapping[str, int], max_epochs: Mapping[str, float]) -> None:
    """Check before step 0 that no domain is repeated more often than the run allows; proportions are kept, so the user has to choose.

    Raises:
        UserError: A domain runs out; the message names the step and the remedies.
    """
    for domain, epochs in sorted(max_epochs.items()):
        limit = math.floor(epochs * records[domain] + 1e-9)  # 0.7 · 10 is 7
        wanted = mixture.counts(steps * mixture.batch_size)[domain]
        if wanted <= limit:
            continue
        low, high = 0, steps  # the records suffice for `low` steps and not for `high` steps
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if mixture.counts(middle * mixture.batch_size)[domain] <= limit else (low, middle)
        raise UserError(
            f"got data.max_epochs[{domain!r}]={epochs} for {steps:,} steps: {domain} has {records[domain]:,} records, may be drawn "
            f"{limit:,} times and would be drawn "
            f"{wanted:,} times, so it runs out at step {low:,}; allowed: enough text; set train.steps to at most {low:,}, raise "
            f"data.max_epochs[{domain!r}] to "
            f"{math.ceil(wanted / max(1, records[domain]) * 1000) / 1000}, lower its data.proportions, or pack more text"
        )


def _borders(weights: list[float]) -> tuple[int, ...]:
    exact = [Fraction(weight) for weight in weights]
    total = sum(exact)
    return tuple(int(sum(exact[:i], Fraction(0)) / total * MODULUS) for i in range(len(exact) + 1))


def _drawn(phase: Phase, offset: int, example: int) -> list[int]:
    return [surplus + share for surplus, share in zip(phase.surplus, _shares(phase.borders, offset, example), strict=True)]


def _shares(borders: tuple[int, ...], offset: int, examples: int) -> list[int]:
    """Count the n < examples whose (GOLDEN·n + offset) mod 2^64 lies between consecutive borders.

    y mod 2^64 is below a border exactly if floor((y + 2^64 - border) / 2^64) equals floor(y / 2^64); otherwise the former is greater by 1.
    """
    whole = _floor_sum(examples, GOLDEN, offset)
    below = [examples + whole - _floor_sum(examples, GOLDEN, offset + MODULUS - border) for border in borders]
    return [high - low for low, high in zip(below, below[1:], strict=False)]


def _floor_sum(n: int, a: int, b: int) -> int:
    """Sum floor((a·i + b) / 2^64) over i < n; Euclid's algorithm on the lattice points under the line."""
    m, total = MODULUS, 0
    while n:
        total += n * (n - 1) // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        n, b = divmod(a * n + b, m)
        m, a = a, m
    return total
