"""The Tele-FLM decoder: pre-norm blocks of attention and SwiGLU, final norm, untied head, input and output multipliers.

Source: report, section 3.1. The model knows no mesh, no training loop and no configuration files. Where devices share its layers, it is
given a `group`: the communication functions among them.

Dimension letters, here and in the whole project: B batch, T (query) time, S key time, D model, N heads, K key/value heads, G query heads
per key/value head, H head size, F feed-forward, V vocabulary, L layers. `x_BTD` is an array of shape [B, T, D].
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import chex
import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from sharding.tensor import ALONE, Group
from teleflm_jax.model.attention import Attention, Kernel, kernel
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.model.layers import FeedForward, RMSNorm, Rope, add_bias, output_bias, rope_tables, weight
from teleflm_jax.mup import VECTOR, Mup

SAVED = {"qkv_gate_up": ("qkv", "middle", "gate_up"), "qkv": ("qkv", "middle"), "full": ()}
"""Rematerialisation policy -> named values that a layer keeps for its backward pass. `middle` is the residual stream after attention; it
spares the first two policies a second attention output projection. With gate and up kept too, no matrix product runs twice."""


class Multipliers(NamedTuple):
    """µP's multipliers, numbers or traced scalars. A search varies them, so a training step takes them as inputs."""

    input: Any
    """Factor of the embedded tokens."""
    output: Any
    """Factor of the final hidden states."""

    @classmethod
    def of(cls, mup: Mup) -> Self:
        """Return the multipliers of a model."""
        return cls(input=mup.input_multiplier, output=mup.output_multiplier)


class Block(nnx.Module):
    """One layer: x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: ModelConfig, mup: Mup, *, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config, mup, rngs=rngs)
        self.attention = Attention(config, mup, rngs=rngs)
        self.attention_bias = output_bias(config, mup, rngs=rngs)
        self.feed_forward_norm = RMSNorm(config, mup, rngs=rngs)
        self.feed_forward = FeedForward(config, mup, rngs=rngs)
        self.feed_forward_bias = output_bias(config, mup, rngs=rngs)

    def __call__(self, x_BTD: jax.Array, rope: Rope, attend: Kernel, group: Group = ALONE) -> jax.Array:
        """Map [B, T, D] to [B, T, D]; `group` holds the other heads and the rest of the feed-forward."""
        y_BTD = self.attention(group.gather_sequence(self.attention_norm(x_BTD)), rope, attend)
        # biases are added after the sum: added to partial sums, they would count once for each device
        x_BTD = checkpoint_name(x_BTD + add_bias(group.reduce_partials(y_BTD), self.attention_bias), "middle")
        y_BTD = self.feed_forward(group.gather_sequence(self.feed_forward_norm(x_BTD)))
        return x_BTD + add_bias(group.reduce_partials(y_BTD), self.feed_forward_bias)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traversal:
    """Parts of `Transformer.forward` that differ between training, scoring, decoding and plain automatic differentiation."""

    layer: Callable[[Any, Any, jax.Array, Any], tuple[jax.Array, Any]]
    """(blocks, index, x_BTD, kept) -> (output, kept): run one layer and update what is kept: residuals, keys and values, or nothing."""
    num_layers: Any
    """Layers to run: an integer, or a traced scalar."""
    kept: Any = None
    """Initial value of `kept`."""
    loop: Callable[[Any, Any, Callable[[Any, Any], Any], Any], Any] = jax.lax.fori_loop
    """(start, end, body, carry) -> carry."""
    embed: Callable[[Callable[[], jax.Array]], jax.Array] = lambda embed: embed()
    """Calls the embedding, except on a pipeline stage whose input comes from the stage before it."""
    final: Callable[[Callable[[jax.Array], jax.Array], jax.Array], Any] = lambda final, x_BTD: final(x_BTD)
    """Calls the final norm on the output of the last layer, except on a pipeline stage that has a successor."""
    group: Group = ALONE
    """Communication among the devices that share the layers."""
    multipliers: Multipliers | None = None
    """Default: the model's own."""


