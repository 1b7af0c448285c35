"""Processes that the others wait for: those whose devices are slow or whose batches are late. Pure functions."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from teleflm_jax.train.config import GuardConfig

STARVED = 0.1
"""Minimum share of a step for which a late process waits for its data."""
PROBES = 3
"""Probes in a row at which a process is late before it is named."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StragglerState:
    """Waiting times of the processes since the last probe, and probes at which they were late."""

    waited: np.ndarray | float = 0.0
    """[devices], seconds that each device's process has waited for data."""
    steps: int = 0
    late: Mapping[int, int] = dataclasses.field(default_factory=dict)
    """Process -> probes in a row at which it was late."""

    def with_step(self, waited: np.ndarray) -> "StragglerState":
        """Return the state after a step, given the seconds for which each device's process waited for the batch."""
        return dataclasses.replace(self, waited=self.waited + waited, steps=self.steps + 1)


def observe(
    config: GuardConfig, state: StragglerState, probes: np.ndarray, processes: np.ndarray, step_seconds: float
) -> tuple[StragglerState, dict[int, str]]:
    """Return the state after a probe, and the processes to name now with the reason.

    Args:
        config: its ratio.
        state: with at least one step.
        probes: [processes], seconds of the same small computation on the devices of each.
        processes: [devices], process of each device.
        step_seconds: usual seconds of a step.
    """
    waits = np.asarray(state.waited / state.steps)[np.unique(processes, return_index=True)[1]]
    found = late(config, probes, waits, step_seconds)
    counted = {process: state.late.get(process, 0) + 1 for process in found}
    return StragglerState(late=counted), {process: found[process] for process, times in counted.items() if times == PROBES}


def late(config: GuardConfig, probes: np.ndarray, waits: np.ndarray, step_seconds: float) -> dict[int, str]:
    """Return the processes that others wait for, with the reason.

    Args:
        config: its ratio.
        probes: [processes], seconds of the same small computation on the devices of each.
        waits: [processes], mean seconds per step for which each waits for its data.
        step_seconds: usual seconds of a step.
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
