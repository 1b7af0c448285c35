"""Policy of a run whose numbers go wrong, as pure functions: a state, the figures of a step -> the next state and a decision.

Source: the report saw random spikes with a normal gradient norm, which passed, and relates danger to a loss that rises while the norm does;
the thresholds are ours (`GuardConfig`).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from teleflm_jax.train.config import GuardConfig

WINDOW = 200
"""Recent steps that a step is compared with."""
ENOUGH = 50
"""Steps before the first comparison."""
MAX_EMPTY = 1_000
"""Batches in a row without a target that counts; more such batches would mean that the run never ends."""
SPIKE, RISE = "spike", "rise"
"""Names of events."""
NOT_FINITE, NO_TARGET = "not finite", "no target"
"""Reasons to skip an update."""
SIGMA = 1.4826
"""Standard deviation of a normal distribution, divided by its median absolute deviation."""


@dataclasses.dataclass(frozen=True)
class RecentSteps:
    """Loss and gradient norm of the recent steps, oldest first."""

    losses: tuple[float, ...] = ()
    norms: tuple[float, ...] = ()

    def with_step(self, loss: float, norm: float) -> "RecentSteps":
        """Return the memory with one more step, and without those that are too old."""
        return RecentSteps((*self.losses, loss)[-WINDOW:], (*self.norms, norm)[-WINDOW:])


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuardState:
    """State of the guard after a step."""

    memory: RecentSteps = RecentSteps()
    skipped: int = 0
    """Updates in a row, up to now, that were not finite."""
    empty: int = 0
    """Batches in a row, up to now, without a target that counts."""
    last_rise: float = -math.inf
    """Update at which the last rise was reported."""
    rewinds: int = 0
    """Number of times that the run has returned to its newest checkpoint."""

    @property
    def settled(self) -> bool:
        """True if the last batch was an update, so that the weights are those after a step that was due."""
        return not (self.skipped or self.empty)

    def after_save(self) -> "GuardState":
        """Return the state after a checkpoint is saved: the count of rewinds starts over."""
        return dataclasses.replace(self, rewinds=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observation:
    """Figures of one step."""

    step: int
    """Updates done, this one included unless it is skipped."""
    loss: float
    grad_norm: float
    targets: float
    """Sum of the weights of the batch's targets."""

    @property
    def skipped(self) -> str:
        """Reason why the devices have skipped the update; empty if they have not."""
        if not (math.isfinite(self.loss) and math.isfinite(self.grad_norm)):
            return NOT_FINITE
        return NO_TARGET if self.targets == 0 else ""


@dataclasses.dataclass(frozen=True)
class Anomaly:
    """Spike or rise that a step's figures show."""

    event: str
    """SPIKE or RISE."""
    figures: Mapping[str, float | str]

    @property
    def text(self) -> str:
        """Description for a message."""
        loss, usual_loss, norm, usual_norm = (self.figures[name] for name in ("loss", "usual_loss", "grad_norm", "usual_grad_norm"))
        kind = "a sustained rise" if self.event == RISE else "a spike"
        return f"{kind}, loss {usual_loss:.3f} -> {loss:.3f} and gradient norm {usual_norm:.3f} -> {norm:.3f}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """Consequences of a step's figures."""

    anomaly: Anomaly | None = None
    """Spike or rise to report."""
    rewind: str = ""
    """Reason to return to the newest checkpoint and skip the data since; empty: continue."""


def observe(config: GuardConfig, state: GuardState, seen: Observation) -> tuple[GuardState, Decision]:
    """Return the state after a step and what to do about its figures."""
    if seen.skipped == NOT_FINITE:
        state = dataclasses.replace(state, skipped=state.skipped + 1)
        too_many = state.skipped > config.max_skips
        return state, Decision(rewind=f"{state.skipped} updates in a row had no finite loss or gradient" if too_many else "")
    if seen.skipped == NO_TARGET:
        return dataclasses.replace(state, empty=state.empty + 1), Decision()
    anomaly = judge(config, state.memory, seen.loss, seen.grad_norm)
    state = dataclasses.replace(state, memory=state.memory.with_step(seen.loss, seen.grad_norm), skipped=0, empty=0)
    if anomaly is None or anomaly.event == SPIKE:
        return state, Decision(anomaly=anomaly)
    if seen.step - state.last_rise < config.rise_steps:
        return state, Decision()
    rewind = f"step {seen.step}: {anomaly.text}" if config.rewind_on_rise else ""
    return dataclasses.replace(state, last_rise=seen.step), Decision(anomaly=anomaly, rewind=rewind)


def may_rewind(config: GuardConfig, state: GuardState) -> bool:
    """Return whether the run may return to its newest checkpoint once more; otherwise it gives up."""
    return state.rewinds < config.max_rewinds


def judge(config: GuardConfig, memory: RecentSteps, loss: float, norm: float) -> Anomaly | None:
    """Compare a step's figures with those of the steps before it."""
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
            return Anomaly(RISE, {"loss": risen, "usual_loss": usual, "grad_norm": risen_norm, "usual_grad_norm": usual_norm})
    usual, sigma = _middle(losses)
    if loss > usual + config.spike_sigmas * sigma:
        usual_norm = float(np.median(norms))
        kind = "normal" if norm <= config.rise_norm * usual_norm else "high"
        return Anomaly(SPIKE, {"loss": loss, "usual_loss": usual, "grad_norm": norm, "usual_grad_norm": usual_norm, "norm_is": kind})
    return None


def odd_copies(copies: np.ndarray, shape: Sequence[int], processes: np.ndarray) -> list[int]:
    """Return the processes whose copy of the weights differs from the majority's; without a majority, all that differ.

    Args:
        copies: [devices], checksums from a step.
        shape: sizes of the mesh, data first.
        processes: [devices], process of each device.
    """
    by_group, owners = copies.reshape(shape[0], -1), processes.reshape(shape[0], -1)
    found = set()
    for column, owner in zip(by_group.T, owners.T, strict=True):
        values, counts = np.unique(column, return_counts=True)
        if len(values) > 1:
            sure = counts.max() > len(column) / 2
            found |= set(owner[column != values[counts.argmax()]] if sure else owner)
    return sorted(map(int, found))


def _middle(values: np.ndarray) -> tuple[float, float]:
    """Return median and robust standard deviation."""
    median = float(np.median(values))
    return median, SIGMA * float(np.median(np.abs(values - median)))
