"""The table of names, which both directions read."""

import jax
import numpy as np
import pytest
from flax import nnx

from teleflm_jax import checksum, mup
from teleflm_jax.huggingface import names
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.train.state import weights_of
from tests import tiny

TABLES = {"llama": (names.LLAMA, False), "llama with biases": (names.LLAMA + names.LLAMA_BIASES, True), "telechat": (names.TELECHAT, True)}


@pytest.mark.parametrize("name", TABLES)
def test_every_declared_weight_has_one_row_and_its_shape(name):
    rows, biases = TABLES[name]
    config = tiny.config(output_biases=biases)
    model = jax.eval_shape(lambda: Transformer(config, mup.at_width(tiny.WIDE, 32), rngs=nnx.Rngs(0)))
    declared = {checksum.name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(weights_of(model))}
    size = names.sizes(config)
    ours = {row.ours: (config.num_layers,) * row.stacked + tuple(size[letter] for letter in row.axes) for row in rows if row.ours}
    assert ours == declared and len([row for row in rows if row.ours]) == len(ours)
    assert all(row.stacked == (row.ours or "blocks/").startswith("blocks/") for row in rows)


@pytest.mark.parametrize("row", names.LLAMA, ids=lambda row: row.ours)
def test_there_and_back_is_the_identity_and_copies_nothing(row):
    size = names.sizes(tiny.config(num_kv_heads=2))
    theirs = np.arange(np.prod(names.shape(row, size))).reshape(names.shape(row, size))
    ours = names.to_ours(theirs, row, size)
    back = names.to_theirs(ours, row, size)
    np.testing.assert_array_equal(back, theirs)
    assert np.shares_memory(ours, theirs) and np.shares_memory(back, theirs)


def test_a_projection_by_hand():
    row = next(row for row in names.LLAMA if row.ours == "blocks/attention/query")
    ours = names.to_ours(np.array([[1, 2], [3, 4], [5, 6], [7, 8]]), row, {"N": 2, "H": 2, "D": 2})
    assert ours[:, 0].tolist() == [[1, 3], [2, 4]] and ours[:, 1].tolist() == [[5, 7], [6, 8]]


def test_a_fused_tensor_by_hand():
    key, value = (next(row for row in names.TELECHAT if row.ours == f"blocks/attention/{name}") for name in ("key", "value"))
    fused = np.arange(8)[:, None]  # two heads of size 2 over one input: k0 k0 v0 v0 k1 k1 v1 v1
    size = {"K": 2, "P": 2, "H": 2, "D": 1}
    assert names.to_ours(fused, key, size).tolist() == [[[0, 1], [4, 5]]]
    assert names.to_ours(fused, value, size).tolist() == [[[2, 3], [6, 7]]]


BLOCK = {
    "attention_norm/gain": ("input_layernorm.weight",) * 2,
    "attention/query": ("self_attn.q_proj.weight", "self_attention.query.weight"),
    "attention/key": ("self_attn.k_proj.weight", "self_attention.key_value.weight"),
    "attention/value": ("self_attn.v_proj.weight", "self_attention.key_value.weight"),
    "attention/out": ("self_attn.o_proj.weight", "self_attention.dense.weight"),
    "attention_bias": ("self_attn.o_proj.bias", "self_attention.dense.bias"),
    "feed_forward_norm/gain": ("post_attention_layernorm.weight",) * 2,
    "feed_forward/gate": ("mlp.gate_proj.weight",) * 2,
    "feed_forward/up": ("mlp.up_proj.weight",) * 2,
    "feed_forward/down": ("mlp.down_proj.weight",) * 2,
    "feed_forward_bias": ("mlp.down_proj.bias",) * 2,
}
ENDS = {
    "embedding": ("model.embed_tokens.weight", "word_embeddings.weight"),
    "final_norm/gain": ("model.norm.weight", "ln_f.weight"),
    "head": ("lm_head.weight",) * 2,
}


@pytest.mark.parametrize("number, rows, prefix", [(0, names.LLAMA + names.LLAMA_BIASES, "model.layers.1"), (1, names.TELECHAT, "h.1")])
def test_the_names_are_those_of_the_published_models(number, rows, prefix):
    wanted = {f"blocks/{ours}": f"{prefix}.{theirs[number]}" for ours, theirs in BLOCK.items()}
    wanted |= {ours: theirs[number] for ours, theirs in ENDS.items()}
    assert {row.ours: row.name(1) for row in rows if row.ours} == wanted
