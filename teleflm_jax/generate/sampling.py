"""Logits to the next token: repetition penalty, temperature, top-k, top-p, in this order."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from teleflm_jax.errors import UserError

GREEDY_BELOW = 1e-6
"""Temperatures below it choose the likeliest token: float32 could not divide by them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen."""

    temperature: float = 0.8
    """Divides the logits; 0: always the likeliest token."""
    top_k: int = 0
    """Likeliest tokens to choose from; 0: all."""
    top_p: float = 0.95
    """Choose from the fewest likeliest tokens that have at least this probability together."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that the text already has become less likely; below 1, likelier."""

    def __post_init__(self):
        for name, right, allowed in (
            ("temperature", 0 <= self.temperature < math.inf, "a number from 0 (greedy) up"),
            ("top_k", self.top_k >= 0, "0 (all) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "a number above 0 (1: no penalty)"),
        ):
            if not right:
                raise UserError(f"got {name} {getattr(self, name)}; allowed: {allowed}; change --{name}")


def penalise(logits_BV: jax.Array, seen_BV: jax.Array, penalty: float) -> jax.Array:
    """Make tokens that were seen less likely: positive logits ÷ penalty, negative ones × penalty.

    Source: CTRL (Keskar et al., 2019), section 4.1, in the form that negative logits need.
    """
    return jnp.where(seen_BV, jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty), logits_BV)


def truncate(logits_BV: jax.Array, top_k: int, top_p: float) -> jax.Array:
    """Set to -inf what is not among the `top_k` likeliest (0: all), then what is not needed for a probability of `top_p` among those.

    The likeliest token always stays. Of equally likely tokens the one with the smaller id counts as likelier.
    Source: nucleus sampling, Holtzman et al., 2020.
    """
    order_BV = jnp.argsort(logits_BV, axis=-1, descending=True, stable=True)
    sorted_BV = jnp.take_along_axis(logits_BV, order_BV, axis=-1)
    if top_k:
        sorted_BV = jnp.where(jnp.arange(sorted_BV.shape[-1]) < top_k, sorted_BV, -jnp.inf)
    share_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(share_BV, axis=-1) - share_BV
    stays = (before_BV < top_p) | (jnp.arange(sorted_BV.shape[-1]) == 0)  # a top_p that float32 rounds to 0 would leave nothing
    sorted_BV = jnp.where(stays, sorted_BV, -jnp.inf)
    return jnp.put_along_axis(logits_BV, order_BV, sorted_BV, axis=-1, inplace=False)


def choose(keys_B: jax.Array, logits_BV: jax.Array, seen_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """Choose one token per row, int32 [B].

    Args:
        keys_B: a random key per row, so that a row's text does not depend on its neighbours.
        logits_BV: float32.
        seen_BV: tokens that the row's text, prompt included, has had.
        sampling: fixed when compiled.
    """
    if sampling.repetition_penalty != 1:
        logits_BV = penalise(logits_BV, seen_BV, sampling.repetition_penalty)
    if sampling.temperature < GREEDY_BELOW:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    # less the maximum, so that a low temperature cannot overflow
    logits_BV = (logits_BV - logits_BV.max(axis=-1, keepdims=True)) / sampling.temperature
    if sampling.top_k or sampling.top_p < 1:
        logits_BV = truncate(logits_BV, sampling.top_k, sampling.top_p)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)
