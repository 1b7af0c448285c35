"""Deadlines for everything that a run waits for, learnt from past durations."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from teleflm_jax.observability.watchdog import Watchdog
from teleflm_jax.train.config import GuardConfig

STEP, CHECKSUMS, EVALUATION, TASKS = "step", "checksums", "evaluation", "tasks"
"""Kinds of work whose durations are remembered; TASKS are evaluations with benchmark tasks."""
RECENT = 50
"""Durations of a kind from which its deadline is learnt."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deadlines:
    """Tells the watchdog what the process does and for how long that may take."""

    config: GuardConfig
    watchdog: Watchdog
    durations: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    """Seconds of recent work by kind, oldest first."""

    def expect(self, doing: str, kind: str = "") -> None:
        """Announce work: of a kind with a learnt deadline, or of any other with the longest one."""
        self.watchdog.expect(doing, hang_limit(self.config, self.durations.get(kind, [])))

    def took(self, kind: str, seconds: float) -> None:
        """Remember how long work of a kind has taken."""
        self.durations[kind] = [*self.durations.get(kind, []), seconds][-RECENT:]


def hang_limit(config: GuardConfig, recent: Sequence[float]) -> float:
    """Return the seconds after which work counts as hung, learnt from recent durations; infinite if the watchdog is off."""
    if not config.hang_other_seconds:
        return math.inf
    return max(config.hang_floor_seconds, config.hang_factor * float(np.median(recent))) if recent else config.hang_other_seconds
