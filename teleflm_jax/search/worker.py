"""A worker of a search: it claims trials, trains them one after the other, and writes their results, until none is left."""

import array
import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sharding import rules
from teleflm_jax import atomic_write, mup
from teleflm_jax.errors import UserError
from teleflm_jax.runs import folder as run_folder
from teleflm_jax.runs import train
from teleflm_jax.runs.config import RunConfig, absolute, refuse_incomplete
from teleflm_jax.search import claims, early_stop, space, study, tpe, widths
from teleflm_jax.search.config import SearchConfig

FIGURES = ("step", "loss", "grad_norm")
"""Columns that the early stop looks at."""
POLL_SECONDS = 1.0
"""Time between looks at the folder while other workers hold all trials that are left."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worker:
    """State that a worker's parts share."""

    config: RunConfig
    """Base configuration."""
    search: SearchConfig
    folder: pathlib.Path
    owner: claims.Owner
    log: Callable[[str], None]
    progress: Callable[[Mapping[str, Any]], None]
    should_stop: Callable[[], bool]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """Trials of a study when a worker returned."""

    trained: int
    """Trials that this worker finished."""
    completed: int
    diverged: int
    left: int
    """Unfinished trials, after a stop."""


def work(
    config: RunConfig,
    search: SearchConfig,
    folder: str | os.PathLike[str],
    *,
    log: Callable[[str], None] = lambda message: None,
    progress: Callable[[Mapping[str, Any]], None] = lambda row: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Train the trials of a search that no other worker trains, until all are finished; any number of workers may do this at once.

    Args:
        config: base configuration; `model`, `data` and `train` must be given.
        search: the search.
        folder: the study's folder, which need not exist.
        log: takes messages for people.
        progress: takes each row of metrics of a trial, with its name under `trial`.
        should_stop: asked between steps; once it returns True, the trial saves a checkpoint and the worker returns.

    Raises:
        UserError: the space, the configuration, the data or the folder is wrong; nothing was written.
    """
    place = run_folder.local(folder)
    refuse_incomplete(config, "model", "data", "train")
    config = dataclasses.replace(config, **absolute(config.sections()))
    points = planned(config, search)
    study.refuse_other(place, search, config)
    for model in {space.apply(config, values).model for values in points} or {config.model}:
        _refuse_untrainable(dataclasses.replace(config, model=model))
    study.write(place, search, config, points)
    worker = Worker(
        config=config, search=search, folder=place, owner=claims.this_process(), log=log, progress=progress, should_stop=should_stop
    )
    trained, waiting = 0, False
    later: set[str] = set()  # trials that were not to be had when it was their turn
    while not should_stop():
        left = _unfinished(place)
        held = _claim(worker, sorted(left, key=lambda trial: trial.name in later))
        if held is not None and _train_claimed(worker, *held):
            trained += 1
            continue
        if held is not None:
            later.add(held[0].name)
        elif tpe.suggest(config, search, place):
            continue
        elif not left:
            if not _unfinished(place):  # another worker may have written the last point of a TPE search since
                break
            continue
        elif not waiting:
            log(f"waiting for {len(left)} trials that other workers train; one whose worker dies is taken up here")
            waiting = True
        time.sleep(POLL_SECONDS)
    return _summary(place, trained)


def planned(config: RunConfig, search: SearchConfig) -> list[space.Values]:
    """Return the points known from the start; raise a `UserError` now where a section refuses its values at one of them."""
    found = space.read(search)
    points: list[space.Values] = []
    if search.sampler == "tpe":
        tpe.refuse_missing()
    elif search.sampler == "random":
        points = widths.points(config, search, found.random(search.sampler_seed, search.points or 0))
    else:
        points = widths.points(config, search, found.grid())
    for values in found.ends() if search.sampler == "tpe" else points:
        space.apply(config, values)
    space.apply(config, {}, search.seeds - 1)
    return points


def _refuse_untrainable(config: RunConfig) -> None:
    """Raise what would end the first trial: data that run out, a batch that does not split, a kernel that is not here."""
    layout = rules.layout(config.mesh, config.model.d_model)
    train.open_data(config)
    train.refuse_what_cannot_train(config, mup.at_width(config.mup, config.model.d_model), layout, going_on=False)


def _unfinished(folder: pathlib.Path) -> list[study.TrialFolder]:
    return [trial for trial in study.places(folder) if not trial.finished]


def _claim(worker: Worker, left: Sequence[study.TrialFolder]) -> tuple[study.TrialFolder, claims.Claim] | None:
    """Claim the first trial that can be claimed."""
    for trial in left:
        claim = claims.take(trial.folder, worker.owner, worker.search.lease_seconds)
        if claim is not None and trial.finished:  # its former worker has just finished it
            claim.release(finished=True)
        elif claim is not None:
            return trial, claim
    return None


def _train_claimed(worker: Worker, trial: study.TrialFolder, claim: claims.Claim) -> bool:
    """Train a claimed trial and write its result; return whether it is finished."""
    finished = False
    try:
        with claims.renewing(claim, worker.search.lease_seconds) as check:
            if _is_locked(trial.folder):
                worker.log(f"{trial.name}: its former worker, which has not renewed its claim, still trains; it stops at its next step")
                return False
            result = _train(worker, trial, check)
            check()
            if result is not None:
                atomic_write.write(trial.folder / study.RESULT, json.dumps(result).encode() + b"\n")
                finished = True
                worker.log(f"{trial.name}: {result['outcome']} at step {result['step']:,}" + (result["reason"] and f": {result['reason']}"))
    except claims.LostError:
        worker.log(f"{trial.name}: another worker has taken it over, as its claim was not renewed for {worker.search.lease_seconds:g} s")
    finally:
        claim.release(finished=finished)
    return finished


def _is_locked(folder: pathlib.Path) -> bool:
    """Return whether a process still trains in a run's folder; ask only while holding the trial, as asking takes the lock for a moment."""
    try:
        with run_folder.locked(folder):
            return False
    except UserError as error:
        if not isinstance(error.__cause__, BlockingIOError):
            raise
        return True


def _train(worker: Worker, trial: study.TrialFolder, check: Callable[[], None]) -> dict[str, Any] | None:
    """Train a trial, from its last checkpoint if it has one; return its result, or None if the worker was asked to stop."""
    figures = _Figures()
    figures.read(trial.folder)
    reason = figures.reason()

    def take(row: Mapping[str, Any]) -> None:
        nonlocal reason
        figures.add(**{name: row[name] for name in FIGURES})
        reason = reason or figures.reason()
        worker.progress({"trial": trial.name, **row})

    def should_stop() -> bool:
        check()
        return reason is not None or worker.should_stop()

    if reason is not None:  # a worker was killed between the last step and the result
        return study.result(trial.folder, study.DIVERGED, reason, figures.last)
    worker.log(f"{trial.name}: {', '.join(f'{name} = {value:g}' for name, value in trial.values.items())}, seed {trial.seed}")
    ended = train.train(
        space.apply(worker.config, trial.values, trial.seed),
        trial.folder,
        log=lambda message: worker.log(f"{trial.name}: {message}"),
        progress=take,
        should_stop=should_stop,
    )
    if reason is None and ended.outcome == train.Outcome.STOPPED:
        return None
    diverged = reason or (ended.reason if ended.outcome == train.Outcome.DIVERGED else None)
    return study.result(trial.folder, study.DIVERGED if diverged else study.COMPLETED, diverged or "", ended.step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Figures:
    """Figures of a trial's steps so far, for the early stop."""

    columns: dict[str, array.array] = dataclasses.field(default_factory=lambda: {name: array.array("d") for name in FIGURES})

    @property
    def last(self) -> int:
        """Last step."""
        steps = self.columns["step"]
        return int(steps[-1]) if steps else 0

    def read(self, folder: pathlib.Path) -> None:
        """Take the rows that a run's folder has."""
        rows = study.read_rows(folder)
        for name, column in self.columns.items():
            column.frombytes(getattr(rows, name).tobytes())

    def add(self, **figures: float) -> None:
        """Take the row of a step; the rows from that step on, which a run that resumes or rewinds repeats, are dropped."""
        while self.last >= figures["step"]:
            for column in self.columns.values():
                column.pop()
        for name, value in figures.items():
            self.columns[name].append(value)

    def reason(self) -> str | None:
        """Return why the trial should end here, or None."""
        return early_stop.reason_to_stop(np.array(self.columns["loss"]), np.array(self.columns["grad_norm"]))


def _summary(folder: pathlib.Path, trained: int) -> Summary:
    outcomes = [trial.result().get("outcome") for trial in study.places(folder)]
    return Summary(
        trained=trained,
        completed=outcomes.count(study.COMPLETED),
        diverged=outcomes.count(study.DIVERGED),
        left=outcomes.count(None),
    )
