"""Logits to the next token: biases, penalties, temperature, top-k, top-p, min-p, in this order; each row has its own settings.

Source of the order: vLLM. A setting that a row does not use leaves its logits bit for bit as they are.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from teleflm_jax.errors import UserError

GREEDY_BELOW = 1e-6
"""Temperatures below it choose the likeliest token: float32 could not divide by them."""
LARGEST = 2**31 - 1
MAX_BIASES = 1024
"""Most biases of a text; OpenAI allows 300."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the tokens of a text are chosen."""

    temperature: float = 0.8
    """Divides the logits; 0: always the likeliest token."""
    top_k: int = 0
    """Likeliest tokens to choose from; 0: all."""
    top_p: float = 0.95
    """Choose from the fewest likeliest tokens that have at least this probability together; 0: the likeliest alone."""
    min_p: float = 0.0
    """Choose from tokens at least this share as likely as the likeliest."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that the text already has become less likely; below 1, likelier."""
    presence_penalty: float = 0.0
    """Taken from the logits of tokens that the continuation already has."""
    frequency_penalty: float = 0.0
    """Taken from the logits of tokens as many times as the continuation already has them."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(Id, what is added to its logit), each id once."""

    def __post_init__(self):
        for name, right, allowed in (
            ("temperature", 0 <= self.temperature < math.inf, "a number from 0 (greedy) up"),
            ("top_k", 0 <= self.top_k <= LARGEST, f"0 (all) to {LARGEST:,}"),
            ("top_p", 0 <= self.top_p <= 1, "0 (the likeliest alone) to 1 (all)"),
            ("min_p", 0 <= self.min_p <= 1, "0 (all) to 1 (the likeliest alone)"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "a number above 0 (1: no penalty)"),
            ("presence_penalty", -2 <= self.presence_penalty <= 2, "-2 to 2 (0: no penalty)"),
            ("frequency_penalty", -2 <= self.frequency_penalty <= 2, "-2 to 2 (0: no penalty)"),
        ):
            if not right:
                raise UserError(f"got {name} {getattr(self, name)}; allowed: {allowed}; change {name}")
        if len(self.logit_bias) > MAX_BIASES or not all(abs(value) <= 100 for _, value in self.logit_bias):
            raise UserError(
                f"got logit_bias with {len(self.logit_bias):,} entries; allowed: at most {MAX_BIASES:,}, each from -100 to 100; change them"
            )


GREEDY = Sampling(temperature=0.0)
"""Always the likeliest token."""


def settings(rows: Sequence[Sampling]) -> dict[str, np.ndarray]:
    """Field -> float32 or int32 [B], for `choose`; of biases `bias_ids` and `biases` [B, MAX_BIASES], filled up with no model's ids."""
    kinds = {field.name: np.int32 if field.name == "top_k" else np.float32 for field in dataclasses.fields(Sampling)}
    del kinds["logit_bias"]
    found = {name: np.array([getattr(row, name) for row in rows], kind) for name, kind in kinds.items()}
    ids = np.full((len(rows), MAX_BIASES), LARGEST, np.int32)
    biases = np.zeros((len(rows), MAX_BIASES), np.float32)
    for number, row in enumerate(rows):
        for place, (index, value) in enumerate(row.logit_bias):
            ids[number, place], biases[number, place] = index, value
    return found | {"bias_ids": ids, "biases": biases}


def bias(logits_BV: jax.Array, ids_BK: jax.Array, biases_BK: jax.Array) -> jax.Array:
    """Add biases to the logits of some ids; those that the model does not have are none."""
    return logits_BV.at[jnp.arange(ids_BK.shape[0])[:, None], ids_BK].add(biases_BK, mode="drop")


def penalise(logits_BV: jax.Array, seen_BV: jax.Array, penalty_B: jax.Array) -> jax.Array:
    """Make tokens that were seen less likely: positive logits ÷ penalty, negative ones × penalty.

    Source: CTRL (Keskar et al., 2019), section 4.1, in the form that negative logits need.
    """
    penalty_B1 = penalty_B[:, None]
    return jnp.where(seen_BV, jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1), logits_BV)


