"""A model laid out for decoding and its passes over the mesh: prefill, decode, and log-probabilities of targets."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sharding import decoding
from sharding.rules import Layout
from teleflm_jax.model import cache as kv
from teleflm_jax.model.transformer import Transformer

HEAD_ROWS = 64
"""Positions whose logits exist at one time while log-probabilities of targets are computed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """Weights in the compute dtype with unstacked layers (`kv.unstack_layers`), split over all devices of a group.

    The model is flattened once and not at each call of a compiled program, which would take 2 ms for 8 layers.
    """

    model: Transformer
    layout: Layout

    @functools.cached_property
    def flat(self) -> tuple[list[jax.Array], Any]:
        """The model's arrays and its structure."""
        return jax.tree.flatten(self.model)

    @property
    def context_length(self) -> int:
        """Longest sequence that the model was trained on."""
        return self.model.config.context_length

    @property
    def vocab_size(self) -> int:
        """Number of ids that the model has."""
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
        release: delete each array of the model as soon as it is laid out, so that only one exists twice at a time.
    """
    shardings = decoding.shardings(layout, jax.eval_shape(kv.unstack_layers, model))
    per_layer, shardings.blocks = jax.tree.leaves(shardings.blocks[0]), nnx.List([])
    remaining = iter([*jax.tree.leaves(shardings), *per_layer])

    def move(function: Callable[..., jax.Array | list[jax.Array]], x: jax.Array, *arguments: Any) -> jax.Array | list[jax.Array]:
        static = tuple(range(1, 1 + len(arguments)))
        moved = jax.jit(function, static_argnums=static, out_shardings=next(remaining))(x, *arguments)
        if release:
            jax.block_until_ready(moved)
            x.delete()
        return moved

    return Decoder(model=kv.unstack_layers(model, move), layout=layout)


def prefill(decoder: Decoder, tokens_BT: jax.Array) -> tuple[jax.Array, kv.Cache]:
    """Return final hidden states [B, T, D] of the first T tokens of every row, and a cache of T slots; for use inside jit."""
    z_BTD, cache = kv.prefill(decoder.model, decoding.placed_rows(decoder.layout, tokens_BT))
    return z_BTD, decoding.placed_cache(decoder.layout, cache)


def decode(decoder: Decoder, tokens_BT: jax.Array, positions_BT: jax.Array, cache: kv.Cache) -> tuple[jax.Array, kv.Cache]:
    """Return final hidden states [B, T, D] of tokens at the given positions of rows with a cache, and the cache; for use inside jit."""
    z_BTD, cache = kv.extend(decoder.model, tokens_BT, positions_BT, cache)
    return z_BTD, decoding.placed_cache(decoder.layout, cache)


def target_logprobs(decoder: Decoder, z_ND: jax.Array, targets_N: jax.Array, alternatives: int) -> dict[str, jax.Array]:
    """Return the log-probability in nats of each target after its hidden state, and the likeliest tokens; for use inside jit.

    Returns:
        float32 `logprob` [N], and likeliest first int32 `ids` and float32 `logprobs` [N, alternatives].
    """

    def block(zt):
        return logprobs_of_logits(decoder.model.logits(zt[0])[0], zt[1], alternatives)

    return _by_head_rows(block, z_ND, targets_N)


def logprobs_of_logits(logits_NV: jax.Array, targets_N: jax.Array, alternatives: int) -> dict[str, jax.Array]:
    """Return what `target_logprobs` returns, from logits."""
    logprobs_NV = jax.nn.log_softmax(logits_NV, axis=-1)
    logprob_N = jnp.take_along_axis(logprobs_NV, targets_N[:, None], axis=-1)[:, 0]
    logprobs_NK, ids_NK = jax.lax.top_k(logprobs_NV, min(alternatives, logits_NV.shape[-1]))
    return {"logprob": logprob_N, "logprobs": logprobs_NK, "ids": ids_NK}


def score_targets(decoder: Decoder, z_ND: jax.Array, targets_N: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the log-probability in nats of each target, float32 [N], and whether it is the likeliest token; for use inside jit."""

    def block(zt):
        logits_NV = decoder.model.logits(zt[0])[0]
        found_N = jnp.take_along_axis(logits_NV, zt[1][:, None], axis=-1)[:, 0]
        return found_N - jax.nn.logsumexp(logits_NV, axis=-1), logits_NV.argmax(axis=-1) == zt[1]

    return _by_head_rows(block, z_ND, targets_N)


def _by_head_rows(function: Callable[[tuple[jax.Array, jax.Array]], Any], z_ND: jax.Array, targets_N: jax.Array) -> Any:
    """Map a function of hidden states [1, n, D] and targets [n] over blocks, so that logits of a few positions exist at one time.

    Returns:
        The function's arrays, [N, …].
    """
    n = targets_N.shape[0]
    rows = min(HEAD_ROWS, n)
    padded = -n % rows
    z = jnp.pad(z_ND, ((0, padded), (0, 0))).reshape(-1, 1, rows, z_ND.shape[1])
    targets = jnp.pad(targets_N, (0, padded)).reshape(-1, rows)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], jax.lax.map(function, (z, targets)))
