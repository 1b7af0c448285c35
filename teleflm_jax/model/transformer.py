"""The Tele-FLM decoder: pre-norm blocks of attention and SwiGLU, final norm, untied head, input and output multipliers.

Source: report, section 3.1. It knows no mesh, no loop and no configuration files; `group` stands for the devices, if any,
that hold the other heads, the rest of the feed-forward and of the vocabulary.

Dimension letters, here and in the whole project: B batch, T (query) time, S key time, D model, N heads, K key/value heads, G query heads
per key/value head, H head size, F feed-forward, V vocabulary, L layers. `x_BTD` is an array of shape [B, T, D].
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from sharding.tensor import ALONE, Group
from teleflm_jax.model.attention import Attention, Kernel, kernel
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.model.layers import FeedForward, RMSNorm, Rotation, biased, output_bias, rotation, weight
from teleflm_jax.mup import VECTOR, Mup

SAVED = {"qkv_gate_up": ("qkv", "middle", "gate_up"), "qkv": ("qkv", "middle"), "full": ()}
"""Remat policy -> named values that a layer keeps for its backward pass. `middle`, the residual stream after attention, spares the
first two a second attention output projection; with gate and up kept as well, no matrix product is done twice."""


class Block(nnx.Module):
    """One layer: x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: ModelConfig, mup: Mup, *, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config, mup, rngs=rngs)
        self.attention = Attention(config, mup, rngs=rngs)
        self.attention_bias = output_bias(config, mup, rngs=rngs)
        self.feed_forward_norm = RMSNorm(config, mup, rngs=rngs)
        self.feed_forward = FeedForward(config, mup, rngs=rngs)
        self.feed_forward_bias = output_bias(config, mup, rngs=rngs)

    def __call__(self, x_BTD: jax.Array, turn: Rotation, attend: Kernel, group: Group = ALONE) -> jax.Array:
        """[B, T, D] -> [B, T, D]; on a shard of heads and feed-forward, `group` is those who have the others."""
        y_BTD = self.attention(group.whole(self.attention_norm(x_BTD)), turn, attend)
        # biases are added to the whole sum: each device's part of it would add them again
        x_BTD = checkpoint_name(x_BTD + biased(group.split(y_BTD), self.attention_bias), "middle")
        y_BTD = self.feed_forward(group.whole(self.feed_forward_norm(x_BTD)))
        return x_BTD + biased(group.split(y_BTD), self.feed_forward_bias)


class Transformer(nnx.Module):
    """Tokens to logits. The weights of all blocks are stacked along a leading layer dimension, and one traced block is scanned."""

    def __init__(self, config: ModelConfig, mup: Mup, *, rngs: nnx.Rngs):
        self.config = config
        self.input_multiplier = mup.input_multiplier
        self.output_multiplier = mup.output_multiplier
        self.embedding = weight(rngs, mup, VECTOR, ("vocab", "embed"), (config.vocab_size, config.d_model))
        keys = jax.random.split(rngs.params(), config.num_layers)
        self.blocks = jax.vmap(lambda key: Block(config, mup, rngs=nnx.Rngs(params=key)))(keys)
        self.final_norm = RMSNorm(config, mup, rngs=rngs)
        self.head = weight(rngs, mup, VECTOR, ("embed", "vocab"), (config.d_model, config.vocab_size))

    def embed(self, tokens_BT: jax.Array, group: Group = ALONE) -> jax.Array:
        """Token ids to the residual stream, [B, T, D] in the compute dtype; on a shard of the vocabulary, `group` has the other rows."""
        rows_BT, here_BT = group.rows(tokens_BT, self.embedding.shape[0])
        x_BTD = self.embedding[...][rows_BT].astype(self.config.compute_dtype)
        return group.split(jnp.where(here_BT[..., None], x_BTD, 0)) * self.input_multiplier

    def final(self, x_BTD: jax.Array) -> jax.Array:
        """Last layer's output to what the head multiplies: normed, times the output multiplier."""
        return finish(self.final_norm, self.output_multiplier, x_BTD)

    def hidden(self, tokens_BT: jax.Array, segments_BT: jax.Array | None = None) -> jax.Array:
        """Token ids [B, T] to final hidden states [B, T, D], multiplied; the head is left to the loss, which never holds all logits.

        `segments_BT` numbers the documents of each row and is needed only under `document_attention`.
        """
        chex.assert_rank(tokens_BT, 2)
        if self.config.document_attention:
            chex.assert_equal_shape([tokens_BT, segments_BT])
        turn = rotation(jnp.arange(tokens_BT.shape[1])[None], self.config)
        attend = kernel(self.config, segments_BT)

        def layer(x_BTD, block):
            return block(x_BTD, turn, attend), None

        x_BTD, _ = jax.lax.scan(rematerialised(layer, self.config.remat), self.embed(tokens_BT), self.blocks)
        return self.final(x_BTD)

    def __call__(self, tokens_BT: jax.Array, segments_BT: jax.Array | None = None) -> jax.Array:
        """Token ids [B, T] to float32 logits [B, T, V] of the next token."""
        return self.logits(self.hidden(tokens_BT, segments_BT))

    def logits(self, z_BTD: jax.Array) -> jax.Array:
        """Final hidden states to float32 logits."""
        return jnp.einsum("btd,dv->btv", z_BTD, self.head[...].astype(z_BTD.dtype), preferred_element_type=jnp.float32)


def finish(norm: RMSNorm, multiplier: float, x_BTD: jax.Array) -> jax.Array:
    """`Transformer.final` as a function of its weights."""
    # in float32: 1T's 0.025 is 0.1 % off in bfloat16
    return (norm(x_BTD).astype(jnp.float32) * multiplier).astype(x_BTD.dtype)


def rematerialised(layer: Callable, remat: str) -> Callable:
    """Wrap a layer so that it keeps only what the policy `remat` names (`ModelConfig.remat`)."""
    if remat == "none":
        return layer
    return jax.checkpoint(layer, policy=jax.checkpoint_policies.save_only_these_names(*SAVED[remat]), prevent_cse=False)
