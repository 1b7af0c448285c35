"""The parts of a decoder block that are not attention: declared weights, RMSNorm, rotary positions, SwiGLU.

Source: report, section 3.1.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from teleflm_jax.model.config import ModelConfig
from teleflm_jax.mup import BIAS, GAIN, MATRIX, Mup

Rotation = tuple[jax.Array, jax.Array]
"""(cosine, sine) [B, T, 1, H / 2]."""

STD_OF_TRUNCATED = 0.8796256610342398
"""Standard deviation of a unit normal cut at two standard deviations."""


def weight(rngs: nnx.Rngs, mup: Mup, role: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> nnx.Param:
    """Declare one weight: its shape, role in µP, initial distribution and logical axes, all in one place.

    Args:
        rngs: source of the initial value.
        mup: rules of this width.
        role: key of `mup.rules`; decides the initial std here and the rates in the optimizer.
        axes: one logical name per dimension; `sharding.rules` maps them to the mesh.
        shape: of the logical, unpadded array; float32.

    Source: truncated normal, report, section 3.5. The bounds are not stated; two standard deviations, rescaled so that the
    weights have exactly the std that µP asks for, are our choice.
    """
    if role in (GAIN, BIAS):
        return nnx.Param(jnp.ones(shape) if role == GAIN else jnp.zeros(shape), role=role, axes=axes)
    std = mup.rules[role].std / STD_OF_TRUNCATED
    return nnx.Param(std * jax.random.truncated_normal(rngs.params(), -2.0, 2.0, shape), role=role, axes=axes)


def output_bias(config: ModelConfig, mup: Mup, *, rngs: nnx.Rngs) -> nnx.Param | None:
    """A bias on what a half of a block adds to the residual stream, [D]; None for a model without."""
    return weight(rngs, mup, BIAS, ("embed",), (config.d_model,)) if config.output_biases else None


def biased(y_BTD: jax.Array, bias: nnx.Param | None) -> jax.Array:
    """Add an `output_bias`."""
    return y_BTD if bias is None else y_BTD + bias[...].astype(y_BTD.dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) · gain, in float32 whatever the compute dtype."""

    def __init__(self, config: ModelConfig, mup: Mup, *, rngs: nnx.Rngs):
        self.epsilon = config.norm_epsilon
        self.gain = weight(rngs, mup, GAIN, ("embed",), (config.d_model,))

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Normalise the last dimension; returns x's dtype."""
        x = x_BTD.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return (x * scale * self.gain[...]).astype(x_BTD.dtype)


def rotation(positions_BT: jax.Array, config: ModelConfig) -> Rotation:
    """Cosines and sines of every position's angles, float32, the same for all layers and heads."""
    half = config.head_size // 2
    frequency = config.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle_BT1F = positions_BT[:, :, None, None].astype(jnp.float32) * frequency
    return jnp.cos(angle_BT1F), jnp.sin(angle_BT1F)


def rotate(x_BTNH: jax.Array, turn: Rotation) -> jax.Array:
    """Turn queries or keys by their position: RoPE, half-split layout, in float32."""
    cos, sin = turn
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BTNH.dtype)


class FeedForward(nnx.Module):
    """SwiGLU: down(silu(gate(x)) · up(x)); a bias on it is the block's."""

    def __init__(self, config: ModelConfig, mup: Mup, *, rngs: nnx.Rngs):
        d, f = config.d_model, config.d_ff
        self.gate = weight(rngs, mup, MATRIX, ("embed", "mlp"), (d, f))
        self.up = weight(rngs, mup, MATRIX, ("embed", "mlp"), (d, f))
        self.down = weight(rngs, mup, MATRIX, ("mlp", "embed"), (f, d))

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        gate = checkpoint_name(x_BTD @ self.gate[...].astype(x_BTD.dtype), "gate_up")
        up = checkpoint_name(x_BTD @ self.up[...].astype(x_BTD.dtype), "gate_up")
        return (jax.nn.silu(gate) * up) @ self.down[...].astype(x_BTD.dtype)
