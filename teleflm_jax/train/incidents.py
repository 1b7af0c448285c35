"""Reports of what went wrong in a step, and the return to the newest checkpoint."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jax
import numpy as np

from teleflm_jax.errors import UserError
from teleflm_jax.model.transformer import Multipliers
from teleflm_jax.train import diagnose, guard
from teleflm_jax.train.context import Context
from teleflm_jax.train.setup import GaveUp, Rewind
from teleflm_jax.train.state import Counters, TrainState


def report_not_finite(
    context: Context, counters: Counters, seen: guard.Observation, skipped: int, state: TrainState, batch: Any, flags: Any, seconds: float
) -> str:
    """Find out why an update was skipped and report it.

    Args:
        context: of the session.
        counters: those after the batch.
        seen: figures of the step.
        skipped: updates in a row that were skipped, this one included.
        state: the state that the step, or the next one, has returned.
        batch: the batch of the step.
        flags: weights whose gradients were not finite, from the step.
        seconds: duration of the step.

    Returns:
        The reason to return to the newest checkpoint if weights or moments are not finite; empty otherwise.
    """
    context.deadlines.expect("finding out what is not finite")
    findings = context.setup.diagnose(state, batch, flags)
    why = diagnose.summary(findings)
    described = f"{skipped} in a row: loss {seen.loss}, gradient norm {seen.grad_norm}; {why}"
    fields = {"seconds": seconds, "loss": str(seen.loss), "grad_norm": str(seen.grad_norm), "why": why}
    _report_skip(context, counters, findings, described, fields)
    return why if findings["weights"] else ""


def report_no_target(context: Context, counters: Counters, empty: int, targets: int, seconds: float) -> None:
    """Report a batch none of whose targets counts, which leaves the state unchanged and is no sign of broken numbers.

    Raises:
        UserError: there were too many in a row for the run ever to end.
    """
    why = f"none of the batch's {targets:,} targets counts (all weights are 0)"
    records = _report_skip(context, counters, {"why": why}, why, {"seconds": seconds, "why": why})
    if empty == guard.MAX_EMPTY:
        raise UserError(
            f"got {empty:,} batches in a row without a target that counts, up to {records}; allowed: data whose targets count; "
            "look at that file's records, and pack or choose other data"
        )


def _report_skip(
    context: Context, counters: Counters, findings: Mapping[str, Any], described: str, fields: Mapping[str, Any]
) -> pathlib.Path:
    """Write the findings and the batch's records to a file; return its path."""
    data_step = counters.data_step - 1
    path = context.plan.folder / diagnose.FOLDER / f"{data_step}.json"
    if jax.process_index() == 0:
        diagnose.write(path, data_step, findings, context.plan.records(data_step, context.history))
    context.log.event("skip", step=counters.updates, data_step=data_step, **fields)
    context.setup.log(f"update {counters.updates + 1} is skipped, {described}; its records: {path}")
    return path


def rewind(context: Context, step: int, drawn: int, state: guard.GuardState, reason: str, *, skip_data: bool) -> NoReturn:
    """Return to the newest sound checkpoint, or give up; the ledger remembers it, should the process die on the way.

    Args:
        context: of the session.
        step: updates done.
        drawn: batches drawn, those in flight included.
        state: the guard's.
        reason: what went wrong.
        skip_data: continue after the batches that were drawn, instead of drawing them again.

    Raises:
        Rewind: always, unless
        GaveUp: the run has returned to this checkpoint too often.
    """
    context.deadlines.expect("waiting for what is still being written")
    if not guard.may_rewind(context.plan.guard, state):
        context.log.event("diverged", step=step, reason=reason)
        raise GaveUp(f"{reason}, after returning {state.rewinds} time(s) to the same checkpoint")
    context.log.event("rewind", step=step, data_step=drawn, skip_data=skip_data, mixture=context.history, reason=reason)
    context.setup.log(f"{reason}: returning to the newest sound checkpoint" + (", and skipping the data in between" if skip_data else ""))
    raise Rewind


def odd_copies(context: Context, copies: np.ndarray) -> list[int]:
    """Return the processes whose copies of the weights differ from the others'."""
    layout = context.plan.layout
    return guard.odd_copies(copies, (layout.data,), layout.processes())


def odd_gradients(context: Context, state: TrainState, batch: Any) -> list[int] | None:
    """Compute a batch's gradients twice; return the processes whose bits differ, or None if everything is equal."""
    context.deadlines.expect("computing a step's gradients twice")
    compute, multipliers = context.setup.fingerprint, Multipliers.of(context.plan.mup)
    once, again = (jax.device_get(compute(state.model, batch, multipliers)) for _ in range(2))
    odd = sorted(set(map(int, context.plan.layout.processes()[once[1] != again[1]])))
    return odd if odd or not np.array_equal(once[0], again[0], equal_nan=True) else None


def report_corruption(context: Context, step: int, what: str, processes: Sequence[int]) -> str:
    """Report data corruption on the given processes (none: unknown); return the reason to return to the newest checkpoint."""
    named = ", ".join(f"{process} ({context.setup.hosts[process]})" for process in processes) or "unknown"
    context.log.event("corruption", step=step, what=what, processes=processes)
    return f"{what}; suspect: process {named}; leave its machine out if that comes again"
