"""Sampling from logits: biases, penalties, temperature, top-k, top-p and min-p, in this order; each row has its own settings.

Source of the order: vLLM. A setting that a row does not use leaves its logits unchanged, bit for bit.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from teleflm_jax.errors import UserError

GREEDY_BELOW = 1e-6
"""Temperatures below this choose the likeliest token, since float32 logits cannot be divided by them."""
LARGEST = 2**31 - 1
MAX_BIASES = 1024
"""Most entries of `logit_bias`; OpenAI allows 300."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings by which tokens are chosen."""

    temperature: float = 0.8
    """Divisor of the logits; 0: always the likeliest token."""
    top_k: int = 0
    """Number of likeliest tokens to choose from; 0: all."""
    top_p: float = 0.95
    """Total probability of the smallest set of likeliest tokens to choose from; 0: the likeliest alone."""
    min_p: float = 0.0
    """Least probability of a token as a share of the likeliest token's."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that prompt or continuation contain become less likely; below 1, likelier."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens that the continuation contains."""
    frequency_penalty: float = 0.0
    """Subtracted from the logits of tokens once for each occurrence in the continuation."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(Id, bias added to its logit), each id once."""

    def __post_init__(self):
        for name, valid, allowed in (
            ("temperature", 0 <= self.temperature < math.inf, "a number from 0 (greedy) up"),
            ("top_k", 0 <= self.top_k <= LARGEST, f"0 (all) to {LARGEST:,}"),
            ("top_p", 0 <= self.top_p <= 1, "0 (the likeliest alone) to 1 (all)"),
            ("min_p", 0 <= self.min_p <= 1, "0 (all) to 1 (the likeliest alone)"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "a number above 0 (1: no penalty)"),
            ("presence_penalty", -2 <= self.presence_penalty <= 2, "-2 to 2 (0: no penalty)"),
            ("frequency_penalty", -2 <= self.frequency_penalty <= 2, "-2 to 2 (0: no penalty)"),
        ):
            if not valid:
                raise UserError(f"got {name} {getattr(self, name)}; allowed: {allowed}; change {name}")
        if len(self.logit_bias) > MAX_BIASES or not all(abs(value) <= 100 for _, value in self.logit_bias):
            raise UserError(
                f"got logit_bias with {len(self.logit_bias):,} entries; allowed: at most {MAX_BIASES:,}, each from -100 to 100; change them"
            )


GREEDY = Sampling(temperature=0.0)
"""Settings that always choose the likeliest token."""


def arrays(rows: Sequence[Sampling]) -> dict[str, np.ndarray]:
    """Return the settings of rows as float32 or int32 [B] by field; biases as `bias_ids` and `biases` [B, MAX_BIASES]."""
    kinds = {field.name: np.int32 if field.name == "top_k" else np.float32 for field in dataclasses.fields(Sampling)}
    del kinds["logit_bias"]
    fields = {name: np.array([getattr(row, name) for row in rows], kind) for name, kind in kinds.items()}
    ids = np.full((len(rows), MAX_BIASES), LARGEST, np.int32)
    biases = np.zeros((len(rows), MAX_BIASES), np.float32)
    for i, row in enumerate(rows):
        for k, (index, value) in enumerate(row.logit_bias):
            ids[i, k], biases[i, k] = index, value
    return fields | {"bias_ids": ids, "biases": biases}


def apply_logit_bias(logits_BV: jax.Array, ids_BK: jax.Array, biases_BK: jax.Array) -> jax.Array:
    """Add biases to the logits of some ids; ids beyond the vocabulary are ignored."""
    return logits_BV.at[jnp.arange(ids_BK.shape[0])[:, None], ids_BK].add(biases_BK, mode="drop")


def apply_repetition_penalty(logits_BV: jax.Array, seen_BV: jax.Array, penalty_B: jax.Array) -> jax.Array:
    """Penalise tokens that were seen: divide positive logits by the penalty, multiply negative ones by it.

    Source: CTRL (Keskar et al., 2019), section 4.1, in the form that negative logits require.
    """
    penalty_B1 = penalty_B[:, None]
    return jnp.where(seen_BV, jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1), logits_BV)


