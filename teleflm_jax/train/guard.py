"""Judging a run by its figures: spikes and rises of the loss, copies of weights that differ, processes that are slow. Pure functions.

Source: the report saw random spikes with a normal gradient norm, which passed, and ties danger to a loss that rises while the norm does;
the thresholds are ours (`GuardConfig`).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from teleflm_jax.train.config import GuardConfig

WINDOW = 200
"""Steps that are looked back on."""
ENOUGH = 50
"""Steps before anything is judged."""
STARVED = 0.1
"""Part of a step."""
SPIKE, RISE = "spike", "rise"
"""Names of events."""
SIGMA = 1.4826
"""Of a normal distribution, standard deviation by median absolute deviation."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Loss and gradient norm of the recent steps, oldest first."""

    losses: tuple[float, ...] = ()
    norms: tuple[float, ...] = ()

    def with_step(self, loss: float, norm: float) -> "Memory":
        """Add a step, forget what is too old."""
        return Memory((*self.losses, loss)[-WINDOW:], (*self.norms, norm)[-WINDOW:])


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a step's figures mean."""

    event: str
    """SPIKE or RISE."""
    figures: Mapping[str, float | str]

    @property
    def text(self) -> str:
        """The figures in words."""
        loss, usual_loss, norm, usual_norm = (self.figures[name] for name in ("loss", "usual_loss", "grad_norm", "usual_grad_norm"))
        kind = "a sustained rise" if self.event == RISE else "a spike"
        return f"{kind}, loss {usual_loss:.3f} -> {loss:.3f} and gradient norm {usual_norm:.3f} -> {norm:.3f}"


def judge(config: GuardConfig, memory: Memory, loss: float, norm: float) -> Verdict | None:
    """Hold a step's figures against those of the steps before it."""
    if len(memory.losses) < ENOUGH:
        return None
    losses, norms = np.array(memory.losses), np.array(memory.norms)
    ago = config.rise_steps - 1
    if len(losses) - ago >= ENOUGH:
        usual, sigma = _middle(losses[: len(losses) - ago])
        usual_norm = float(np.median(norms[: len(norms) - ago]))
        risen = float(np.median([*losses[len(losses) - ago :], loss]))
        risen_norm = float(np.median([*norms[len(norms) - ago :], norm]))
        if risen > usual + config.rise_sigmas * sigma and risen_norm > config.rise_norm * usual_norm:
            return Verdict(RISE, {"loss": risen, "usual_loss": usual, "grad_norm": risen_norm, "usual_grad_norm": usual_norm})
    usual, sigma = _middle(losses)
    if loss > usual + config.spike_sigmas * sigma:
        usual_norm = float(np.median(norms))
        kind = "normal" if norm <= config.rise_norm * usual_norm else "high"
        return Verdict(SPIKE, {"loss": loss, "usual_loss": usual, "grad_norm": norm, "usual_grad_norm": usual_norm, "norm_is": kind})
    return None


def odd_copies(copies: np.ndarray, shape: Sequence[int], processes: np.ndarray) -> list[int]:
    """Processes whose copy of the weights is not what most data-parallel groups hold; of two groups that differ, both.

    Args:
        copies: [devices], from a step.
        shape: of the mesh, data first.
        processes: of each device.
    """
    by_group, owners = copies.reshape(shape[0], -1), processes.reshape(shape[0], -1)
    found = set()
    for column, owner in zip(by_group.T, owners.T, strict=True):
        values, counts = np.unique(column, return_counts=True)
        if len(values) > 1:
            sure = counts.max() > len(column) / 2
            found |= set(owner[column != values[counts.argmax()]] if sure else owner)
    return sorted(map(int, found))


def late(config: GuardConfig, probes: np.ndarray, waits: np.ndarray, step_seconds: float) -> dict[int, str]:
    """Processes that others wait for, and why.

    Args:
        config: its ratio.
        probes: seconds that each process's devices took for the same small task.
        waits: mean seconds a step that each process waits for its data.
        step_seconds: that a step takes.
    """
    usual = float(np.median(probes))
    slow = {
        i: f"its devices take {taken / usual:.2f} times the median" for i, taken in enumerate(probes) if taken > config.slow_ratio * usual
    }
    starved = {
        i: f"it waits {wait:.2f} s of {step_seconds:.2f} s a step for its data"
        for i, wait in enumerate(waits)
        if wait > STARVED * step_seconds
    }
    return slow | starved


def hang_limit(config: GuardConfig, recent: Sequence[float]) -> float:
    """Seconds after which a step counts as hung, learnt from the recent ones; infinite where the watchdog is off."""
    if not config.hang_other_seconds:
        return math.inf
    return max(config.hang_floor_seconds, config.hang_factor * float(np.median(recent))) if recent else config.hang_other_seconds


def _middle(values: np.ndarray) -> tuple[float, float]:
    """Median and robust standard deviation."""
    median = float(np.median(values))
    return median, SIGMA * float(np.median(np.abs(values - median)))
