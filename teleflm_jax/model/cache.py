"""Keys and values kept between decoding steps, so that a new token costs one position and not the whole text again.

Slots are left-aligned: the token at position p of a row lies in slot p. Rows of different lengths are padded on the right, and the keys
and values of the padding are never seen: a query at position p looks at slots 0 to p, and each slot is written by its own token before a
query gets that far.

Here a model's layers are apart (`apart`), not stacked and scanned: a scan would copy each layer's weights, which are all that a step of
one token reads.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from teleflm_jax.model.attention import kernel, weigh
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.model.layers import rotation
from teleflm_jax.model.transformer import Transformer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache:
    """What each layer keeps, in the compute dtype: [B, K, S, H]."""

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]

    @property
    def length(self) -> int:
        """Slots of a row."""
        return self.keys[0].shape[2]


def apart(model: Transformer, move: Callable = lambda function, x, *numbers: function(x, *numbers)) -> Transformer:
    """The model with a list of layers in place of stacked ones, matrices in the compute dtype and vectors float32.

    Args:
        model: with stacked layers.
        move: `(function, array, *numbers) -> function(array, *numbers)`, for each array outside of the layers in the tree's order, then for
            each stacked one; by default plainly, to be traced.
    """
    dtype, count = model.config.compute_dtype, model.config.num_layers
    stacked, form = jax.tree.flatten(model.blocks)
    found = jax.tree.map(lambda x: x, model)
    found.blocks = nnx.List([])
    found = jax.tree.map(lambda x: move(_lowered, x, dtype), found)
    layers = zip(*(move(_layers, x, dtype, count) for x in stacked), strict=True)
    found.blocks = nnx.List([jax.tree.unflatten(form, layer) for layer in layers])
    return found


def _lowered(x: jax.Array, dtype: str) -> jax.Array:
    return x.astype(dtype) if x.ndim > 1 else x


def _layers(x: jax.Array, dtype: str, count: int) -> list[jax.Array]:
    return [_lowered(x[i], dtype) for i in range(count)]


def init(config: ModelConfig, batch_size: int, length: int) -> Cache:
    """An empty cache for `batch_size` rows of at most `length` tokens."""
    zeros = lambda: jnp.zeros((batch_size, config.num_kv_heads, length, config.head_size), config.compute_dtype)  # noqa: E731
    return Cache(keys=tuple(zeros() for _ in range(config.num_layers)), values=tuple(zeros() for _ in range(config.num_layers)))


def prefill(model: Transformer, tokens_BT: jax.Array) -> tuple[jax.Array, Cache]:
    """Run the first T tokens of every row; the training kernel serves, since all that they see is among them.

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

    def look(layer, q_BTNH, k_BTKH, v_BTKH):
        keys, values = (
            kept[layer].at[rows_B1, :, positions_BT].set(new, mode="drop") for kept, new in ((cache.keys, k_BTKH), (cache.values, v_BTKH))
        )
        return weigh(q_BTNH, keys, values, mask_BTS), keys, values

    return _run(model, tokens_BT, positions_BT, look)


def _run(model: Transformer, tokens_BT: jax.Array, positions_BT: jax.Array, look: Callable) -> tuple[jax.Array, Cache]:
    """Layer by layer; `look(layer, q, k, v)` gives what the queries see, and the layer's keys and values."""
    turn = rotation(positions_BT, model.config)
    x_BTD = model.embed(tokens_BT)
    kept = []
    for number, block in enumerate(model.blocks):

        def attend(q_BTNH, k_BTKH, v_BTKH, number=number):
            o_BTNH, *pair = look(number, q_BTNH, k_BTKH, v_BTKH)
            kept.append(pair)
            return o_BTNH

        x_BTD = block(x_BTD, turn, attend)
    keys, values = zip(*kept, strict=True)
    return model.final(x_BTD), Cache(keys=keys, values=values)
