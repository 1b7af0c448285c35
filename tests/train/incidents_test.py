"""What a run does by itself when its numbers go wrong: skip, go back, give up; and what its ledger says of it."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import checkpoint
from teleflm_jax.errors import UserError
from teleflm_jax.observability import curves, progress, run_log
from teleflm_jax.train import guard, loop
from teleflm_jax.train import step as train_step
from teleflm_jax.train.config import GuardConfig
from tests.train import loop_test
from tests.train.loop_test import TOKENS, exact_rows, plan

MARK = 0.5
"""A loss weight that marks the batch whose gradient is broken."""


def events(folder: pathlib.Path, *names: str) -> list[dict]:
    return [row for row in run_log.rows(folder / run_log.EVENTS) if row["event"] in names]


def with_batches(given: loop.Plan, change) -> loop.Plan:
    """`change(data step, batch)` before each batch is used."""

    def batches(first, history):
        drawn = given.batches(first, history)

        class Changed:
            def __enter__(self):
                return (change(step, batch) for step, batch in enumerate(drawn.__enter__(), first))

            def __exit__(self, *_):
                return drawn.__exit__(None, None, None)

        return Changed()

    return dataclasses.replace(given, batches=batches, records=lambda step, history: [f"row {i} of {step}" for i in range(4)])


def poisoned(*steps: int):
    return lambda step, batch: {**batch, "weights": batch["weights"] * np.nan} if step in steps else batch


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The folder of a run without any incident."""
    folder = tmp_path_factory.mktemp("clean") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "draw", lambda logs: None)
        assert loop.train(plan(folder)).outcome == "completed"
    return folder


def test_a_batch_that_is_not_finite_is_skipped_and_its_records_are_named(clean, tmp_path):
    folder = tmp_path / "run"
    assert loop.train(with_batches(plan(folder), poisoned(9))).outcome == "completed"
    rows = list(run_log.rows(folder / run_log.METRICS))
    assert [row["step"] for row in rows] == list(range(1, 21))
    # its tokens were drawn, and the rates go on as though it had not been there
    assert [row["tokens"] for row in rows] == [TOKENS * (step + (step > 9)) for step in range(1, 21)]
    rates = [[row["learning_rate"] for row in run_log.rows(path / run_log.METRICS)] for path in (folder, clean)]
    assert rates[0] == rates[1] and exact_rows(folder)[:9] == exact_rows(clean)[:9]
    (skip,) = events(folder, "skip")
    assert (skip["step"], skip["data_step"], skip["loss"]) == (9, 9, "nan")
    said = json.loads((folder / "skipped" / "9.json").read_text())
    assert said["records"] == [f"row {i} of 9" for i in range(4)] and said["weights"] == []
    assert any(name.startswith("blocks/attention/query of layer") for name in said["gradients"])


def emptied(*steps: int):
    return lambda step, batch: {**batch, "weights": batch["weights"] * (step not in steps)}


def test_batches_without_a_target_are_nothing_and_alarm_nobody(tmp_path):
    folder, empty = tmp_path / "run", range(8, 16)  # more in a row than may be skipped; a save was due after the first of them
    assert loop.train(with_batches(plan(folder), emptied(*empty))).outcome == "completed"
    rows = list(run_log.rows(folder / run_log.METRICS))
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert [row["tokens"] for row in rows] == [TOKENS * (step + 8 * (step > 8)) for step in range(1, 21)]
    skips = events(folder, "skip")
    assert [(skip["step"], skip["data_step"]) for skip in skips] == [(8, step) for step in empty]
    assert {skip["why"] for skip in skips} == {"none of the batch's 64 targets counts (all weights are 0)"}
    assert not events(folder, "rewind", "corruption", "spike", "rise", "diverged")
    said = json.loads((folder / "skipped" / "15.json").read_text())
    assert said["records"] == [f"row {i} of 15" for i in range(4)] and "why" in said
    # the updates around them are those of a run that never drew them
    without = tmp_path / "without"
    later = lambda step, batch: loop_test.batch(step + 8 * (step >= 8))  # noqa: E731
    assert loop.train(with_batches(plan(without), later)).outcome == "completed"
    figures = [
        [(row["loss"], row["grad_norm"], row["learning_rate"]) for row in run_log.rows(f / run_log.METRICS)] for f in (folder, without)
    ]
    assert figures[0] == figures[1]


