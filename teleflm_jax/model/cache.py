"""Cache of keys and values, so that decoding a token computes one position instead of the whole text.

Slots are left-aligned: the token at position p of a row is in slot p. Shorter rows are padded on the right, and no query reads the padding:
a query at position p attends to slots 0 to p, and each slot is written by its own token before such a query comes.

Decoding uses a model with a list of layers (`unstack_layers`) instead of stacked weights: slicing stacked weights would copy each layer's
weights, which are all that a step of one token reads.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx

from teleflm_jax.model.attention import kernel, masked_attention
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.model.layers import rope_tables
from teleflm_jax.model.transformer import Transformer, Traversal


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache:
    """Keys and values of each layer in the compute dtype, [B, K, S, H]."""

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]

    @property
    def length(self) -> int:
        """Slots of a row."""
        return self.keys[0].shape[2]


Attend = Callable[[int, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]
"""(layer, queries, keys, values) -> (output of attention, keys and values of the layer for the cache)."""


def unstack_layers(model: Transformer, move: Callable[..., Any] = lambda function, x, *numbers: function(x, *numbers)) -> Transformer:
    """Return the model with a list of layers instead of stacked weights; matrices in the compute dtype, vectors float32.

    Args:
        model: a model with stacked layers.
        move: `(function, array, *numbers) -> function(array, *numbers)`, called for each array outside the layers in the tree's order and
            then for each stacked one; the default only calls the function and may be traced.
    """
    dtype, count = model.config.compute_dtype, model.config.num_layers
    stacked, form = jax.tree.flatten(model.blocks)
    found = jax.tree.map(lambda x: x, model)
    found.blocks = nnx.List([])
    found = jax.tree.map(lambda x: move(_cast, x, dtype), found)
    layers = zip(*(move(_layers, x, dtype, count) for x in stacked), strict=True)
    found.blocks = nnx.List([jax.tree.unflatten(form, layer) for layer in layers])
    return found


def _cast(x: jax.Array, dtype: str) -> jax.Array:
    return x.astype(dtype) if x.ndim > 1 else x


def _layers(x: jax.Array, dtype: str, count: int) -> list[jax.Array]:
    return [_cast(x[i], dtype) for i in range(count)]


def init(config: ModelConfig, batch_size: int, length: int) -> Cache:
    """Return an empty cache for `batch_size` rows of at most `length` tokens."""
    zeros = lambda: jnp.zeros((batch_size, config.num_kv_heads, length, config.head_size), config.compute_dtype)  # noqa: E731
    return Cache(keys=tuple(zeros() for _ in range(config.num_layers)), values=tuple(zeros() for _ in range(config.num_layers)))


def prefill(model: Transformer, tokens_BT: jax.Array) -> tuple[jax.Array, Cache]:
    """Run the first T tokens of every row with the training kernel: all keys that they attend to are among them.

    Returns:
        Final hidden states [B, T, D] (for `model.logits`), and a cache of T slots.
    """
    attend = kernel(model.config)
    positions_1T = jnp.arange(tokens_BT.shape[1])[None]
    return _run(model, tokens_BT, positions_1T, lambda layer, q, k, v: (attend(q, k, v), k.swapaxes(1, 2), v.swapaxes(1, 2)))


def extend(model: Transformer, tokens_BT: jax.Array, positions_BT: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
    """Run tokens at the given positions of rows whose earlier positions are in the cache.

    Returns:
        Final hidden states [B, T, D], and the cache with the slots `positions_BT` filled; positions past its end are dropped.
    """
    mask_BTS = jnp.arange(cache.length) <= positions_BT[:, :, None]
    rows_B1 = jnp.arange(tokens_BT.shape[0])[:, None]

    def attend(layer, q_BTNH, k_BTKH, v_BTKH):
        keys, values = (
            kept[layer].at[rows_B1, :, positions_BT].set(new, mode="drop") for kept, new in ((cache.keys, k_BTKH), (cache.values, v_BTKH))
        )
        return masked_attention(q_BTNH, keys, values, mask_BTS), keys, values

    return _run(model, tokens_BT, positions_BT, attend)


def _run(model: Transformer, tokens_BT: jax.Array, positions_BT: jax.Array, attend: Attend) -> tuple[jax.Array, Cache]:
    """Run a model with unstacked layers."""
    rope = rope_tables(positions_BT, model.config)

    def layer(blocks, index, x_BTD, kept):
        new = []

        def attend_and_keep(q_BTNH, k_BTKH, v_BTKH):
            o_BTNH, *pair = attend(index, q_BTNH, k_BTKH, v_BTKH)
            new.append(pair)
            return o_BTNH

        return blocks[index](x_BTD, rope, attend_and_keep), [*kept, *new]

    traversal = Traversal(layer=layer, num_layers=len(cast(nnx.List, model.blocks)), kept=[], loop=_unrolled)
    z_BTD, kept = model.forward(tokens_BT, traversal)
    keys, values = zip(*kept, strict=True)
    return z_BTD, Cache(keys=keys, values=values)


def _unrolled(start: int, end: int, body: Callable[[int, Any], Any], carry: Any) -> Any:
    for index in range(start, end):
        carry = body(index, carry)
    return carry
