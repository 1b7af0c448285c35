import contextlib
import dataclasses
import functools
import os
import re
import signal
import sys
import threading
import time
import types

import jax
import numpy as np
import pytest

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import checkpoint, checksum, mup
from teleflm_jax.checkpoint import paths
from teleflm_jax.errors import UserError
from teleflm_jax.observability import run_log
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.train import loop, restore, session, state
from teleflm_jax.train.config import TrainConfig
from tests import tiny

EXACT = ("step", "tokens", "loss", "grad_norm", "learning_rate", "matrix_learning_rate")
TOKENS = 4 * 16


class Killed(BaseException):
    """Stands for a death between two steps; no handler of the loop catches it."""


def batch(step: int) -> dict[str, np.ndarray]:
    drawn = np.asarray(jax.random.randint(jax.random.key(step), (4, 17), 0, 64))
    shape = (4, 16)
    return {"tokens": drawn[:, :-1], "targets": drawn[:, 1:], "segments": np.ones(shape, np.int32), "weights": np.ones(shape, np.float32)}


def plan(folder, *, kill_at=None, before=None, evaluate=None, poison_at=None, **train) -> loop.Plan:
    @contextlib.contextmanager
    def batches(first, history):
        def draw():
            step = first
            while True:
                if step == kill_at:
                    raise Killed
                if before:
                    before(step)
                rows = batch(step)
                yield {**rows, "weights": rows["weights"] * np.nan} if step == poison_at else rows
                step += 1

        yield draw()

    folder.mkdir(exist_ok=True)
    settings = {"steps": 20, "batch_size": 4, "microbatch_size": 2, "checkpoint_every": 7, "keep_last": 2} | train
    return loop.Plan(
        folder=folder,
        model=tiny.CONFIG,
        mup=mup.at_width(tiny.WIDE, 32),
        optimizer=OptimizerConfig(warmup_steps=5, decay_tokens=20 * TOKENS),
        train=TrainConfig(**settings),
        layout=rules.layout(MeshConfig(), 32, jax.devices()[:1]),
        batches=batches,
        evaluate=evaluate,
        handle_signals=True,
        log=functools.partial(print, file=sys.stderr),
    )


def exact_rows(folder) -> list[tuple]:
    return [tuple(row[name] for name in EXACT) for row in run_log.rows(folder / run_log.METRICS)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "whole"
    assert loop.train(plan(folder)).outcome == "completed"
    return folder


def test_a_run_writes_one_row_a_step_and_keeps_the_last_checkpoints(uninterrupted):
    rows = list(run_log.rows(uninterrupted / run_log.METRICS))
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert [row["tokens"] for row in rows] == [TOKENS * step for step in range(1, 21)]
    assert [row["learning_rate"] for row in rows[:6]] == pytest.approx([2e-3, 4e-3, 6e-3, 8e-3, 1e-2, 1e-2])
    assert np.mean([row["loss"] for row in rows[-5:]]) < rows[0]["loss"]
    assert {"step_seconds", "data_wait_seconds", "tokens_per_second", "mfu"} <= rows[0].keys()
    assert checkpoint.steps(uninterrupted / "checkpoints") == [14, 20]
    assert (uninterrupted / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert list((uninterrupted / "tensorboard").iterdir())
    events = [row["event"] for row in run_log.rows(uninterrupted / run_log.EVENTS)]
    assert events == ["start", "compile", "save", "save", "save", "saved", "done"]


def test_the_first_step_s_seconds_are_without_the_checksum_s_compilation(tmp_path, monkeypatch):
    clock, slow = types.SimpleNamespace(behind=0.0), 1e6  # seconds that the first checksum takes on this clock, more than anything else

    def of_tree(tree):
        clock.behind = slow
        return checksum.of_tree(tree)

    monkeypatch.setattr(session, "time", types.SimpleNamespace(monotonic=lambda: time.monotonic() + clock.behind))
    monkeypatch.setattr(session, "checksum", types.SimpleNamespace(of_tree=of_tree))
    assert loop.train(plan(tmp_path / "run", steps=2)).outcome == "completed"
    assert all(row["step_seconds"] < slow / 2 for row in run_log.rows(tmp_path / "run" / run_log.METRICS))
    (compiled,) = [event for event in run_log.rows(tmp_path / "run" / run_log.EVENTS) if event["event"] == "compile"]
    assert compiled["seconds"] > slow / 2


def test_killed_and_resumed_equals_uninterrupted_to_the_last_bit(uninterrupted, tmp_path):
    folder = tmp_path / os.fsdecode(b"lr=[0.1] \\ \n ** \xff")  # a folder may have any name
    with pytest.raises(Killed):
        loop.train(plan(folder, kill_at=11))
    with (folder / run_log.METRICS).open("a") as file:
        file.write('{"step": 12, "tok')  # a line torn by the kill
    assert loop.train(plan(folder)).outcome == "completed"
    assert exact_rows(folder) == exact_rows(uninterrupted)
    events = [(row["event"], row["step"]) for row in run_log.rows(folder / run_log.EVENTS)]
    assert ("resume", 7) in events
    both = [saved_arrays(f, 20) for f in (folder, uninterrupted)]
    jax.tree.map(np.testing.assert_array_equal, *both)


def test_the_first_checkpoint_is_read_back_long_before_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "MISREAD", re.compile("(?!)"))  # as if nobody had foreseen that Orbax takes brackets for a pattern
    folder = tmp_path / "lr=[0.1]"
    with pytest.raises(UserError, match="got the checkpoint of step 1 in .* cannot be read back"):
        loop.train(plan(folder, steps=1_000, checkpoint_every=1, before=lambda step: time.sleep(0.01)))
    assert len(exact_rows(folder)) < 100


def saved_arrays(folder, step):
    shapes = jax.eval_shape(lambda: state.new_state(tiny.CONFIG, plan(folder).mup, 0))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), state.to_arrays(shapes))
    return checkpoint.restore(folder / "checkpoints", step, placed, {})[0]


