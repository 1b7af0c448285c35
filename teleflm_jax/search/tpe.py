"""Points by Optuna's TPE sampler, which learns from the finished trials of a study (the extra `search`).

Optuna's journal in the study's folder is a copy of what the trials' folders say: it is brought up to date before each new point, and
rebuilt from them if it is gone or damaged. It can be opened with Optuna's own tools meanwhile.
"""

import contextlib
import fcntl
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from teleflm_jax import invocation
from teleflm_jax.runs.config import RunConfig
from teleflm_jax.search import space, study
from teleflm_jax.search.config import SearchConfig

JOURNAL, LOCK = "optuna.journal", ".sampler.lock"
NAME = "search"
"""Name of the study in the journal."""
POINT = "point"
"""Attribute of a trial in the journal: the number of the point in the folder."""


class _Held:
    """The journal's lock while `_locked` holds ours.

    Optuna's own locks are taken from a holder that is slow for 30 s, or stay for ever after one that was killed.
    """

    def acquire(self) -> bool:
        """Do nothing: the file is locked already."""
        return True

    def release(self) -> None:
        """Do nothing."""


def refuse_missing() -> None:
    """Raise a `UserError` if Optuna is not installed."""
    invocation.refuse_missing("search", ["optuna"])


def suggest(base: RunConfig, search: SearchConfig, folder: pathlib.Path) -> bool:
    """Write the trials of one more point of a TPE search; return False if it has all its points."""
    if search.sampler != "tpe":
        return False
    with _locked(folder / LOCK):
        points = _points(folder)
        for point, trials in points.items():  # a worker may have been killed before it wrote the trials of all seeds
            study.write_point(folder, search, base, point, trials[0].values)
        if len(points) == search.points:
            return False
        found, point = space.read(search), len(points)
        try:
            journal = _journal(folder, search, found, point)
        except (ValueError, KeyError):  # a machine that failed may have left a line of it torn
            (folder / JOURNAL).unlink()
            journal = _journal(folder, search, found, point)
        trial = journal.ask(_distributions(found))
        trial.set_user_attr(POINT, point)
        study.write_point(folder, search, base, point, found.with_ties(trial.params))
        return True


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Hold a lock that the kernel gives back when its holder dies, and that nobody else can take before."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _points(folder: pathlib.Path) -> dict[int, list[study.TrialFolder]]:
    """Return the trials of each point."""
    found: dict[int, list[study.TrialFolder]] = {}
    for trial in study.places(folder):
        found.setdefault(trial.point, []).append(trial)
    return found


def _journal(folder: pathlib.Path, search: SearchConfig, found: space.Space, point: int) -> Any:
    """Open the journal and bring it up to date with the trials' folders; return Optuna's study."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = int(np.random.SeedSequence([search.sampler_seed, point]).generate_state(1)[0])
    held: Any = _Held()
    backend = JournalFileBackend(str(folder / JOURNAL), lock_obj=held)
    journal = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name=NAME,
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        load_if_exists=True,
    )
    state, points = optuna.trial.TrialState, _points(folder)
    known = {trial.user_attrs[POINT]: trial for trial in journal.trials if trial.user_attrs.get(POINT) in points}
    for trial in journal.trials:
        if trial.state == state.RUNNING and trial.user_attrs.get(POINT) not in points:  # its worker was killed before it wrote the folder
            journal.tell(trial.number, state=state.FAIL)
    for number, trials in points.items():
        value = _value(trials)
        if number not in known:
            params = {axis.setting: trials[0].values[axis.setting] for axis in found.axes}
            reached = state.RUNNING if value is None else state.COMPLETE
            given: dict[str, Any] = {"params": params, "distributions": _distributions(found), "user_attrs": {POINT: number}}
            journal.add_trial(optuna.trial.create_trial(state=reached, value=value, **given))
        elif known[number].state == state.RUNNING and value is not None:
            journal.tell(known[number].number, value)
    return journal


def _value(trials: list[study.TrialFolder]) -> float | None:
    """Return what TPE minimises at a point; None while trials of it are not finished.

    It is the mean over seeds of the held-out bits per byte, or of the training loss where no text is held out; infinite if one diverged.
    """
    results = [trial.result() for trial in trials]
    if not all(results):
        return None
    if any(result["outcome"] == study.DIVERGED for result in results):
        return math.inf
    measure = "loss" if any(result["heldout"] is None for result in results) else "heldout"
    return float(np.mean([result[measure] for result in results]))


def _distributions(found: space.Space) -> dict[str, Any]:
    """Return the axes as Optuna's distributions; the values of a list have no order in them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def of(axis: space.SearchedAxis) -> Any:
        low, high, log = axis.values[0], axis.values[-1], axis.scale == space.LOG
        if axis.scale == space.LIST:
            return CategoricalDistribution(axis.values)
        return IntDistribution(int(low), int(high), log=log) if axis.whole else FloatDistribution(low, high, log=log)

    return {axis.setting: of(axis) for axis in found.axes}
