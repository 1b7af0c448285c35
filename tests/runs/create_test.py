"""Runs that begin from another run, or from weights in memory."""

import pathlib

import jax
import numpy as np
import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.runs import create, evaluate, load, train
from teleflm_jax.runs.config import RunConfig
from teleflm_jax.runs.folder import TOKENIZER
from teleflm_jax.train.state import weights_of
from tests import tiny
from tests.runs.conftest import VOCABULARY, changed

TEXT = {"mine": "the time of a house " * 3}


@pytest.fixture(scope="module")
def weights():
    """Weights in memory."""
    return jax.device_get(weights_of(tiny.model(tiny.config(vocab_size=VOCABULARY, context_length=32), seed=3)))


@pytest.fixture(scope="module")
def made(config, weights, tmp_path_factory):
    """A run's folder that holds them."""
    tokenizer = pathlib.Path(config.data.tokenizer).read_text(encoding="utf-8")
    settings = RunConfig(model=config.model, mup=config.mup)
    return create.from_weights(tmp_path_factory.mktemp("made") / "run", settings, lambda shapes: weights, tokenizer=tokenizer)


def test_weights_in_memory_become_a_run_that_is_measured_and_sampled(made, weights):
    checkpoint = load.checkpoint(made)
    assert (checkpoint.step, checkpoint.tokens, checkpoint.config.data) == (0, None, None)
    stored = load.load_model(made, checkpoint.config, 0, lambda model: jax.tree.map(_replicated, model))
    jax.tree.map(np.testing.assert_array_equal, weights, jax.device_get(weights_of(stored)))
    found = evaluate.bits_per_byte(checkpoint, TEXT)
    assert found["domains"]["mine"]["bytes"] == 60 and found["domains"]["mine"]["bpb"] > 0
    assert evaluate.compare([checkpoint, checkpoint], TEXT) == [found, found]
    assert checkpoint.complete("the", max_tokens=4, seed=1) == checkpoint.complete("the", max_tokens=4, seed=1)
    assert sorted(path.name for path in made.parent.iterdir()) == ["run"]


def _replicated(like):
    mesh = jax.make_mesh((1,), ("all",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
    return jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def test_a_run_starts_from_another_run_s_weights_with_its_tokenizer(config, made, no_curves, tmp_path):
    branch = create.from_run(changed(config, train={"steps": 1}, data={"tokenizer": "gone.json"}), made)
    assert (branch.train.init_from, branch.data.tokenizer) == (f"{made}@0", str(made / TOKENIZER))
    assert train.train(branch, tmp_path / "run").outcome == "completed"
    assert (tmp_path / "run" / TOKENIZER).read_bytes() == (made / TOKENIZER).read_bytes()
    with pytest.raises(UserError, match="got step 5; allowed: 0"):
        create.from_run(config, made, step=5)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda given: {name: array for name, array in given.items() if name != "head"}, "head is missing and not float32"),
        (lambda given: given | {"more": np.zeros(2, np.float32)}, "more is no weight of this model"),
        (lambda given: given | {"head": given["head"][:1]}, r"head is float32\[1, \d+\] and not"),
        (lambda given: given | {"head": np.full_like(given["head"], np.nan)}, "got weights that are not all finite"),
    ],
)
def test_weights_that_do_not_fit_leave_nothing_behind(config, weights, tmp_path, change, message):
    tokenizer = pathlib.Path(config.data.tokenizer).read_text(encoding="utf-8")
    with pytest.raises(UserError, match=message):
        create.from_weights(
            tmp_path / "run", RunConfig(model=config.model, mup=config.mup), lambda shapes: change(weights), tokenizer=tokenizer
        )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_replaced(config, made):
    with pytest.raises(UserError, match="which exists already"):
        create.from_weights(made, config, lambda shapes: {}, tokenizer="")
