"""Training a run: check everything, open the data, write the run's folder, and hand the parts to the loop."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from sharding import mesh, rules
from teleflm_jax import checkpoint, mup
from teleflm_jax.data import loader, mixture
from teleflm_jax.errors import UserError
from teleflm_jax.model.attention import refuse_absent
from teleflm_jax.objectives import cross_entropy
from teleflm_jax.objectives.objective import Objective
from teleflm_jax.observability import watchdog
from teleflm_jax.optim.optimizer import learning_rates
from teleflm_jax.runs import evaluators, folder
from teleflm_jax.runs.config import SAVED_CONFIG, RunConfig, absolute, refuse_incomplete, refuse_withheld, saved_config
from teleflm_jax.train import deadlines, loop, restore, step
from teleflm_jax.train.setup import Outcome, TrainResult

__all__ = ["Outcome", "TrainResult", "open_data", "refuse_what_cannot_train", "resumes", "train", "with_own_tokenizer"]


def train(
    config: RunConfig,
    workdir: str | os.PathLike[str],
    *,
    log: Callable[[str], None] = lambda message: None,
    progress: Callable[[Mapping[str, Any]], None] = lambda row: None,
    objective: Objective = cross_entropy.loss_and_gradients,
    should_stop: Callable[[], bool] = lambda: False,
    handle_signals: bool = False,
    began: float | None = None,
) -> TrainResult:
    """Train a run until its last step, or resume it if the folder has checkpoints; every process of the run calls this.

    A call may follow another in the same process, also one that failed, and need not come from the main thread. A step that hangs for
    longer than `guard` allows ends the whole process, because nothing else can end it; `guard.hang_other_seconds = 0` turns that off.

    Args:
        config: `model`, `data` and `train` must be given.
        workdir: the run's folder, which need not exist; it is locked meanwhile.
        log: takes messages for people, also from other threads; only process 0 calls it.
        progress: takes each row of metrics.jsonl; only process 0 calls it.
        objective: the function to minimise; a run that resumes must be given the same.
        should_stop: asked between steps; once it returns True on any process, the run saves a checkpoint and returns.
        handle_signals: handle SIGTERM, SIGINT and SIGUSR1 like `should_stop`, and SIGUSR2 as a request for a profile; main thread only.
        began: when the start of the run began, by the monotonic clock; default: now.

    Raises:
        UserError: the configuration, the data or the folder is wrong; nothing was written unless training had begun.
    """
    began = time.monotonic() if began is None else began
    place = folder.local(workdir)
    refuse_incomplete(config, "model", "data", "train")
    config = dataclasses.replace(config, **absolute(config.sections()))
    refuse_withheld(config, "telemetry", *["suite"] * bool(config.train.suite_every))
    first = jax.process_index() == 0
    log, progress = (log, progress) if first else (lambda message: None, lambda row: None)
    given = {"log": log, "progress": progress, "objective": objective, "should_stop": should_stop, "handle_signals": handle_signals}
    plan = dataclasses.replace(_plan(config, place, began, log), **given)
    with folder.naming(place), folder.locked(place) if first else contextlib.nullcontext():
        if first:
            folder.refuse_changes(place, config)
        multihost_utils.sync_global_devices("every process accepts the run")
        return loop.train(plan)


def _plan(config: RunConfig, place: pathlib.Path, began: float, log: Callable[[str], None]) -> loop.Plan:
    """Open the run's data, check everything that can be checked before the folder is written, and describe the run to the loop."""
    layout, width = rules.layout(config.mesh, config.model.d_model), mup.at_width(config.mup, config.model.d_model)
    with watchdog.watching(place, jax.process_index(), began) as dog:
        dog.expect("opening the data", deadlines.hang_limit(config.guard, []))
        going_on = resumes(place)
        run = with_own_tokenizer(config, place) if going_on else config
        run = _with_agreed_mixture(run, place) if going_on or run.train.init_optimizer else run
        data = open_data(run, _saved_mixture(run, place, going_on))
        evaluate = evaluators.of_run(run, layout, place, log)
        refuse_what_cannot_train(run, width, layout, going_on)
        identity = folder.identity(run.model, pathlib.Path(run.data.tokenizer)) | data.identity()
        _refuse_different_data(identity)
    part, parts = mesh.data_share(layout.mesh)
    return loop.Plan(
        folder=place,
        model=run.model,
        mup=width,
        optimizer=run.optimizer,
        train=run.train,
        layout=layout,
        guard=run.guard,
        telemetry=run.telemetry,
        profile=run.profile,
        batches=lambda step, history: data.with_history(history).iterate(step, process=part, num_processes=parts),
        mixture=functools.partial(mixture.extend_history, weights=run.data.proportions, change=run.data.change_proportions),
        records=lambda step, history: data.with_history(history).origins(step),
        epochs=lambda step, history: data.with_history(history).epochs(step),
        evaluate=evaluate,
        identity=identity,
        began=began,
        prepare=functools.partial(folder.write_shared, place, _without_consent(config), pathlib.Path(run.data.tokenizer).read_bytes()),
    )


