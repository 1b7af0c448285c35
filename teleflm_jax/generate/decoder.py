"""A model laid out for decoding, and its three passes over the mesh: read texts, go on with them, judge targets."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from sharding import decoding
from sharding.rules import Layout
from teleflm_jax.model import cache as kv
from teleflm_jax.model.transformer import Transformer

HEAD_ROWS = 64
"""Positions whose logits exist at one time while targets are judged."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """Weights in the compute dtype, layer by layer (`kv.unstack_layers`), split over all devices of a group.

    The model is flattened once, not at each call of a compiled program: for 8 layers that takes 2 ms.
    """

    model: Transformer
    layout: Layout

    @functools.cached_property
    def flat(self) -> tuple[list[jax.Array], jax.tree_util.PyTreeDef]:
        """The model's arrays and its structure."""
        return jax.tree.flatten(self.model)

    @property
    def context_length(self) -> int:
        """Longest text that the model was trained on."""
        return self.model.config.context_length

    @property
    def vocab_size(self) -> int:
        """Ids that the model knows."""
        return self.model.config.vocab_size


jax.tree_util.register_pytree_node(
    Decoder,
    lambda decoder: (decoder.flat[0], (decoder.flat[1], decoder.layout)),
    lambda static, arrays: Decoder(model=jax.tree.unflatten(static[0], arrays), layout=static[1]),
)


def decoder(model: Transformer, layout: Layout, *, release: bool = False) -> Decoder:
    """Lay a model out for decoding, one array at a time.

    Args:
        model: canonical weights, with any sharding on the layout's mesh.
        layout: the mesh.
        release: let each array of the model go as soon as it is laid out, so that no more than one exists twice.
    """
    where = decoding.shardings(layout, jax.eval_shape(kv.unstack_layers, model))
    of_a_layer, where.blocks = jax.tree.leaves(where.blocks[0]), nnx.List([])
    places = iter([*jax.tree.leaves(where), *of_a_layer])

    def move(function, x, *numbers):
        static = tuple(range(1, 1 + len(numbers)))
        moved = jax.jit(function, static_argnums=static, out_shardings=next(places))(x, *numbers)
        if release:
            jax.block_until_ready(moved)
            x.delete()
        return moved

    return Decoder(model=kv.unstack_layers(model, move), layout=layout)


def read(decoder: Decoder, tokens_BT: jax.Array) -> tuple[jax.Array, kv.Cache]:
    """The first T tokens of every row -> final hidden states [B, T, D] and a cache of T slots; to be traced."""
    z_BTD, cache = kv.prefill(decoder.model, decoding.placed_rows(decoder.layout, tokens_BT))
    return z_BTD, decoding.placed_cache(decoder.layout, cache)


def go_on(decoder: Decoder, tokens_BT: jax.Array, positions_BT: jax.Array, cache: kv.Cache) -> tuple[jax.Array, kv.Cache]:
    """Tokens at the given positions of rows with a cache -> final hidden states [B, T, D] and the cache; to be traced."""
    z_BTD, cache = kv.extend(decoder.model, tokens_BT, positions_BT, cache)
    return z_BTD, decoding.placed_cache(decoder.layout, cache)


def tell(decoder: Decoder, z_ND: jax.Array, targets_N: jax.Array, alternatives: int) -> dict[str, jax.Array]:
    """Log-probability in nats of each target after its hidden state, and the likeliest tokens there; to be traced.

    Returns:
        float32 `logprob` [N], and likeliest first int32 `ids` and float32 `logprobs` [N, alternatives].
    """

    def some(zt):
        return figures(decoder.model.logits(zt[0])[0], zt[1], alternatives)

    return _by_head_rows(some, z_ND, targets_N)


def figures(logits_NV: jax.Array, targets_N: jax.Array, alternatives: int) -> dict[str, jax.Array]:
    """The same, of logits that are there."""
    logprobs_NV = jax.nn.log_softmax(logits_NV, axis=-1)
    logprob_N = jnp.take_along_axis(logprobs_NV, targets_N[:, None], axis=-1)[:, 0]
    logprobs_NK, ids_NK = jax.lax.top_k(logprobs_NV, min(alternatives, logits_NV.shape[-1]))
    return {"logprob": logprob_N, "logprobs": logprobs_NK, "ids": ids_NK}


def judge(decoder: Decoder, z_ND: jax.Array, targets_N: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-probability in nats of each target after its hidden state, float32 [N], and whether it is the likeliest; to be traced."""

    def some(zt):
        logits_NV = decoder.model.logits(zt[0])[0]
        found_N = jnp.take_along_axis(logits_NV, zt[1][:, None], axis=-1)[:, 0]
        return found_N - jax.nn.logsumexp(logits_NV, axis=-1), logits_NV.argmax(axis=-1) == zt[1]

    return _by_head_rows(some, z_ND, targets_N)


def _by_head_rows(function: Callable, z_ND: jax.Array, targets_N: jax.Array):
    """Arrays [N, …] that a function finds from hidden states [1, n, D] and targets [n]; logits of a few positions exist at one time."""
    n = targets_N.shape[0]
    rows = min(HEAD_ROWS, n)
    padded = -n % rows
    z = jnp.pad(z_ND, ((0, padded), (0, 0))).reshape(-1, 1, rows, z_ND.shape[1])
    targets = jnp.pad(targets_N, (0, padded)).reshape(-1, rows)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], jax.lax.map(function, (z, targets)))
