"""Out and in again: nothing is changed by it."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from teleflm_jax import config, mup
from teleflm_jax.runs.config import SAVED_CONFIG, SECTIONS
from teleflm_jax.train.state import weights_of
from tests import tiny
from tests.huggingface import folders


def same_weights(one, other):
    jax.tree.map(np.testing.assert_array_equal, weights_of(one), weights_of(other))


def settings(folder):
    return config.parse([str(folder / SAVED_CONFIG)], [], SECTIONS, optional=("data", "train"))


@pytest.mark.parametrize("shard_bytes", [20_000, 10**9])
def test_out_and_in_again_is_the_identity(trained, tmp_path, shard_bytes):
    out, back = tmp_path / "out", tmp_path / "back"
    options_ = ["--format", "teleflm", "--dtype", "float32", "--shard_bytes", shard_bytes]
    assert folders.call("export", "--workdir", trained, "--out", out, *options_) == 0
    assert folders.call("import", "--from", out, "--workdir", back) == 0
    same_weights(folders.load(back), folders.load(trained))
    assert (back / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()
    before, after = settings(trained), settings(back)
    assert after["model"] == before["model"]
    multipliers = [(at.input_multiplier, at.output_multiplier) for at in (mup.at_width(x["mup"], 32) for x in (before, after))]
    assert multipliers[0] == multipliers[1] == (3.0, 0.5)
    assert len(list(out.glob("*.safetensors"))) == (1 if shard_bytes == 10**9 else 6)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("biases", [False, True])
def test_folded_and_in_again_computes_the_same(tokenizer, tmp_path, biases):
    shape = folders.shape(num_kv_heads=2, output_biases=biases)
    rates = dataclasses.replace(folders.RATES, input_multiplier=2.0, output_multiplier=0.25)
    run = folders.write(tmp_path / "run", shape, rates, tokenizer, tiny.model(shape))
    assert folders.call("export", "--workdir", run, "--format", "llama", "--dtype", "float32", "--out", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert found["attention_bias"] is found["mlp_bias"] is biases
    code = folders.call("import", "--from", tmp_path / "out", "--workdir", tmp_path / "back")
    if biases:  # a Llama with biases may have them everywhere
        assert code == 2 and not (tmp_path / "back").exists()
        return
    tokens = tiny.tokens(2, 12, vocab_size=folders.VOCABULARY)
    # multipliers that are powers of two: no rounding at all
    np.testing.assert_array_equal(folders.load(tmp_path / "back")(tokens), folders.load(run)(tokens))