def open_data(run: RunConfig, history: mixture.History = ()) -> loader.Loader:
    """Open the run's packed data under a mixture history; raise a `UserError` if it does not fit the run or ends before its last step."""
    return loader.open_run(
        run.data,
        sequence_length=run.model.context_length,
        vocab_size=run.model.vocab_size,
        batch_size=run.train.batch_size,
        steps=run.train.steps,
        history=history or None,
        verify=jax.process_index() == 0,
    )


def resumes(place: pathlib.Path) -> bool:
    """Return whether process 0 sees checkpoints of the run; a shared disk may show the others an older state."""
    return bool(restore.from_first_process(bool(checkpoint.numbered(place / checkpoint.FOLDER))))


def with_own_tokenizer(run: RunConfig, place: pathlib.Path) -> RunConfig:
    """Return the configuration with the folder's copy of the tokenizer if the file with which the run started is missing."""
    saved = saved_config(place).data
    if not pathlib.Path(run.data.tokenizer).is_file() and not (saved and saved.tokenizer == run.data.tokenizer):
        return run
    return dataclasses.replace(run, data=dataclasses.replace(run.data, tokenizer=str(place / folder.TOKENIZER)))


def refuse_what_cannot_train(run: RunConfig, width: mup.Mup, layout: rules.Layout, going_on: bool) -> None:
    """Raise now the errors that the loop would raise after the folder is written."""
    refuse_absent(run.model)
    step.microbatch(run.model, run.train, layout)
    if not going_on:
        _refuse_other_tokenizer(run)
        if run.train.init_optimizer:
            _parent(run)
    learning_rates(run.optimizer, width, tokens=0, tokens_per_step=run.train.batch_size * run.model.context_length)


def _with_agreed_mixture(run: RunConfig, place: pathlib.Path) -> RunConfig:
    """Allow a change of proportions that an earlier start was allowed, if no checkpoint was saved under it."""
    saved = saved_config(place).data if (place / SAVED_CONFIG).is_file() else None
    agreed = run.data.change_proportions or (saved is not None and saved.proportions == run.data.proportions)
    return dataclasses.replace(run, data=dataclasses.replace(run.data, change_proportions=bool(restore.from_first_process(agreed))))


def _without_consent(run: RunConfig) -> RunConfig:
    """Return the configuration as the folder keeps it: with the new proportions, and without permission to change them again."""
    return dataclasses.replace(run, data=dataclasses.replace(run.data, change_proportions=False))


def _saved_mixture(run: RunConfig, place: pathlib.Path, going_on: bool) -> mixture.History:
    """Return the history that follows from the newest readable checkpoint, or a branch's parent, to check the data against it early."""
    if not going_on and run.train.init_optimizer:
        return _history_after(_parent(run), run)
    for number in reversed(checkpoint.steps(place / checkpoint.FOLDER)):
        with contextlib.suppress(checkpoint.Damaged):
            record = checkpoint.read(place / checkpoint.FOLDER, number)
            if "data_step" not in record.counters:  # restoring skips such a checkpoint, and logs it
                continue
            return _history_after(record, run)
    return ()


def _history_after(record: checkpoint.Record, run: RunConfig) -> mixture.History:
    saved = tuple((since, dict(weights)) for since, weights in record.mixture)
    return mixture.extend_history(saved, record.counters["data_step"], run.data.proportions, change=run.data.change_proportions)


def _parent(run: RunConfig) -> checkpoint.Record:
    """Return the record of the checkpoint that a branch continues; raise a `UserError` if it cannot."""
    assert run.train.init_from is not None  # a branch has a parent
    parent, at_step = restore.other_run(run.train.init_from)
    record = checkpoint.read(parent / checkpoint.FOLDER, at_step)
    restore.refuse_unfit_parent(record, run.train, run.model)
    folder.refuse_change(parent, run.sections(), folder.BRANCH_FREE, folder.NO_BRANCH)
    return record


def _refuse_different_data(identity: Mapping[str, object]) -> None:
    """Raise a `UserError` unless all processes have opened the same data; also waits until all have."""
    digest = np.frombuffer(hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).digest()[:4], np.int32)
    found = np.asarray(multihost_utils.process_allgather(digest)).reshape(-1)
    if (found != found[0]).any():
        others = ", ".join(map(str, np.flatnonzero(found != found[0])))
        raise UserError(
            f"got another tokenizer or other packed data on process {others} than on process 0; allowed: the same on all; copy them, or "
            "change data.tokenizer and data.packed there"
        )


def _refuse_other_tokenizer(run: RunConfig) -> None:
    """Raise a `UserError` if the run takes over weights that were trained with another tokenizer."""
    if run.train.init_from is None:
        return
    other = restore.other_run(run.train.init_from)[0] / folder.TOKENIZER
    if other.read_bytes() != pathlib.Path(run.data.tokenizer).read_bytes():
        raise UserError(
            f"got data.tokenizer={run.data.tokenizer!r}, which differs from {other} of train.init_from; allowed: the same; "
            f"change data.tokenizer to {str(other)!r} and pack with it, or change train.init_from"
        )
