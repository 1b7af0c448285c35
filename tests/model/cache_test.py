import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from teleflm_jax.model import cache
from tests import tiny

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
PROMPTS = np.array([3, 7, 1])

unstack_layers = jax.jit(cache.unstack_layers)
extend = jax.jit(cache.extend)


@functools.partial(jax.jit, static_argnames="length")
def prefill(model, tokens_BT, length=16):
    """With room for more."""
    z_BTD, kept = cache.prefill(model, tokens_BT)
    return z_BTD, jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, length - x.shape[2]), (0, 0))), kept)


@jax.jit
def one_step(model, tokens_B, positions_B, kept):
    z_B1D, kept = cache.extend(model, tokens_B[:, None], positions_B[:, None], kept)
    return model.logits(z_B1D)[:, 0], kept


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def grouped():
    return tiny.model(tiny.config(num_kv_heads=2))


@pytest.mark.parametrize("name", ["model", "grouped"])
def test_prefill_then_token_by_token_equals_the_full_forward(name, request):
    model, tokens = request.getfixturevalue(name), tiny.tokens(3, 16)
    padded = jnp.where(jnp.arange(8) < PROMPTS[:, None], tokens[:, :8], 63)
    full, model = tiny.logits(model, tokens), unstack_layers(model)
    z, kept = prefill(model, padded)
    for row, length in enumerate(PROMPTS):
        chex.assert_trees_all_close(model.logits(z)[row, :length], full[row, :length], **CLOSE)
    for step in range(9):
        positions = PROMPTS + step
        logits, kept = one_step(model, tokens[np.arange(3), positions], positions, kept)
        chex.assert_trees_all_close(logits, full[np.arange(3), positions], **CLOSE)


def test_several_tokens_may_be_added_at_once(model):
    tokens = tiny.tokens(3, 16)
    _, kept = prefill(unstack_layers(model), tokens[:, :8])
    z, _ = extend(unstack_layers(model), tokens[:, 8:14], jnp.broadcast_to(jnp.arange(8, 14), (3, 6)), kept)
    chex.assert_trees_all_close(model.logits(z), tiny.logits(model, tokens)[:, 8:14], **CLOSE)


def test_positions_past_the_end_change_nothing(model):
    tokens = tiny.tokens(3, 16)
    _, kept = prefill(unstack_layers(model), tokens[:, :8])
    _, after = one_step(unstack_layers(model), tokens[:, 0], np.array([16, 16, 16]), kept)
    chex.assert_trees_all_equal(after, kept)


def test_a_cache_has_a_slot_for_each_key_head_of_each_layer():
    kept = cache.init(tiny.config(num_kv_heads=2), batch_size=3, length=5)
    assert len(kept.keys) == len(kept.values) == 2 and kept.length == 5
    chex.assert_shape((*kept.keys, *kept.values), (3, 2, 5, 8))
    assert cache.init(tiny.config(compute_dtype="bfloat16"), 1, 1).keys[0].dtype == jnp.bfloat16


def test_unstacked_layers_are_in_the_compute_dtype_and_gains_are_not():
    found = unstack_layers(tiny.model(tiny.config(compute_dtype="bfloat16")))
    assert len(found.blocks) == 2
    assert found.blocks[1].feed_forward.gate.dtype == found.head.dtype == jnp.bfloat16
    assert found.blocks[1].attention_norm.gain.dtype == found.final_norm.gain.dtype == jnp.float32


def test_a_document_mask_does_not_matter_inside_one_document(model):
    masked = nnx.clone(model)
    masked.config = tiny.config(document_attention=True)
    tokens = tiny.tokens(3, 16)
    z, _ = prefill(unstack_layers(masked), tokens[:, :8])
    chex.assert_trees_all_close(model.logits(z), tiny.logits(model, tokens)[:, :8], **CLOSE)
