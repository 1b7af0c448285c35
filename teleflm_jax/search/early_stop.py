"""Early stop of a trial: only for divergence.

Nothing else ends a trial. Which learning rate is best depends on the horizon: a larger one often wins early and loses late, so a trial that
is behind halfway may be the best at its end. Trials are compared when their schedules have finished.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Divergence:
    """Definition of a trial that has diverged."""

    nonfinite_rows: int = 10
    """Rows in a row whose loss or gradient norm is not finite. A single one is an update that the guard skips."""
    start_rows: int = 10
    """First rows of the run: their highest loss is the top of the start's band."""
    rows_above: int = 100
    """Newest rows that must all lie above the band. Growth of the output layer may raise the loss for about 30 steps and pass."""


def reason_to_stop(loss: np.ndarray, grad_norm: np.ndarray, divergence: Divergence = Divergence()) -> str | None:
    """Return why a trial has diverged, or None if it has not.

    Args:
        loss: of each step so far, in order; NaN where it was not finite.
        grad_norm: of the same steps.
        divergence: definition of divergence.
    """
    finite = np.isfinite(loss) & np.isfinite(grad_norm)
    last = finite[-divergence.nonfinite_rows :]
    if len(last) == divergence.nonfinite_rows and not last.any():
        return f"loss or gradient norm was not finite in {divergence.nonfinite_rows} steps in a row"
    losses = loss[finite]
    start, newest = losses[: divergence.start_rows], losses[-divergence.rows_above :]
    if len(losses) < divergence.start_rows + divergence.rows_above or not newest.min() > start.max():
        return None
    return f"loss was above {start.max():.3f}, the highest of its first {divergence.start_rows} steps, for {divergence.rows_above} steps"
