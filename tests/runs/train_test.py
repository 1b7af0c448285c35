"""Runs as library calls, many in one process: nothing of one is left to the next."""

import dataclasses
import gc
import os
import pathlib
import signal
import threading

import jax
import pytest

from teleflm_jax import checkpoint
from teleflm_jax.errors import UserError
from teleflm_jax.objectives import cross_entropy
from teleflm_jax.observability import run_log
from teleflm_jax.runs import evaluators, folder, load, train
from teleflm_jax.runs.config import RunConfig
from tests.runs.conftest import changed

EXACT = ("step", "tokens", "loss", "grad_norm", "learning_rate", "matrix_learning_rate")
COMPILATION = "/jax/core/compile/backend_compile_duration"
"""Event that JAX records for each program that it compiles or reads from its cache."""
COMPLETED = train.TrainResult(outcome=train.Outcome.COMPLETED, step=4)


def numbers(place: pathlib.Path) -> tuple:
    """Every number of a run that must not depend on what else the process does."""
    rows = [tuple(row[name] for name in EXACT) for row in run_log.rows(place / run_log.METRICS)]
    arrays = checkpoint.read(place / checkpoint.FOLDER, checkpoint.steps(place / checkpoint.FOLDER)[-1]).arrays
    return rows, {name: array["checksum"] for name, array in arrays.items()}


def held() -> dict[str, object]:
    """Count what the process holds: threads, handlers of signals, open files, arrays."""
    gc.collect()
    files = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{number}")]
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "files": sorted(files),
        "arrays": sorted(f"{array.dtype}{array.shape}" for array in jax.live_arrays()),
    }


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
    """A run in a process that has trained nothing before."""
    place = tmp_path_factory.mktemp("alone") / "run"
    assert train.train(config, place) == COMPLETED
    return place


def test_a_run_of_another_shape_leaves_nothing_behind_and_prints_nothing(config, alone, tmp_path, capfd):
    before = held()
    messages, rows = [], []
    other = changed(config, model={"num_layers": 3, "d_model": 64})
    assert train.train(other, tmp_path / "run", log=messages.append, progress=rows.append) == COMPLETED
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and any("epochs by domain" in message for message in messages)
    assert held() == before
    assert capfd.readouterr() == ("", "")


def failing(*_):
    """Stands for an evaluator that raises."""

    def evaluate(step, model, pause):
        raise ZeroDivisionError

    return evaluate


def test_a_run_after_failed_ones_equals_the_same_run_alone(config, alone, no_curves, tmp_path, monkeypatch):
    before = held()
    with pytest.raises(UserError, match="got model.context_length=16|of 32 tokens"):
        train.train(changed(config, model={"context_length": 16}), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(evaluators, "of_run", failing)
        train.train(config, tmp_path / "raised")
    # rates with which the second update is not finite any more, under a guard that gives up at once
    wild = changed(config, mup={"learning_rate": 1e38, "matrix_learning_rate": 1e38}, guard={"max_skips": 0, "max_rewinds": 0})
    result = train.train(wild, tmp_path / "diverged")
    assert result.outcome == "diverged" and result.step < 4 and "finite" in result.reason
    for name in ("raised", "diverged"):
        with folder.locked(tmp_path / name):
            pass
    assert train.train(config, tmp_path / "again") == COMPLETED
    assert numbers(tmp_path / "again") == numbers(alone)
    assert held() == before
    assert train.train(config, tmp_path / "raised") == COMPLETED and numbers(tmp_path / "raised") == numbers(alone)


def test_runs_of_one_shape_share_their_compiled_programs(config, alone, tmp_path):
    """What a search varies are inputs of compiled programs: a second run in a process compiles nothing, whatever its hyper-parameters."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(compiled_listener := lambda name, *_, **__: compiled.append(name))
    try:
        other = {"learning_rate": 1e-3, "matrix_learning_rate": 2e-3, "minimum_learning_rate": 1e-4, "matrix_minimum_learning_rate": 1e-4}
        other |= {"std": 0.03, "matrix_std": 0.04, "input_multiplier": 3.0, "output_multiplier": 0.5}
        optimizer = {"clip_norm": 0.5, "weight_decay": 0.1, "warmup_steps": 2}
        varied = changed(config, mup=other, optimizer=optimizer, train={"seed": 5})
        assert train.train(varied, tmp_path / "varied") == COMPLETED
        by_runs = compiled.count(COMPILATION)
        jax.jit(lambda x: x + 1)(1)
    finally:
        jax.monitoring.unregister_event_duration_listener(compiled_listener)
    assert numbers(tmp_path / "varied") != numbers(alone)
    assert by_runs == 0 and compiled.count(COMPILATION) == 1  # the event is still called so


def test_a_run_in_another_thread_stops_when_asked_and_resumes(config, alone, no_curves, tmp_path):
    longer, results, rows = changed(config, train={"steps": 7}), [], []

    def call():
        results.append(train.train(longer, tmp_path / "run", progress=rows.append, should_stop=lambda: bool(rows)))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    (stopped,) = results
    assert stopped == train.TrainResult(outcome=train.Outcome.STOPPED, step=2)
    assert checkpoint.steps(tmp_path / "run" / checkpoint.FOLDER)[-1] == stopped.step
    assert train.train(load.checkpoint(tmp_path / "run").config, tmp_path / "run").step == 7
    assert numbers(tmp_path / "run")[0][:4] == numbers(alone)[0]


def test_another_objective_is_minimised(config, alone, no_curves, tmp_path):
    def doubled(z_BTD, head, batch, gradient_DV):
        return cross_entropy.loss_and_gradients(z_BTD, head, {**batch, "weights": 2 * batch["weights"]}, gradient_DV)

    rows = []
    train.train(changed(config, train={"steps": 1}), tmp_path / "run", objective=doubled, progress=rows.append)
    assert rows[0]["loss"] == 2 * next(run_log.rows(alone / run_log.METRICS))["loss"]


def test_one_folder_takes_one_run_at_a_time(config, tmp_path):
    with folder.locked(tmp_path / "run"), pytest.raises(UserError, match="which another process is using"):
        train.train(config, tmp_path / "run")


@pytest.mark.parametrize(
    "given, place, message",
    [
        (RunConfig(), "run", "got a configuration without model, data, train"),
        (None, "gs://bucket/run", "got the run folder gs://bucket/run; allowed: one on a local or shared disk"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(config, tmp_path, monkeypatch, given, place, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        train.train(config if given is None else given, place)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["telemetry.wandb_project", "suite.tasks"])
def test_a_field_that_only_a_saved_configuration_sets_is_refused(config, tmp_path, field):
    given = dataclasses.replace(changed(config, train={"suite_every": 1}), withheld=(field,))
    with pytest.raises(UserError, match=f"got {field} from a run's own config.gin alone"):
        train.train(given, tmp_path / "run")