def discourage(logits_BV: jax.Array, counts_BV: jax.Array, presence_B: jax.Array, frequency_B: jax.Array) -> jax.Array:
    """Take a penalty from tokens that were written, and another as many times as they were.

    Source: OpenAI's API reference, which counts the tokens of the continuation, as vLLM does.
    """
    return logits_BV - frequency_B[:, None] * counts_BV - presence_B[:, None] * (counts_BV > 0)


def truncate(logits_BV: jax.Array, top_k_B: jax.Array, top_p_B: jax.Array) -> jax.Array:
    """Set to -inf what is not among the `top_k` likeliest (0: all), then what is not needed for a probability of `top_p` among those.

    The likeliest token always stays. Of equally likely tokens the one with the smaller id counts as likelier.
    Source: nucleus sampling, Holtzman et al., 2020.
    """
    order_BV = jnp.argsort(logits_BV, axis=-1, descending=True, stable=True)
    sorted_BV = jnp.take_along_axis(logits_BV, order_BV, axis=-1)
    rank_V, top_k_B1 = jnp.arange(logits_BV.shape[-1]), top_k_B[:, None]
    sorted_BV = jnp.where((rank_V < top_k_B1) | (top_k_B1 == 0), sorted_BV, -jnp.inf)
    share_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(share_BV, axis=-1) - share_BV
    # float32 may sum to 1 before the last token, which a top_p of 1 must not cut; and it may round a tiny top_p to 0, which would cut all
    stays = (before_BV < top_p_B[:, None]) | (top_p_B[:, None] >= 1) | (rank_V == 0)
    sorted_BV = jnp.where(stays, sorted_BV, -jnp.inf)
    return jnp.put_along_axis(logits_BV, order_BV, sorted_BV, axis=-1, inplace=False)


def choose(keys_B: jax.Array, logits_BV: jax.Array, seen_BV: jax.Array, counts_BV: jax.Array, rows: dict[str, jax.Array]) -> jax.Array:
    """Choose one token per row, int32 [B]. What no row asks for is not computed.

    Args:
        keys_B: a random key per row, so that a row's text does not depend on its neighbours.
        logits_BV: float32.
        seen_BV: tokens that the row's text, prompt included, has had.
        counts_BV: int32, how many times its continuation has had them.
        rows: of `settings`.
    """
    penalty_B, presence_B, frequency_B = (rows[f"{name}_penalty"] for name in ("repetition", "presence", "frequency"))
    biased, discouraged = (rows["biases"] != 0).any(), ((presence_B != 0) | (frequency_B != 0)).any()
    logits_BV = jax.lax.cond(biased, lambda: bias(logits_BV, rows["bias_ids"], rows["biases"]), lambda: logits_BV)
    logits_BV = jax.lax.cond((penalty_B != 1).any(), lambda: penalise(logits_BV, seen_BV, penalty_B), lambda: logits_BV)
    logits_BV = jax.lax.cond(discouraged, lambda: discourage(logits_BV, counts_BV, presence_B, frequency_B), lambda: logits_BV)
    greedy_B, likeliest_B = rows["temperature"] < GREEDY_BELOW, jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)

    def draw():
        # less the maximum, so that a low temperature cannot overflow
        tempered_BV = (logits_BV - logits_BV.max(axis=-1, keepdims=True)) / jnp.where(greedy_B, 1, rows["temperature"])[:, None]
        cuts = ~greedy_B & ((rows["top_k"] > 0) | (rows["top_p"] < 1))
        kept_BV = jax.lax.cond(cuts.any(), lambda: truncate(tempered_BV, rows["top_k"], rows["top_p"]), lambda: tempered_BV)
        kept_BV = jnp.where(tempered_BV >= jnp.log(rows["min_p"])[:, None], kept_BV, -jnp.inf)
        return jax.vmap(jax.random.categorical)(keys_B, kept_BV).astype(jnp.int32)

    return jnp.where(greedy_B, likeliest_B, jax.lax.cond(greedy_B.all(), lambda: likeliest_B, draw))