def apply_count_penalties(logits_BV: jax.Array, counts_BV: jax.Array, presence_B: jax.Array, frequency_B: jax.Array) -> jax.Array:
    """Subtract the presence penalty from tokens of the continuation, and the frequency penalty once for each occurrence.

    Source: OpenAI's API reference; as in vLLM, only tokens of the continuation count.
    """
    return logits_BV - frequency_B[:, None] * counts_BV - presence_B[:, None] * (counts_BV > 0)


def apply_top_k_top_p(logits_BV: jax.Array, top_k_B: jax.Array, top_p_B: jax.Array) -> jax.Array:
    """Set logits to -inf outside the `top_k` likeliest (0: all), then outside those that make up a probability of `top_p` among them.

    The likeliest token always stays. Among equally likely tokens, the one with the smaller id counts as likelier.
    Source: nucleus sampling, Holtzman et al., 2020.
    """
    order_BV = jnp.argsort(logits_BV, axis=-1, descending=True, stable=True)
    sorted_BV = jnp.take_along_axis(logits_BV, order_BV, axis=-1)
    rank_V, top_k_B1 = jnp.arange(logits_BV.shape[-1]), top_k_B[:, None]
    sorted_BV = jnp.where((rank_V < top_k_B1) | (top_k_B1 == 0), sorted_BV, -jnp.inf)
    share_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(share_BV, axis=-1) - share_BV
    # a float32 sum may reach 1 before the last token, which a top_p of 1 must keep; a tiny top_p may be rounded to 0, which would drop all
    stays = (before_BV < top_p_B[:, None]) | (top_p_B[:, None] >= 1) | (rank_V == 0)
    sorted_BV = jnp.where(stays, sorted_BV, -jnp.inf)
    return jnp.put_along_axis(logits_BV, order_BV, sorted_BV, axis=-1, inplace=False)


def sample(keys_B: jax.Array, logits_BV: jax.Array, seen_BV: jax.Array, counts_BV: jax.Array, rows: dict[str, jax.Array]) -> jax.Array:
    """Sample one token per row, int32 [B]. Settings that no row uses are not computed.

    Args:
        keys_B: a random key per row, so that a row's text does not depend on its neighbours.
        logits_BV: float32.
        seen_BV: whether prompt or continuation contain a token.
        counts_BV: int32, occurrences in the continuation.
        rows: from `arrays`.
    """
    penalty_B, presence_B, frequency_B = (rows[f"{name}_penalty"] for name in ("repetition", "presence", "frequency"))
    biased, discouraged = (rows["biases"] != 0).any(), ((presence_B != 0) | (frequency_B != 0)).any()
    logits_BV = jax.lax.cond(biased, lambda: apply_logit_bias(logits_BV, rows["bias_ids"], rows["biases"]), lambda: logits_BV)
    logits_BV = jax.lax.cond((penalty_B != 1).any(), lambda: apply_repetition_penalty(logits_BV, seen_BV, penalty_B), lambda: logits_BV)
    logits_BV = jax.lax.cond(discouraged, lambda: apply_count_penalties(logits_BV, counts_BV, presence_B, frequency_B), lambda: logits_BV)
    greedy_B, likeliest_B = rows["temperature"] < GREEDY_BELOW, jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)

    def draw():
        # the maximum is subtracted so that a low temperature cannot overflow
        tempered_BV = (logits_BV - logits_BV.max(axis=-1, keepdims=True)) / jnp.where(greedy_B, 1, rows["temperature"])[:, None]
        cuts = ~greedy_B & ((rows["top_k"] > 0) | (rows["top_p"] < 1))
        kept_BV = jax.lax.cond(cuts.any(), lambda: apply_top_k_top_p(tempered_BV, rows["top_k"], rows["top_p"]), lambda: tempered_BV)
        kept_BV = jnp.where(tempered_BV >= jnp.log(rows["min_p"])[:, None], kept_BV, -jnp.inf)
        return jax.vmap(jax.random.categorical)(keys_B, kept_BV).astype(jnp.int32)

    return jnp.where(greedy_B, likeliest_B, jax.lax.cond(greedy_B.all(), lambda: likeliest_B, draw))
