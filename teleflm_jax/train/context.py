"""Context that the parts of a session share."""

import dataclasses

from teleflm_jax import checkpoint
from teleflm_jax.data.mixture import History
from teleflm_jax.observability import run_log
from teleflm_jax.train.deadlines import Deadlines
from teleflm_jax.train.setup import Plan, Setup


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """A run, and the files that are open for one session of it."""

    plan: Plan
    setup: Setup
    log: run_log.RunLog
    checkpoints: checkpoint.Writer
    history: History
    """Mixture history from the restored step on."""

    @property
    def deadlines(self) -> Deadlines:
        """Deadlines of the process."""
        return self.setup.deadlines
