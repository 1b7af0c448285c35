"""Workers of a search: real trials of a tiny model, claimed and finished once each, whoever trains them."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from teleflm_jax import checkpoint
from teleflm_jax.errors import UserError
from teleflm_jax.observability import run_log
from teleflm_jax.runs import folder
from teleflm_jax.search import claims, early_stop, study, worker
from teleflm_jax.search.config import SearchConfig
from tests.runs.conftest import changed
from tests.search.conftest import other

RATE = "mup.learning_rate"
ONE = SearchConfig(space={RATE: (1e-3,)})
"""Its point is the first of TWO."""
TWO = SearchConfig(space={RATE: (1e-3, 1e-2)})
ROOT = pathlib.Path(__file__).parents[2]

STALLS = """
import pathlib, sys, time
from teleflm_jax.runs.config import saved_config
from teleflm_jax.search import study, worker

def stall(row):
    print(row["trial"], row["step"], flush=True)
    while row["step"] == 3:  # the thread that renews the claim goes on
        time.sleep(60)

place = pathlib.Path(sys.argv[1])
worker.work(saved_config(place), study.load(place).search, place, progress=stall)
"""
"""A worker that stalls in the third step of its first trial, after the checkpoint of the second."""


def numbers(place: pathlib.Path) -> list[tuple]:
    """Everything that a ranking is made from."""
    return [
        (trial.point, trial.seed, trial.values, trial.outcome, trial.loss, trial.heldout, *(c.tobytes() for c in vars(trial.rows).values()))
        for trial in study.load(place).trials
    ]


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory):
    """A study of two points that one worker trained."""
    place = tmp_path_factory.mktemp("study") / "alone"
    rows = []
    summary = worker.work(base, TWO, place, progress=rows.append)
    assert summary == worker.Summary(trained=2, completed=2, diverged=0, left=0)
    assert [(row["trial"], row["step"]) for row in rows] == [(f"p0000{point}-s0", step) for point in range(2) for step in range(1, 5)]
    return place


def test_a_grid_by_one_worker(alone):
    found = study.load(alone)
    assert [(trial.point, trial.seed, trial.outcome) for trial in found.trials] == [(0, 0, "completed"), (1, 0, "completed")]
    for trial in found.trials:
        assert np.array_equal(trial.rows.step, np.arange(1, 5))
        assert trial.loss == trial.rows.loss[-1] and trial.heldout is not None and 0 < trial.heldout < 20
        assert checkpoint.steps(trial.folder / checkpoint.FOLDER)[-1] == 4
        assert not list(trial.folder.glob("claim-*"))
    assert len({trial.loss for trial in found.trials}) == 2


def test_a_finished_study_is_left_as_it_is(alone, base):
    before = {path: path.stat().st_mtime_ns for path in alone.rglob("*")}
    assert worker.work(base, TWO, alone) == worker.Summary(trained=0, completed=2, diverged=0, left=0)
    assert {path: path.stat().st_mtime_ns for path in alone.rglob("*")} == before
    with pytest.raises(UserError, match=r"with another search \(train.steps=4\)"):
        worker.work(changed(base, train={"steps": 7}), TWO, alone)


def test_a_worker_that_is_killed_leaves_a_trial_that_another_takes_up(alone, base, tmp_path):
    place, waits = tmp_path / "study", []
    study.write(place, TWO, base, worker.planned(base, TWO))
    arguments = [sys.executable, "-c", STALLS, str(place)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        try:
            assert [process.stdout.readline() for _ in range(3)] == [f"p00000-s0 {step}\n" for step in (1, 2, 3)]

            def log(message: str):
                if "waiting for 1 trials" in message:
                    waits.append(message)
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait()

            assert worker.work(base, TWO, place, log=log) == worker.Summary(trained=2, completed=2, diverged=0, left=0)
        finally:
            process.kill()
    assert waits and process.returncode == -signal.SIGKILL
    starts = [row for row in run_log.rows(place / "trials/p00000-s0" / run_log.EVENTS) if row["event"] in ("start", "resume")]
    assert [(row["event"], row["step"]) for row in starts] == [("start", 0), ("resume", 2)]
    assert numbers(place) == numbers(alone)


def test_a_worker_that_has_lost_its_claim_stops(alone, base, tmp_path):
    lease, messages = 0.4, []

    def rob(row):
        """Take the first trial over from another host, as if this worker had been suspended for an hour."""
        first = tmp_path / "study/trials/p00000-s0"
        if row["step"] == 2 and not (tmp_path / "robbed").exists():
            (claim,) = first.glob("claim-*.json")
            (first / f"claim-{1 + int(claim.stem[6:])}.json").write_text('{"host": "another", "pid": 1}')
            (tmp_path / "robbed").touch()
            threading.Event().wait(lease)

    summary = worker.work(base, other(ONE, lease_seconds=lease), tmp_path / "study", log=messages.append, progress=rob)
    assert summary == worker.Summary(trained=1, completed=1, diverged=0, left=0)
    (lost,) = [message for message in messages if "another worker has taken it over" in message]
    assert lost.startswith("p00000-s0: ") and numbers(tmp_path / "study") == numbers(alone)[:1]


def test_a_trial_in_whose_folder_a_process_still_trains_comes_last(base, tmp_path):
    search, messages = other(TWO, lease_seconds=3600.0), []
    study.write(tmp_path / "study", search, base, worker.planned(base, search))
    first, second = (trial.folder for trial in study.places(tmp_path / "study"))
    with folder.locked(first):
        worker.work(base, search, tmp_path / "study", log=messages.append, should_stop=(second / checkpoint.FOLDER).exists)
    assert (second / checkpoint.FOLDER).exists() and not (first / checkpoint.FOLDER).exists()
    assert "p00000-s0: its former worker" in messages[0]
    assert not claims.is_held(first, claims.this_process(), search.lease_seconds)


def test_a_worker_that_is_asked_to_stop_gives_its_trial_back(alone, base, tmp_path):
    rows = []
    summary = worker.work(base, ONE, tmp_path / "study", progress=rows.append, should_stop=lambda: len(rows) >= 2)
    assert summary == worker.Summary(trained=0, completed=0, diverged=0, left=1)
    assert [trial.outcome for trial in study.load(tmp_path / "study").trials] == ["waiting"]
    assert worker.work(base, ONE, tmp_path / "study").trained == 1
    assert numbers(tmp_path / "study") == numbers(alone)[:1]


def test_a_trial_that_diverges_is_ended_alone(base, tmp_path):
    once = changed(base, train={"steps": 2}, guard={"max_skips": 0, "max_rewinds": 0})
    search = SearchConfig(space={"mup.matrix_learning_rate": (1e38, 1e-2)})
    summary = worker.work(once, search, tmp_path / "study")
    assert summary == worker.Summary(trained=2, completed=1, diverged=1, left=0)
    diverged, completed = study.load(tmp_path / "study").trials
    assert (diverged.outcome, diverged.loss, diverged.heldout, len(diverged.rows.loss)) == ("diverged", None, None, 1)
    assert "no finite loss or gradient" in diverged.reason and completed.outcome == "completed"


def test_a_trial_that_is_stopped_early_has_diverged_also_if_its_worker_dies_before_the_result(base, tmp_path, monkeypatch):
    monkeypatch.setattr(early_stop, "reason_to_stop", lambda loss, grad_norm: "loss was high" if len(loss) == len(grad_norm) >= 2 else None)
    expected = worker.Summary(trained=1, completed=0, diverged=1, left=0)
    assert worker.work(base, ONE, tmp_path / "study") == expected
    (trial,) = study.load(tmp_path / "study").trials
    assert (trial.outcome, trial.reason, trial.loss, trial.heldout) == ("diverged", "loss was high", None, None)
    assert 2 <= len(trial.rows.loss) < 4
    (trial.folder / study.RESULT).unlink()
    assert worker.work(base, ONE, tmp_path / "study", progress=lambda row: pytest.fail("trained again")) == expected
    assert study.load(tmp_path / "study").trials[0].reason == "loss was high"


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_many_workers_at_once_train_each_trial_once(base, tmp_path, monkeypatch, sampler):
    if sampler == "tpe":
        pytest.importorskip("optuna", reason="requirements-search.txt is not installed")
    trained = []

    def stand_in(worker, trial, check):
        trained.append(trial.name)
        threading.Event().wait(0.01)
        return {"outcome": "completed", "reason": "", "step": 4, "loss": 1.0 + trial.values[RATE], "heldout": None, "seconds": 1.0}

    monkeypatch.setattr(worker, "_train", stand_in)
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.01)
    space = {RATE: {"log": (1e-3, 1e-1, 12)}}
    search, summaries = SearchConfig(space=space, sampler=sampler, points=12 if sampler == "tpe" else None, seeds=2), []
    threads = [threading.Thread(target=lambda: summaries.append(worker.work(base, search, tmp_path / "study"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(trained) == [f"p{point:05d}-s{seed}" for point in range(12) for seed in range(2)]
    assert sum(summary.trained for summary in summaries) == 24 and {summary.completed for summary in summaries} == {24}
    assert not list((tmp_path / "study").rglob("claim-*"))


@pytest.mark.parametrize(
    "sections, search, message",
    [
        ({"data": {"max_epochs": {"web": 0.01}}}, TWO, "max_epochs"),
        ({"train": {"batch_size": 6}}, TWO, "batch_size"),
        ({}, SearchConfig(space={"optimizer.beta2": (0.9, 1.0)}), "got optimizer.beta2=1.0"),
        ({}, SearchConfig(space={"data.proportions": (1.0,)}), "got data.proportions in search.space"),
        ({}, SearchConfig(), "got no search.space"),
        ({"train": {"seed": 2**32 - 1}}, SearchConfig(space={RATE: (1.0,)}, seeds=2), "got train.seed=4294967296"),
    ],
)
def test_what_no_trial_could_train_is_refused_before_anything_is_written(base, tmp_path, sections, search, message):
    with pytest.raises(UserError, match=message) as caught:
        worker.work(changed(base, **sections), search, tmp_path / "study")
    assert list(tmp_path.iterdir()) == [] and "\n" not in str(caught.value)


def test_trials_are_written_for_every_point_and_seed_at_once(base, tmp_path):
    search = SearchConfig(space={RATE: {"log": (1e-3, 1e-1, 2)}}, sampler="random", points=3, seeds=2)
    assert worker.work(base, search, tmp_path / "study", should_stop=lambda: True).left == 6
    files = sorted((tmp_path / "study/trials").glob("*/trial.json"))
    assert [file.parent.name for file in files] == [f"p0000{point}-s{seed}" for point in range(3) for seed in range(2)]
    assert json.loads(files[3].read_text())["values"] == worker.planned(base, search)[1]
