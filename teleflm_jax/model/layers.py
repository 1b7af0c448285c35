"""Parts of a decoder block other than attention: declared weights, RMSNorm, rotary embeddings, SwiGLU.

Source: report, section 3.1.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from teleflm_jax.model.config import ModelConfig
from teleflm_jax.mup import BIAS, GAIN, MATRIX, Mup

Rope = tuple[jax.Array, jax.Array]
"""Tables of rotary embeddings: (cosine, sine), float32 [B, T, 1, H / 2]."""

STD_OF_TRUNCATED = 0.8796256610342398
"""Standard deviation of a unit normal truncated at two standard deviations."""


def weight(rngs: nnx.Rngs, mup: Mup, role: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> nnx.Param:
    """Declare one weight: its shape, µP role, initial distribution and logical axes.

    Args:
        rngs: source of the initial value.
        mup: rules for this width.
        role: key of `mup.rules`; decides the initial std here and the learning rate in the optimizer.
        axes: one logical axis name per dimension; `sharding.rules` maps them to the mesh.
        shape: shape of the unpadded array, which is float32.

    Source: truncated normal, report, section 3.5. The report does not state the bounds; two standard deviations, rescaled so
    that the weights have exactly the std that µP asks for, are our choice.
    """
    if role in (GAIN, BIAS):
        return nnx.Param(jnp.ones(shape) if role == GAIN else jnp.zeros(shape), role=role, axes=axes)
    std = mup.rules[role].std / STD_OF_TRUNCATED
    return nnx.Param(std * jax.random.truncated_normal(rngs.params(), -2.0, 2.0, shape), role=role, axes=axes)


def output_bias(config: ModelConfig, mup: Mup, *, rngs: nnx.Rngs) -> nnx.Param | None:
    """Declare the bias [D] of an attention or feed-forward output; None for a model without output biases."""
    return weight(rngs, mup, BIAS, ("embed",), (config.d_model,)) if config.output_biases else None


def add_bias(y_BTD: jax.Array, bias: nnx.Param | None) -> jax.Array:
    """Add an `output_bias`, if the model has one."""
    return y_BTD if bias is None else y_BTD + bias[...].astype(y_BTD.dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) · gain, computed in float32 for every compute dtype."""

    def __init__(self, config: ModelConfig, mup: Mup, *, rngs: nnx.Rngs):
        self.epsilon = config.norm_epsilon
        self.gain = weight(rngs, mup, GAIN, ("embed",), (config.d_model,))

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Normalise the last dimension and return x's dtype."""
        x = x_BTD.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return (x * scale * self.gain[...]).astype(x_BTD.dtype)


def rope_tables(positions_BT: jax.Array, config: ModelConfig) -> Rope:
    """Return cosines and sines of every position's angles, float32; all layers and heads share them."""
    half = config.head_size // 2
    frequency = config.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle_BT1F = positions_BT[:, :, None, None].astype(jnp.float32) * frequency
    return jnp.cos(angle_BT1F), jnp.sin(angle_BT1F)


def apply_rope(x_BTNH: jax.Array, rope: Rope) -> jax.Array:
    """Apply rotary embeddings to queries or keys: half-split layout, computed in float32."""
    cos, sin = rope
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BTNH.dtype)


class FeedForward(nnx.Module):
    """SwiGLU: down(silu(gate(x)) · up(x)). The block adds the output bias, if there is one."""

    def __init__(self, config: ModelConfig, mup: Mup, *, rngs: nnx.Rngs):
        d, f = config.d_model, config.d_ff
        self.gate = weight(rngs, mup, MATRIX, ("embed", "mlp"), (d, f))
        self.up = weight(rngs, mup, MATRIX, ("embed", "mlp"), (d, f))
        self.down = weight(rngs, mup, MATRIX, ("mlp", "embed"), (f, d))

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Map [B, T, D] to [B, T, D]."""
        gate = checkpoint_name(x_BTD @ self.gate[...].astype(x_BTD.dtype), "gate_up")
        up = checkpoint_name(x_BTD @ self.up[...].astype(x_BTD.dtype), "gate_up")
        return (jax.nn.silu(gate) * up) @ self.down[...].astype(x_BTD.dtype)
