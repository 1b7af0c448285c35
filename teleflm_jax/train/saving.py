"""Saving of checkpoints during training."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from teleflm_jax import checkpoint, checksum
from teleflm_jax.train import restore
from teleflm_jax.train.config import due
from teleflm_jax.train.context import Context
from teleflm_jax.train.deadlines import CHECKSUMS
from teleflm_jax.train.setup import Plan
from teleflm_jax.train.state import Counters, TrainState, to_arrays


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A state as a checkpoint holds it."""

    arrays: Mapping[str, Any]
    sums: Mapping[str, int]
    """Checksums of the arrays."""
    finite: bool
    seconds: float
    """Time that the checksums have taken."""


def is_due(plan: Plan, step: int) -> bool:
    """Return whether a checkpoint is due after a step."""
    return step == plan.train.steps or due(step, plan.train.checkpoint_every)


def snapshot(context: Context, step: int, state: TrainState) -> Snapshot:
    """Convert the state to the form that is saved, and compute its checksums."""
    context.deadlines.expect(f"taking checksums after step {step}", CHECKSUMS)
    began = time.monotonic()
    arrays = to_arrays(context.setup.to_canonical(state))
    sums, finite = checksum.of_tree(arrays)
    seconds = time.monotonic() - began
    if finite:
        context.deadlines.took(CHECKSUMS, seconds)
    return Snapshot(arrays=arrays, sums=sums, finite=finite, seconds=seconds)


def save(context: Context, counters: Counters, taken: Snapshot) -> bool:
    """Start to write a checkpoint, unless there is one of this step; return whether it has started."""
    step = counters.updates
    if restore.from_first_process(context.checkpoints.holds(step)):  # all processes must save or none, and each sees the disk by itself
        return False
    context.deadlines.expect(f"beginning to save step {step}")
    began = time.monotonic()
    record = checkpoint.Record(counters=dataclasses.asdict(counters), mixture=context.history, identity=context.plan.identity)
    context.checkpoints.save(step, taken.arrays, record, taken.sums)
    epochs = dict(context.plan.epochs(counters.data_step, context.history))
    context.log.event("save", step=step, seconds=taken.seconds + time.monotonic() - began, epochs=epochs)
    return True


def read_back(context: Context) -> None:
    """Read the first checkpoint back once it is finished; raise a `UserError` if that fails."""
    if context.checkpoints.is_due():
        context.deadlines.expect("reading the first checkpoint back")
        context.checkpoints.read_back()


def stop(context: Context, step: int) -> None:
    """Wait for the checkpoint of the last step before a stop."""
    context.deadlines.expect(f"writing the checkpoint of step {step}")
    context.checkpoints.wait()
    context.log.event("stop", step=step)
    context.setup.log(f"stopped by a signal after saving step {step}; the same command resumes from there")


def finish(context: Context, step: int) -> None:
    """Wait for the last checkpoint of a run that has completed, and delete those that are not to be kept."""
    context.deadlines.expect("writing the last checkpoint")
    began = time.monotonic()
    context.checkpoints.wait()
    context.checkpoints.prune()  # the last evaluation may have found a better one
    context.log.event("saved", step=step, seconds=time.monotonic() - began)