def test_a_finished_run_stays_as_it_is(uninterrupted):
    before = (uninterrupted / run_log.METRICS).read_text()
    assert loop.train(plan(uninterrupted)).outcome == "completed"
    assert (uninterrupted / run_log.METRICS).read_text() == before


def test_a_signal_saves_and_leaves_with_75_and_the_run_goes_on(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    assert threading.current_thread() is threading.main_thread()
    result = loop.train(plan(folder, before=lambda step: signal.raise_signal(signal.SIGTERM) if step == 9 else None))
    assert result == loop.TrainResult(outcome=loop.Outcome.STOPPED, step=11)
    assert checkpoint.steps(folder / "checkpoints")[-1] == 11  # told along with step 10, learnt while step 11 runs
    assert [row["event"] for row in run_log.rows(folder / run_log.EVENTS)][-1] == "stop"
    assert loop.train(plan(folder)).outcome == "completed"
    assert exact_rows(folder) == exact_rows(uninterrupted)


def test_evaluations_are_logged_and_the_best_checkpoint_stays(tmp_path):
    folder = tmp_path / "run"
    figures = {4: 2.0, 8: 1.0, 12: 3.0, 16: 4.0, 20: 5.0}
    evaluate = lambda step, model, pause: {"bpb": figures[step], "loss/english": figures[step], "bpb/english": figures[step]}  # noqa: E731
    assert loop.train(plan(folder, evaluate=evaluate, eval_every=4, checkpoint_every=4, keep_last=1)).outcome == "completed"
    rows = list(run_log.rows(folder / run_log.EVALS))
    assert [(row["step"], row["tokens"], row["bpb"]) for row in rows] == [(step, step * TOKENS, bpb) for step, bpb in figures.items()]
    assert checkpoint.steps(folder / "checkpoints") == [8, 20]


def test_the_best_evaluations_save_checkpoints_of_their_own(tmp_path):
    bpb = {3: 5.0, 6: 4.0, 9: 1.0, 12: 3.0, 15: 2.0, 18: 3.5, 20: 9.0}
    folder = tmp_path / "run"
    evaluate = lambda step, model, pause: {"bpb": bpb[step]}  # noqa: E731
    assert loop.train(plan(folder, evaluate=evaluate, eval_every=3, keep_best=2, keep_last=1, keep_every=14)).outcome == "completed"
    assert checkpoint.steps(folder / "checkpoints") == [9, 14, 15, 20]


def test_an_evaluation_that_a_signal_prevented_is_made_up_for(tmp_path):
    folder = tmp_path / "run"
    evaluate = lambda step, model, pause: {"bpb": 1.0 + step}  # noqa: E731
    settings = {"evaluate": evaluate, "eval_every": 5}
    assert (
        loop.train(plan(folder, before=lambda step: signal.raise_signal(signal.SIGTERM) if step == 9 else None, **settings)).outcome
        == "stopped"
    )
    assert [row["step"] for row in run_log.rows(folder / run_log.EVALS)] == [5]
    assert loop.train(plan(folder, **settings)).outcome == "completed"
    assert [row["step"] for row in run_log.rows(folder / run_log.EVALS)] == [5, 10, 15, 20]


def test_init_from_takes_the_weights_and_nothing_else(uninterrupted, tmp_path):
    settings = {"steps": 1, "init_from": f"{uninterrupted}@14"}
    slow = OptimizerConfig(warmup_steps=10**6, decay_tokens=10**12)
    assert loop.train(dataclasses.replace(plan(tmp_path / "run", **settings), optimizer=slow)).outcome == "completed"
    old, new = saved_arrays(uninterrupted, 14), saved_arrays(tmp_path / "run", 1)
    # the first update moves no weight by more than its rate, 4e-8 at most, and float32 rounds gains of about 1 to 6e-8
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1.5e-7), old["model"], new["model"])
    assert new["optimizer"]["count"] == 1
    assert [row["tokens"] for row in run_log.rows(tmp_path / "run" / run_log.METRICS)] == [TOKENS]


