"""Prompts to continuations, token ids on both sides: one prefill, then chunks of steps that run on the device without the host.

Lengths are rounded up to powers of two, so that a handful of compiled programs serve every prompt. A row's tokens depend on the seed, its
number in the batch and its own text, and neither on its neighbours nor on the chunk.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from teleflm_jax.errors import UserError
from teleflm_jax.generate import sampling as sampler
from teleflm_jax.generate.sampling import Sampling
from teleflm_jax.model import cache as kv
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.tokenizer import layout

CHUNK = 16
"""Tokens between two visits of the host: enough that its visit costs nothing, few enough that text seems to flow."""
SHORTEST = 16
"""Smallest length that is compiled for."""
NOTHING = -1
"""In a chunk: this row had ended."""
LARGEST_SEED = 2**32 - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """Rows being continued."""

    cache: kv.Cache
    tokens_B: jax.Array
    """Newest token of each row; not in the cache yet."""
    positions_B: jax.Array
    """Where it stands."""
    limits_B: jax.Array
    """Tokens that the row may have in all, prompt included."""
    done_B: jax.Array
    seen_BV: jax.Array
    keys_B: jax.Array


def stream(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    sampling: Sampling,
    seed: int = 0,
    stop: int = layout.EOS,
    chunk: int = CHUNK,
) -> Iterator[list[list[int]]]:
    """Continue prompts together; yields the new tokens of each row, chunk by chunk, until all rows have ended.

    A row ends after `stop` (which is yielded), after `max_tokens`, or where its context is full.

    Args:
        model: with `config.context_length`.
        prompts: token ids with `<s>` in front, none empty.
        max_tokens: new tokens per prompt.
        sampling: how they are chosen.
        seed: the same seed gives the same tokens.
        stop: id that ends a text.
        chunk: tokens per yield, after the first one, which comes alone.

    Raises:
        UserError: at once, for a prompt that leaves no room, and for numbers out of range.
    """
    check(model.config.context_length, prompts, max_tokens, seed)
    return _stream(model, prompts, max_tokens, sampling, seed, stop, chunk)


def complete(model: Transformer, prompts: Sequence[Sequence[int]], **settings) -> list[list[int]]:
    """All new tokens of each prompt; settings as in `stream`."""
    rows = [[] for _ in prompts]
    for new in stream(model, prompts, **settings):
        for row, tokens in zip(rows, new, strict=True):
            row += tokens
    return rows


def bucket(length: int, largest: int) -> int:
    """The next power of two, at least SHORTEST and at most `largest`."""
    return min(largest, max(SHORTEST, 1 << (length - 1).bit_length()))


def check(context_length: int, prompts: Sequence[Sequence[int]], max_tokens: int, seed: int) -> None:
    """Raise a `UserError` for what `stream` would refuse; needs no model."""
    if not prompts:
        raise UserError("got no prompt; allowed: one or more; add --prompt TEXT")
    longest = max(map(len, prompts))
    if longest >= context_length:
        raise UserError(
            f"got a prompt of {longest:,} tokens (<s> included) for a context of {context_length:,}; "
            f"allowed: at most {context_length - 1:,}, so that one new token has room; shorten the prompt"
        )
    if max_tokens < 1:
        raise UserError(f"got max_tokens {max_tokens}; allowed: 1 or more; change --max_tokens")
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"got seed {seed}; allowed: 0 to {LARGEST_SEED}; change --seed")


def _stream(model, prompts, max_tokens, sampling, seed, stop, chunk):
    context = model.config.context_length
    lengths_B = np.array([len(prompt) for prompt in prompts], np.int32)
    limits_B = np.minimum(lengths_B + min(max_tokens, context), context).astype(np.int32)
    tokens_BT = np.full((len(prompts), bucket(int(lengths_B.max()), context)), layout.PAD, np.int32)
    for row, prompt in zip(tokens_BT, prompts, strict=True):
        row[: len(prompt)] = prompt
    slots = bucket(int(limits_B.max()), context)
    state = _begin(model, tokens_BT, lengths_B, limits_B, np.uint32(seed), np.int32(stop), sampling=sampling, slots=slots)
    new_BC, done_B = jax.device_get((state.tokens_B[:, None], state.done_B))
    yield new_BC.tolist()
    while not done_B.all():
        state, new_BC = _continue(model, state, np.int32(stop), sampling=sampling, chunk=chunk)
        new_BC, done_B = jax.device_get((new_BC, state.done_B))
        yield [[token for token in row if token != NOTHING] for row in new_BC.tolist()]


@functools.partial(jax.jit, static_argnames=("sampling", "slots"))
def _begin(model, tokens_BT, lengths_B, limits_B, seed, stop, *, sampling, slots) -> State:
    """Read the prompts and choose the first new token of each."""
    b, t = tokens_BT.shape
    z_BTD, cache = kv.prefill(model, tokens_BT, kv.init(model.config, b, slots))
    z_B1D = jnp.take_along_axis(z_BTD, lengths_B[:, None, None] - 1, axis=1)
    real_BT = jnp.arange(t) < lengths_B[:, None]
    rows_B = jnp.arange(b)
    state = State(
        cache=cache,
        tokens_B=jnp.zeros_like(lengths_B),
        positions_B=lengths_B - 1,
        limits_B=limits_B,
        done_B=jnp.zeros(b, bool),
        seen_BV=jnp.zeros((b, model.config.vocab_size), bool).at[rows_B[:, None], tokens_BT].max(real_BT),
        keys_B=jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), rows_B),
    )
    return _advance(state, cache, model.logits(z_B1D)[:, 0], sampling, stop)


@functools.partial(jax.jit, static_argnames=("sampling", "chunk"), donate_argnames="state")
def _continue(model, state, stop, *, sampling, chunk):
    """Up to `chunk` more tokens per row, fewer if all rows end before.

    Returns:
        The new state, and the tokens, int32 [B, chunk], with NOTHING where a row had ended.
    """

    def unfinished(carry):
        number, state, _ = carry
        return (number < chunk) & ~state.done_B.all()

    def step(carry):
        number, state, new_BC = carry
        z_B1D, cache = kv.extend(model, state.tokens_B[:, None], state.positions_B[:, None], state.cache)
        after = _advance(state, cache, model.logits(z_B1D)[:, 0], sampling, stop)
        return number + 1, after, new_BC.at[:, number].set(jnp.where(state.done_B, NOTHING, after.tokens_B))

    new_BC = jnp.full((state.tokens_B.shape[0], chunk), NOTHING)
    _, state, new_BC = jax.lax.while_loop(unfinished, step, (0, state, new_BC))
    return state, new_BC


def _advance(state: State, cache: kv.Cache, logits_BV: jax.Array, sampling: Sampling, stop: jax.Array) -> State:
    """Choose the next token of the rows that go on; the others stay as they are."""
    positions_B = jnp.where(state.done_B, state.positions_B, state.positions_B + 1)
    keys_B = jax.vmap(jax.random.fold_in)(state.keys_B, positions_B)
    tokens_B = jnp.where(state.done_B, state.tokens_B, sampler.choose(keys_B, logits_BV, state.seen_BV, sampling))
    return State(
        cache=cache,
        tokens_B=tokens_B,
        positions_B=positions_B,
        limits_B=state.limits_B,
        done_B=state.done_B | (tokens_B == stop) | (positions_B + 1 >= state.limits_B),
        seen_BV=state.seen_BV.at[jnp.arange(tokens_B.shape[0]), tokens_B].set(True),
        keys_B=state.keys_B,
    )
