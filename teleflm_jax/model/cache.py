"""Keys and values kept between decoding steps, so that a new token costs one position and not the whole text again.

Slots are left-aligned: the token at position p of a row lies in slot p. Rows of different lengths are padded on the right, and the keys
and values of the padding are never seen: a query at position p looks at slots 0 to p, and each slot is written by its own token before a
query gets that far.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from teleflm_jax.model.attention import kernel, weigh
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.model.layers import rotation
from teleflm_jax.model.transformer import Transformer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache:
    """What all layers keep, in the compute dtype: [L, B, S, K, H] each."""

    keys: jax.Array
    values: jax.Array


def init(config: ModelConfig, batch_size: int, length: int) -> Cache:
    """An empty cache for `batch_size` rows of at most `length` tokens."""
    shape = (config.num_layers, batch_size, length, config.num_kv_heads, config.head_size)
    return Cache(keys=jnp.zeros(shape, config.compute_dtype), values=jnp.zeros(shape, config.compute_dtype))


def prefill(model: Transformer, tokens_BT: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
    """Run the first T tokens of every row; the training kernel serves, since all that they see is among them.

    Returns:
        Final hidden states [B, T, D] (for `model.logits`), and the cache with slots 0 to T - 1 filled.
    """
    attend = kernel(model.config)
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    return _run(model, tokens_BT, positions_BT, cache, lambda q, k, v, keys, values: attend(q, k, v))


def extend(model: Transformer, tokens_BT: jax.Array, positions_BT: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
    """Run tokens at the given positions of rows whose earlier positions are in the cache.

    Returns:
        Final hidden states [B, T, D], and the cache with the slots `positions_BT` filled; positions past its end are dropped.
    """
    mask_BTS = jnp.arange(cache.keys.shape[2]) <= positions_BT[:, :, None]
    return _run(model, tokens_BT, positions_BT, cache, lambda q, k, v, keys, values: weigh(q, keys, values, mask_BTS))


def _run(model: Transformer, tokens_BT: jax.Array, positions_BT: jax.Array, cache: Cache, look: Callable) -> tuple[jax.Array, Cache]:
    """Scan the layers. The whole cache is carried, not scanned over: only then does XLA write the new slots in place."""
    rows_B1 = jnp.arange(tokens_BT.shape[0])[:, None]
    turn = rotation(positions_BT, model.config)

    def layer(carry, numbered):
        x_BTD, keys, values = carry
        block, number = numbered

        def attend(q_BTNH, k_BTKH, v_BTKH):
            nonlocal keys, values
            keys = keys.at[number, rows_B1, positions_BT].set(k_BTKH, mode="drop")
            values = values.at[number, rows_B1, positions_BT].set(v_BTKH, mode="drop")
            return look(q_BTNH, k_BTKH, v_BTKH, keys[number], values[number])

        return (block(x_BTD, turn, attend), keys, values), None

    numbered = (model.blocks, jnp.arange(model.config.num_layers))
    (x_BTD, keys, values), _ = jax.lax.scan(layer, (model.embed(tokens_BT), cache.keys, cache.values), numbered)
    return model.final(x_BTD), Cache(keys=keys, values=values)