def test_data_without_any_target_end_the_run_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "MAX_EMPTY", 9)
    with pytest.raises(UserError, match=r"got 9 batches in a row without a target that counts, up to .*skipped/11\.json; allowed: "):
        loop.train(with_batches(plan(tmp_path / "run"), emptied(*range(3, 99))))


def test_an_evaluation_is_not_done_again_when_the_batch_after_it_is_empty(tmp_path):
    folder = tmp_path / "run"
    evaluate = lambda step, model, pause: {"bpb": 1.0 + step}  # noqa: E731
    given = plan(folder, evaluate=evaluate, eval_every=1, steps=6, checkpoint_every=1)
    assert loop.train(with_batches(given, emptied(2, 4))).outcome == "completed"
    assert [row["step"] for row in run_log.rows(folder / run_log.EVALS)] == [1, 2, 3, 4, 5, 6]


def test_a_gradient_that_is_not_finite_in_one_weight_of_one_layer_is_named(tmp_path, monkeypatch):
    folder, gradients = tmp_path / "run", train_step.passes.gradients

    def broken(*settings):
        def function(model, batch, check=False, multipliers=None):
            loss, gradient, *rest = gradients(*settings)(model, batch, check, multipliers)
            marked = (batch["weights"] == MARK).any()
            down = gradient.blocks.feed_forward.down
            down[...] = down[...].at[1, 3, 4].set(jnp.where(marked, jnp.inf, down[...][1, 3, 4]))
            return loss, gradient, *rest

        return function

    monkeypatch.setattr(train_step.passes, "gradients", broken)
    monkeypatch.setattr(train_step, "_make", train_step._make.__wrapped__)  # the function that is kept has sound gradients
    mark = lambda step, batch: {**batch, "weights": np.where(step == 5, MARK, batch["weights"]).astype(np.float32)}  # noqa: E731
    assert loop.train(with_batches(plan(folder), mark)).outcome == "completed"
    said = json.loads((folder / "skipped" / "5.json").read_text())
    assert said["gradients"] == ["blocks/feed_forward/down of layer 1"]
    assert said["first_layer"] is None and said["rows"] == [] and said["weights"] == []
    (skip,) = events(folder, "skip")
    assert "points at hardware" in skip["why"]


def breaking(monkeypatch, at: set[int], break_state) -> list[int]:
    """Break the state that the n-th call of a step returns, for each n in `at`; returns the list of calls."""
    calls, make = [], train_step.make

    def making(*settings):
        step = make(*settings)

        def call(state, batch, orders):
            state, figures = step(state, batch, orders)
            calls.append(len(calls) + 1)
            return (break_state(state) if calls[-1] in at else state), figures

        return call

    monkeypatch.setattr(loop.train_step, "make", making)
    return calls


def with_nan(state):
    state.model.blocks.attention.value[...] = state.model.blocks.attention.value[...].at[1, 0, 0].set(jnp.nan)
    return state


