"""A model small enough to compile in a second, shared by tests."""

import dataclasses
import functools

import jax
from flax import nnx

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import mup
from teleflm_jax.generate import decoder as decoding
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.model.transformer import Transformer

CONFIG = ModelConfig(
    num_layers=2,
    d_model=32,
    num_heads=4,
    num_kv_heads=4,
    d_ff=48,
    vocab_size=64,
    context_length=16,
    compute_dtype="float32",
    loss_chunk_tokens=8,
)
WIDE = mup.MupConfig(base_width=32, std=0.3, matrix_std=0.2, learning_rate=1e-2, matrix_learning_rate=1e-2)
"""Weights large enough that every part of the model matters to its logits."""

ALONE = MeshConfig(data=1)
"""One device."""


def config(**changes) -> ModelConfig:
    """CONFIG with other fields."""
    return dataclasses.replace(CONFIG, **changes)


@functools.cache
def _model(changed: ModelConfig, seed: int) -> Transformer:
    def build():
        model = Transformer(changed, mup.at_width(WIDE, changed.d_model), rngs=nnx.Rngs(params=seed))
        for number, bias in enumerate((model.blocks.attention_bias, model.blocks.feed_forward_bias) if changed.output_biases else ()):
            bias[...] = jax.random.normal(jax.random.key(number), bias.shape)  # they start at zero, where they matter to nothing
        return model

    return jax.jit(build)()


def model(changed: ModelConfig = CONFIG, seed: int = 0) -> Transformer:
    """A model with random weights."""
    return nnx.clone(_model(changed, seed))


@jax.jit
def logits(model: Transformer, tokens: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    """The model's logits, compiled once for each shape; called as it is, the model would be compiled again by every call."""
    return model(tokens, segments)


def decoder(changed: ModelConfig, mesh: MeshConfig = ALONE) -> decoding.Decoder:
    """A model with random weights, laid out for decoding over a mesh of the first devices."""
    layout = rules.layout(mesh, changed.d_model, jax.devices()[: mesh.data * mesh.pipe * mesh.tensor])
    return decoding.decoder(jax.device_put(model(changed), layout.replicated()), layout)


def tokens(batch: int, length: int, vocab_size: int = CONFIG.vocab_size, seed: int = 0) -> jax.Array:
    """Random token ids."""
    return jax.random.randint(jax.random.key(seed), (batch, length), 0, vocab_size)