class Transformer(nnx.Module):
    """A decoder whose blocks' weights are stacked along a leading layer dimension."""

    def __init__(self, config: ModelConfig, mup: Mup, *, rngs: nnx.Rngs):
        self.config = config
        self.multipliers = Multipliers.of(mup)
        self.embedding = weight(rngs, mup, VECTOR, ("vocab", "embed"), (config.vocab_size, config.d_model))
        keys = jax.random.split(rngs.params(), config.num_layers)
        self.blocks = jax.vmap(lambda key: Block(config, mup, rngs=nnx.Rngs(params=key)))(keys)
        self.final_norm = RMSNorm(config, mup, rngs=rngs)
        self.head = weight(rngs, mup, VECTOR, ("embed", "vocab"), (config.d_model, config.vocab_size))

    def __call__(self, tokens_BT: jax.Array, segments_BT: jax.Array | None = None) -> jax.Array:
        """Map token ids [B, T] to float32 logits [B, T, V] of the next token.

        `segments_BT` numbers the documents of each row and is needed only under `document_attention`.
        """
        z_BTD, _ = self.forward(tokens_BT, plain(self.config, tokens_BT.shape[1], segments_BT))
        return self.logits(z_BTD)

    def forward(self, tokens_BT: jax.Array, traversal: Traversal) -> tuple[Any, Any]:
        """Map token ids [B, T] to final hidden states [B, T, D], which the head or an objective multiplies.

        Returns:
            The result of `traversal.final`, by default the final hidden states; and what the layers kept.
        """
        chex.assert_rank(tokens_BT, 2)

        @jax.named_scope("layers")
        def layer(index, carry):
            return traversal.layer(self.blocks, index, *carry)

        x_BTD = traversal.embed(lambda: self.embed(tokens_BT, traversal.group, traversal.multipliers))
        x_BTD, kept = traversal.loop(0, traversal.num_layers, layer, (x_BTD, traversal.kept))
        return traversal.final(lambda x_BTD: self.final(x_BTD, traversal.group, traversal.multipliers), x_BTD), kept

    @jax.named_scope("embedding")
    def embed(self, tokens_BT: jax.Array, group: Group = ALONE, multipliers: Multipliers | None = None) -> jax.Array:
        """Map token ids to the residual stream, [B, T, D] in the compute dtype; `group` holds the other rows of the vocabulary."""
        rows_BT, here_BT = group.local_rows(tokens_BT, self.embedding.shape[0])
        return self.scale_embedded(self.embedding[...][rows_BT].astype(self.config.compute_dtype), here_BT, group, multipliers)

    def scale_embedded(
        self, x_BTD: jax.Array, here_BT: jax.Array, group: Group = ALONE, multipliers: Multipliers | None = None
    ) -> jax.Array:
        """Sum looked-up rows over the `group`, where one device has each row (`here_BT`), times the input multiplier; linear in x."""
        scale = jnp.asarray((multipliers or self.multipliers).input, x_BTD.dtype)
        return group.reduce_partials(jnp.where(here_BT[..., None], x_BTD, 0)) * scale

    def final(self, x_BTD: jax.Array, group: Group = ALONE, multipliers: Multipliers | None = None) -> jax.Array:
        """Map the last layer's output to final hidden states of all positions: final norm times the output multiplier."""
        # in float32: 1T's 0.025 is 0.1 % off in bfloat16
        z_BTD = self.final_norm(x_BTD).astype(jnp.float32) * (multipliers or self.multipliers).output
        return group.gather_sequence(z_BTD.astype(x_BTD.dtype))

    def logits(self, z_BTD: jax.Array) -> jax.Array:
        """Map final hidden states to float32 logits."""
        return jnp.einsum("btd,dv->btv", z_BTD, self.head[...].astype(z_BTD.dtype), preferred_element_type=jnp.float32)


def plain(config: ModelConfig, length: int, segments_BT: jax.Array | None = None) -> Traversal:
    """Run whole sequences of `length` on one device and keep nothing; JAX differentiates it."""
    if config.document_attention:
        assert segments_BT is not None
        chex.assert_equal(segments_BT.shape[1], length)
    rope, attend = rope_tables(jnp.arange(length)[None], config), kernel(config, segments_BT)
    run = rematerialised(lambda block, x_BTD: block(x_BTD, rope, attend), config.remat)

    def layer(blocks, index, x_BTD, kept):
        block = jax.tree.map(lambda w: jax.lax.dynamic_index_in_dim(w, index, keepdims=False), blocks)
        return run(block, x_BTD), kept

    return Traversal(layer=layer, num_layers=config.num_layers)


def rematerialised(layer: Callable[..., jax.Array], policy: str) -> Callable[..., jax.Array]:
    """Wrap a layer so that it keeps only the values that a policy names (`ModelConfig.remat`)."""
    if policy == "none":
        return layer
    return jax.checkpoint(layer, policy=jax.checkpoint_policies.save_only_these_names(*SAVED[policy]), prevent_cse=False)