def test_a_weight_that_is_not_finite_rewinds_to_the_newest_checkpoint_and_skips_the_data_since(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    breaking(monkeypatch, {10}, with_nan)
    assert loop.train(plan(folder)).outcome == "completed"
    rewind, rewound = events(folder, "rewind", "rewound")
    assert "blocks/attention/value of layer 1" in rewind["reason"] and rewind["skip_data"]
    assert rewound["step"] == 7 and rewound["data_step"] == rewind["data_step"] >= 11 and rewound["lost_steps"] == 3
    rows = list(run_log.rows(folder / run_log.METRICS))
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert rows[7]["tokens"] == TOKENS * (rewind["data_step"] + 1)
    assert checkpoint.steps(folder / "checkpoints") == [14, 20]


def test_a_state_that_is_not_finite_is_never_saved(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    breaking(monkeypatch, {7}, with_nan)  # the very step whose state is due to be saved
    assert loop.train(plan(folder)).outcome == "completed"
    (rewind,) = events(folder, "rewind")
    assert rewind["step"] == 7 and events(folder, "rewound")[0]["step"] == 0
    assert [event["step"] for event in events(folder, "save")] == [7, 14, 20]


@pytest.mark.faults
def test_a_rewind_is_remembered_when_the_process_dies_on_the_way(tmp_path, monkeypatch):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    breaking(monkeypatch, {10}, with_nan)
    assert loop.train(plan(whole)).outcome == "completed"
    monkeypatch.undo()
    breaking(monkeypatch, {10}, with_nan)

    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(loop.restore, "restore", _second_call(loop.restore.restore, die))
        loop.train(plan(folder))
    monkeypatch.undo()
    assert loop.train(plan(folder)).outcome == "completed"
    assert exact_rows(folder) == exact_rows(whole)


def _second_call(first, second):
    calls = []

    def call(*arguments, **settings):
        calls.append(1)
        return (first if len(calls) == 1 else second)(*arguments, **settings)

    return call


def test_too_many_skips_rewind_and_too_many_rewinds_give_up_with_3(tmp_path):
    folder = tmp_path / "run"
    limits = GuardConfig(max_skips=1, max_rewinds=2)
    given = dataclasses.replace(with_batches(plan(folder), poisoned(*range(9, 99))), guard=limits)
    assert loop.train(given).outcome == "diverged"
    assert [event["event"] for event in events(folder, "rewind", "rewound", "diverged")] == ["rewind", "rewound"] * 2 + ["diverged"]
    assert checkpoint.steps(folder / "checkpoints") == [7]
    # the same command does not begin the same circle anew
    assert loop.train(given).outcome == "diverged"
    assert len(events(folder, "rewind")) == 2


@pytest.mark.faults
def test_copies_of_weights_that_differ_between_groups_name_the_process_and_the_same_data_are_drawn_again(tmp_path, monkeypatch):
    clean, folder = tmp_path / "clean", tmp_path / "run"
    layout = rules.layout(MeshConfig(zero=0), 32, jax.devices()[:4])
    settings = {"layout": layout, "guard": GuardConfig(copies_every=5)}
    assert loop.train(dataclasses.replace(plan(clean, microbatch_size=1), **settings)).outcome == "completed"
    assert events(clean, "corruption", "rewind") == []

    def flip(state):
        head = state.model.head[...]
        shards = [shard.data for shard in head.addressable_shards]
        shards[2] = shards[2].at[3, 4].add(1e-3)
        state.model.head[...] = jax.make_array_from_single_device_arrays(head.shape, head.sharding, shards)
        return state

    breaking(monkeypatch, {9}, flip)
    assert loop.train(dataclasses.replace(plan(folder, microbatch_size=1), **settings)).outcome == "completed"
    (found,) = events(folder, "corruption")
    assert found["processes"] == [0] and "copies of the weights differ" in found["what"]
    assert exact_rows(folder) == exact_rows(clean)


def test_gradients_that_differ_when_they_are_computed_twice_are_told(tmp_path, monkeypatch):
    folder, make, calls = tmp_path / "run", train_step.fingerprint, []

    def faulty(*settings):
        compute = make(*settings)

        def twice(*inputs):
            calls.append(1)
            loss, sums = compute(*inputs)
            return loss, sums + (len(calls) == 4)

        return twice

    monkeypatch.setattr(loop.train_step, "fingerprint", faulty)
    assert loop.train(dataclasses.replace(plan(folder), guard=GuardConfig(recompute_every=5))).outcome == "completed"
    (found,) = events(folder, "corruption")
    assert "computed twice" in found["what"] and len(calls) >= 6


def test_a_sustained_rise_is_told_once(tmp_path, monkeypatch, capfd):
    figures = {"loss": 6.0, "usual_loss": 4.0, "grad_norm": 3.0, "usual_grad_norm": 1.0}
    judged, rising = [], {9, 10, 11}

    def judge(*_):
        judged.append(1)
        return guard.Anomaly(guard.RISE, figures) if len(judged) in rising else None

    monkeypatch.setattr(guard, "judge", judge)
    folder = tmp_path / "run"
    assert loop.train(plan(folder)).outcome == "completed"
    (told,) = events(folder, "rise")  # once, not at every step of it
    assert told["step"] == 9 and told["usual_loss"] == 4.0 and not events(folder, "rewind")
    assert "sustained rise, loss 4.000 -> 6.000 and gradient norm 1.000 -> 3.000" in capfd.readouterr().err


def test_a_damaged_checkpoint_is_set_aside_and_the_run_goes_on_from_the_one_before(clean, tmp_path, capfd):
    folder = tmp_path / "run"
    assert loop.train(plan(folder, steps=14)).outcome == "completed"
    data = max((folder / "checkpoints" / "14" / "model").rglob("d/*"), key=lambda file: file.stat().st_size)
    whole = bytearray(data.read_bytes())
    whole[len(whole) // 2] ^= 1
    data.write_bytes(whole)
    assert loop.train(plan(folder)).outcome == "completed"
    assert exact_rows(folder) == exact_rows(clean)
    assert (folder / "checkpoints" / "14.damaged").is_dir()
    (found,) = events(folder, "damaged")
    assert found["step"] == 14 and "not as they were saved" in found["reason"]
    assert "the checkpoint of step 14 is damaged" in capfd.readouterr().err


@pytest.mark.faults
def test_with_no_sound_checkpoint_the_run_stops_and_touches_nothing(tmp_path):
    folder = tmp_path / "run"
    assert loop.train(plan(folder)).outcome == "completed"
    for step in (14, 20):
        (folder / "checkpoints" / str(step) / checkpoint.MARKER).write_text("{}")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"no sound checkpoint in .*: 20 \(.*\); 14 \(.*nothing was changed"):
        loop.train(plan(folder))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_mixture_that_changes_joins_the_history_in_the_checkpoint(tmp_path):
    folder = tmp_path / "run"
    first = dataclasses.replace(plan(folder, steps=7), mixture=lambda saved, step: saved or ((0, {"a": 1.0}),))
    assert loop.train(first).outcome == "completed"
    second = dataclasses.replace(plan(folder), mixture=lambda saved, step: (*saved, (step, {"a": 1.0, "b": 2.0})))
    assert loop.train(second).outcome == "completed"
    record = checkpoint.read(folder / "checkpoints", 20)
    assert record.mixture == [[0, {"a": 1.0}], [7, {"a": 1.0, "b": 2.0}]]
    (event,) = events(folder, "mixture")
    assert (event["data_step"], event["proportions"]) == (7, {"a": 1.0, "b": 2.0})


def test_a_checkpoint_of_another_identity_is_refused_with_the_first_ten_differences(tmp_path):
    folder = tmp_path / "run"
    identity = {"model.num_heads": 4, "tokenizer": "abc"} | {f"x{i}": i for i in range(12)}
    assert loop.train(dataclasses.replace(plan(folder, steps=1), identity=identity)).outcome == "completed"
    with pytest.raises(UserError, match="model.num_heads is 4 there and 8 here; tokenizer is abc there and abd here"):
        loop.train(dataclasses.replace(plan(folder), identity=identity | {"model.num_heads": 8, "tokenizer": "abd"}))
    with pytest.raises(UserError, match=r"x0 is 0 there and 1 here.*x7 is 7 there and 8 here and 2 more"):
        loop.train(dataclasses.replace(plan(folder), identity=identity | {f"x{i}": i + 1 for i in range(12)}))


def test_tokens_that_count_epochs_and_the_schedule_s_end_are_logged_and_told(tmp_path, capfd):
    folder = tmp_path / "run"

    def pad(step, batch):
        weights = batch["weights"].copy()
        weights[0, : 1 + step] = 0
        return batch | {"weights": weights}

    given = plan(folder, steps=3, checkpoint_every=2, eval_every=3, evaluate=lambda step, model, pause: {"bpb": 1.0})
    given = dataclasses.replace(with_batches(given, pad), epochs=lambda step, history: {"web": step / 8})
    with progress.shown(3) as (report, log):
        assert loop.train(dataclasses.replace(given, progress=report, log=log)).outcome == "completed"
    rows = list(run_log.rows(folder / run_log.METRICS))
    assert [(row["positions"], row["targets"], row["tokens"]) for row in rows] == [(64, 63, 64), (64, 62, 128), (64, 61, 192)]
    (start,) = events(folder, "start")
    assert (start["steps"], start["decay_step"], start["epochs"]) == (3, given.optimizer.decay_tokens // TOKENS, {"web": 0.0})
    assert [(event["step"], event["epochs"]) for event in events(folder, "save")] == [(2, {"web": 0.25}), (3, {"web": 0.375})]
    assert [row["epochs/web"] for row in run_log.rows(folder / run_log.EVALS)] == [0.375]
    told = capfd.readouterr().err
    assert f"the run ends at step 3, before the learning rate reaches its minimum at step {start['decay_step']} " in told
    assert "epochs by domain, from step 0 to 3: web 0.00 to 0.38" in told
    assert "tokens/s (95.3% count)" in told