def test_a_branch_equals_the_run_that_was_planned_so_from_the_start_to_the_last_bit(tmp_path):
    """The parent has a longer stable phase and has skipped a batch; the branch starts its decay where the planned run has it."""

    def wsd(name, *, stable, decay, **settings):
        optimizer = OptimizerConfig(schedule="wsd", warmup_steps=5, stable_tokens=stable * TOKENS, decay_tokens=decay * TOKENS)
        return dataclasses.replace(plan(tmp_path / name, poison_at=3, **settings), optimizer=optimizer)

    assert loop.train(wsd("planned", stable=15, decay=20)).outcome == "completed"
    assert loop.train(wsd("parent", stable=100, decay=200, steps=14)).outcome == "completed"
    branch = functools.partial(wsd, "branch", stable=15, decay=20, init_from=f"{tmp_path / 'parent'}@14", init_optimizer=True)
    assert loop.train(branch(steps=17)).outcome == "completed"
    assert exact_rows(tmp_path / "branch") == exact_rows(tmp_path / "planned")[14:17]
    (start,) = [event for event in run_log.rows(tmp_path / "branch" / run_log.EVENTS) if event["event"] == "start"]
    assert (start["step"], start["branched_from"]) == (14, f"{tmp_path / 'parent'}@14")
    assert loop.train(branch()).outcome == "completed"  # goes on from its own checkpoint
    assert exact_rows(tmp_path / "branch") == exact_rows(tmp_path / "planned")[14:]
    rates = [row[EXACT.index("learning_rate")] for row in exact_rows(tmp_path / "branch")]
    assert rates[:2] == [1e-2, 1e-2] and rates[2:] == sorted({*rates[2:]}, reverse=True) and rates[2] < 1e-2
    jax.tree.map(np.testing.assert_array_equal, *(saved_arrays(tmp_path / name, 20) for name in ("branch", "planned")))
    records = [checkpoint.read(tmp_path / name / checkpoint.FOLDER, 20) for name in ("branch", "planned")]
    assert records[0].counters == records[1].counters == {"updates": 20, "data_step": 21, "tokens": 21 * TOKENS}


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"steps": 14}, "got train.steps=14 .* is at step 14; allowed: more, since a branch counts from its parent's step 0"),
        ({"batch_size": 8}, "got train.batch_size=8 .*, 128 tokens a step, where .*@14 drew 64; allowed: the same"),
    ],
)
def test_a_branch_that_its_parent_does_not_fit_is_refused(uninterrupted, tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        loop.train(plan(tmp_path / "run", init_from=f"{uninterrupted}@14", init_optimizer=True, **settings))
    assert list((tmp_path / "run").iterdir()) == []


def test_a_branch_needs_a_parent_with_an_optimizer(uninterrupted):
    with pytest.raises(UserError, match="got train.init_optimizer=True without train.init_from"):
        TrainConfig(steps=1, batch_size=1, init_optimizer=True)
    record, train = checkpoint.read(uninterrupted / checkpoint.FOLDER, 14), TrainConfig(steps=1, batch_size=1, init_from="model@0")
    alone = dataclasses.replace(record, arrays={name: value for name, value in record.arrays.items() if name.startswith("model/")})
    with pytest.raises(UserError, match="train.init_from='model@0', which has no optimizer state"):
        restore.refuse_unfit_parent(alone, train, tiny.CONFIG)


@pytest.mark.parametrize(
    "init_from, words", [("nowhere@3", "without a finished checkpoint"), ("run", "runs/base@1000"), ("{run}@3", "allowed: 14, 20")]
)
def test_init_from_what_is_not_there_says_what_is(uninterrupted, tmp_path, init_from, words):
    with pytest.raises(UserError, match=words):
        loop.train(plan(tmp_path / "run", init_from=init_from.format(run=uninterrupted)))


def test_a_checkpoint_of_another_shape_is_refused_by_name(uninterrupted, tmp_path):
    other = plan(uninterrupted)
    with pytest.raises(UserError, match=r"feed_forward/down is float32\[2, 48, 32\] there and float32\[2, 64, 32\] here"):
        loop.train(dataclasses.replace(other, model=tiny.config(d_ff=64)))
    with pytest.raises(UserError, match="head is float32"):
        loop.train(dataclasses.replace(other, model=tiny.config(vocab_size=80)))
    assert checkpoint.steps(uninterrupted / "checkpoints") == [14, 20]


def test_benchmark_tasks_have_steps_of_their_own_and_their_scores_a_row(tmp_path):
    called = []

    def evaluate(step, model, pause):
        called.append(step)
        return {"suite/choice": step / 10}

    assert loop.train(plan(tmp_path / "run", evaluate=evaluate, eval_every=4, suite_every=3)).outcome == "completed"
    last = called[-1]
    assert called == sorted({step for step in range(1, last + 1) if step % 4 == 0 or step % 3 == 0} | {last})
    rows = list(run_log.rows(tmp_path / "run" / run_log.EVALS))
    assert [(row["step"], row["suite/choice"]) for row in rows] == [(step, step / 10) for step in called]
    assert sum(event["event"] == "eval" for event in run_log.rows(tmp_path / "run" / run_log.EVENTS)) == len(called)


def saved_and_evaluated(folder) -> list[tuple]:
    return [(row["event"], row["step"]) for row in run_log.rows(folder / run_log.EVENTS) if row["event"] in ("save", "eval", "interrupted")]


def test_a_checkpoint_due_with_an_evaluation_is_there_when_a_kill_ends_that(uninterrupted, tmp_path):
    folder, killing = tmp_path / "run", [14]

    def evaluate(step, model, pause):
        if step in killing:
            deadline = time.monotonic() + 60
            while checkpoint.steps(folder / "checkpoints")[-1:] != [step] and time.monotonic() < deadline:
                time.sleep(0.01)  # the disk gets it while the evaluation lasts
            killing.clear()
            raise Killed
        return {"bpb": 1.0 / step}

    settings = {"evaluate": evaluate, "eval_every": 7}
    with pytest.raises(Killed):
        loop.train(plan(folder, **settings))
    assert checkpoint.steps(folder / "checkpoints") == [7, 14]
    assert loop.train(plan(folder, **settings)).outcome == "completed"
    assert exact_rows(folder) == exact_rows(uninterrupted)
    assert [(row["step"], row["bpb"]) for row in run_log.rows(folder / run_log.EVALS)] == [(7, 1 / 7), (14, 1 / 14), (20, 1 / 20)]
    events = [(row["event"], row["step"]) for row in run_log.rows(folder / run_log.EVENTS)]
    assert events[events.index(("resume", 14)) + 1] == ("eval", 14)
    assert saved_and_evaluated(folder) == [(what, step) for step in (7, 14, 20) for what in ("save", "eval")]


@pytest.mark.parametrize(
    "at, every, last_events",
    [
        (10, 10, [("interrupted", 10), ("save", 10), ("stop", 10)]),  # no checkpoint is due
        (14, 14, [("save", 14), ("interrupted", 14), ("stop", 14)]),
        (20, 0, [("save", 20), ("interrupted", 20), ("stop", 20)]),
    ],
)
def test_a_signal_in_an_evaluation_ends_it_at_once_and_it_is_done_when_the_run_goes_on(uninterrupted, tmp_path, at, every, last_events):
    folder, paused = tmp_path / "run", []

    def evaluate(step, model, pause):
        for number in range(5):
            if number == 2 and not any(place == 2 for _, place in paused):
                signal.raise_signal(signal.SIGTERM)
            paused.append((step, number))
            pause()
        return {"bpb": float(step)}

    assert loop.train(plan(folder, evaluate=evaluate, eval_every=every)).outcome == "stopped"
    assert paused == [(at, 0), (at, 1), (at, 2)]
    assert checkpoint.steps(folder / "checkpoints")[-1] == at
    assert list(run_log.rows(folder / run_log.EVALS)) == []
    assert [(row["event"], row["step"]) for row in run_log.rows(folder / run_log.EVENTS)][-3:] == last_events
    assert loop.train(plan(folder, evaluate=evaluate, eval_every=every)).outcome == "completed"
    assert exact_rows(folder) == exact_rows(uninterrupted)
    assert [row["step"] for row in run_log.rows(folder / run_log.EVALS)] == sorted({at, 20})


def test_a_signal_in_the_evaluation_that_a_resume_makes_up_for_ends_that_too(tmp_path):
    folder = tmp_path / "run"

    def evaluate(step, model, pause):
        if len(interrupted) < 3:
            interrupted.append(step)
            signal.raise_signal(signal.SIGTERM)
        pause()
        return {"bpb": 1.0}

    interrupted = []
    for number in (1, 2, 3):
        assert loop.train(plan(folder, evaluate=evaluate, eval_every=10)).outcome == "stopped"
        assert interrupted == [10] * number and checkpoint.steps(folder / "checkpoints") == [7, 10]
    assert loop.train(plan(folder, evaluate=evaluate, eval_every=10)).outcome == "completed"
    assert [row["step"] for row in run_log.rows(folder / run_log.EVALS)] == [10, 20]


def test_a_signal_at_the_end_of_an_evaluation_stops_there_and_its_row_stays(tmp_path):
    folder = tmp_path / "run"

    def evaluate(step, model, pause):
        pause()
        if step == 10 and not (folder / run_log.EVALS).exists():
            signal.raise_signal(signal.SIGTERM)
        return {"bpb": 1.0}

    assert loop.train(plan(folder, evaluate=evaluate, eval_every=10)).outcome == "stopped"
    assert [row["step"] for row in run_log.rows(folder / run_log.METRICS)] == list(range(1, 11))
    assert loop.train(plan(folder, evaluate=evaluate, eval_every=10)).outcome == "completed"
    assert [row["step"] for row in run_log.rows(folder / run_log.EVALS)] == [10, 20]


def test_the_best_is_known_after_a_resume_and_what_it_makes_superfluous_goes_at_the_end(tmp_path):
    folder, bpb = tmp_path / "run", {4: 1.0, 8: 2.0, 12: 3.0, 16: 4.0, 20: 0.5}
    settings = {"evaluate": lambda step, model, pause: {"bpb": bpb[step]}, "eval_every": 4, "checkpoint_every": 4, "keep_last": 1}
    with pytest.raises(Killed):
        loop.train(plan(folder, kill_at=13, **settings))
    assert checkpoint.steps(folder / "checkpoints") == [4, 12]
    assert loop.train(plan(folder, **settings)).outcome == "completed"
    assert checkpoint.steps(folder / "checkpoints") == [20]
