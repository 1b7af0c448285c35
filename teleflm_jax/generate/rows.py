"""Device side of a batch: caches, and for each row its newest token, its limits and its sampling settings.

Lengths and numbers of rows are powers of two, so that a few compiled programs suffice. A row's random numbers depend on its seed, the index
of its choice and its prompt (`Request.key`), and neither on its neighbours nor on the chunk.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sharding import decoding
from sharding.rules import Layout
from teleflm_jax.generate import decoder as passes
from teleflm_jax.generate import sampling
from teleflm_jax.generate.decoder import Decoder
from teleflm_jax.generate.request import MAX_STOP_IDS, Request
from teleflm_jax.model import cache as kv

MIN_PROMPT = 16
"""Smallest prompt length that programs are compiled for."""
ABSENT = -1
"""In a chunk: the row had ended. Among stop ids: none. Among source rows: a free row."""
NO_REQUEST = Request(prompt=(), max_tokens=1)
"""Request of a free row."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """A batch of sequences."""

    cache: kv.Cache
    """Keys and values of all tokens but the newest of each row."""
    state: dict[str, jax.Array]
    """By name, [B, …]: `token` (the newest), `position` (its position), `limit` (most tokens in all), `prompt` (tokens of the prompt),
    `done`, `seen` ([B, V], ids in prompt or continuation), `counts` ([B, V], occurrences in the continuation), `key`, `stop_ids`, and
    those of `sampling.arrays`."""


def bucket(length: int, largest: int, smallest: int = MIN_PROMPT) -> int:
    """Round up to a power of two, at least `smallest` and at most `largest`."""
    return min(largest, max(smallest, 1 << (length - 1).bit_length()))


def initial_state(requests: Sequence[Request], limits: Sequence[int], count: int) -> dict[str, np.ndarray]:
    """Return the state that new rows start with, padded to `count` rows with the first one."""
    padded = [*requests, *list(requests[:1]) * (count - len(requests))]
    stop_ids = np.full((count, MAX_STOP_IDS), ABSENT, np.int32)
    for row, request in zip(stop_ids, padded, strict=True):
        row[: len(request.stop_ids)] = request.stop_ids
    limit = np.array([*limits, *list(limits[:1]) * (count - len(limits))], np.int32)
    key = np.array([request.key for request in padded], np.uint32)
    prompt = np.array([len(request.prompt) for request in padded], np.int32)
    return {
        "stop_ids": stop_ids,
        "limit": limit,
        "prompt": prompt,
        "key": key,
        **sampling.arrays([request.sampling for request in padded]),
    }


def cache_shape(decoder: Decoder, count: int, length: int) -> jax.ShapeDtypeStruct:
    """Return the shape, type and sharding of one array of a cache with this number of rows and this length."""
    config = decoder.model.config
    sharding = decoding.cache_placement(decoder.layout, count, config.num_kv_heads)
    return jax.ShapeDtypeStruct((count, config.num_kv_heads, length, config.head_size), config.compute_dtype, sharding=sharding)


def state_shapes(vocab_size: int, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and types of the state of this many rows, by name."""
    shapes = {name: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype) for name, x in initial_state([NO_REQUEST], [0], 1).items()}
    per_row = {"token": np.int32, "position": np.int32, "done": bool}
    per_id = {"seen": bool, "counts": np.int32}
    shapes |= {name: jax.ShapeDtypeStruct((count,), dtype) for name, dtype in per_row.items()}
    return shapes | {name: jax.ShapeDtypeStruct((count, vocab_size), dtype) for name, dtype in per_id.items()}


@functools.partial(jax.jit, static_argnames=("count", "length"))
def empty(decoder: Decoder, *, count: int, length: int) -> Rows:
    """Return free rows of this length."""
    shapes = state_shapes(decoder.vocab_size, count)
    state = {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()} | {"done": jnp.ones(count, bool)}
    cache = decoding.placed_cache(decoder.layout, kv.init(decoder.model.config, count, length))
    return Rows(cache=cache, state=decoding.everywhere(decoder.layout, state))


@functools.partial(jax.jit, static_argnames=("length", "layout"))
def resize_cache(old_BKSH: jax.Array, source_R: jax.Array, *, length: int, layout: Layout) -> jax.Array:
    """Return one array of a cache with rows `source_R` of the old one and another length; rows from ABSENT have any values."""
    kept = old_BKSH[jnp.maximum(source_R, 0), :, :length]
    return decoding.placed_cache(layout, jnp.pad(kept, ((0, 0), (0, 0), (0, length - kept.shape[2]), (0, 0))))


@functools.partial(jax.jit, static_argnames="layout")
def resize_state(state: dict, source_R: jax.Array, *, layout: Layout) -> dict:
    """Return the state of rows `source_R` of the old one; rows from ABSENT are free."""
    kept = {name: x[jnp.maximum(source_R, 0)] for name, x in state.items()}
    return decoding.everywhere(layout, kept | {"done": kept["done"] | (source_R == ABSENT)})


@jax.jit
def prefill(decoder: Decoder, prompts_UT: jax.Array) -> kv.Cache:
    """Read distinct prompts, padded on the right, into a cache."""
    return passes.prefill(decoder, prompts_UT)[1]


@functools.partial(jax.jit, static_argnames="alternatives")
def prefill_with_logprobs(decoder: Decoder, prompts_UT: jax.Array, *, alternatives: int) -> tuple[kv.Cache, dict]:
    """Read prompts as `prefill` does, and return what `decode` returns of the token after each position.

    Returns:
        The cache; `logprob` [U, T], `ids` and `logprobs` [U, T, alternatives].
    """
    z_UTD, cache = passes.prefill(decoder, prompts_UT)
    shape = prompts_UT.shape
    targets_N = jnp.roll(prompts_UT, -1, axis=1).reshape(-1)
    outputs = passes.target_logprobs(decoder, z_UTD.reshape(prompts_UT.size, -1), targets_N, alternatives)
    return cache, decoding.everywhere(decoder.layout, {name: x.reshape(*shape, *x.shape[1:]) for name, x in outputs.items()})


@functools.partial(jax.jit, static_argnames="layout", donate_argnames="old_BKSH")
def insert_cache(old_BKSH: jax.Array, read_UKTH: jax.Array, source_R: jax.Array, rows_R: jax.Array, *, layout: Layout) -> jax.Array:
    """Return one array of a cache with prompts `source_R` of what was read in rows `rows_R`; a row past the last is dropped."""
    return decoding.placed_cache(layout, old_BKSH.at[rows_R, :, : read_UKTH.shape[2]].set(read_UKTH[source_R], mode="drop"))


@functools.partial(jax.jit, static_argnames="layout", donate_argnames="state")
def insert_state(
    state: dict, prompts_UT: jax.Array, lengths_U: jax.Array, source_R: jax.Array, rows_R: jax.Array, new: dict, *, layout: Layout
) -> dict:
    """Insert new sequences into the state of the batch; the newest token of each is the last of its prompt.

    Args:
        state: of the batch.
        prompts_UT: distinct prompts, padded on the right.
        lengths_U: tokens of each prompt.
        source_R: index of each new sequence's prompt.
        rows_R: row of each new sequence; one past the last row is dropped.
        new: from `initial_state`.
        layout: the mesh.
    """
    (u, t), vocab_size = prompts_UT.shape, state["seen"].shape[1]
    seen_UV = jnp.zeros((u, vocab_size), bool).at[jnp.arange(u)[:, None], prompts_UT].max(jnp.arange(t) < lengths_U[:, None])
    position_R = lengths_U[source_R] - 1
    new = new | {"seen": seen_UV[source_R], "token": prompts_UT[source_R, position_R]}
    new |= {"position": position_R, "done": jnp.zeros(source_R.shape, bool)}
    written_RT = (jnp.arange(t) >= new["prompt"][:, None]) & (jnp.arange(t) <= position_R[:, None])
    none_RV = jnp.zeros((len(source_R), vocab_size), jnp.int32)
    new |= {"counts": none_RV.at[jnp.arange(len(source_R))[:, None], prompts_UT[source_R]].add(written_RT)}
    return decoding.everywhere(layout, {name: x.at[rows_R].set(new[name], mode="drop") for name, x in state.items()})


@functools.partial(jax.jit, static_argnames=("chunk", "alternatives"), donate_argnames="rows")
def decode(
    decoder: Decoder,
    rows: Rows,
    dropped_B: jax.Array,
    held_B: jax.Array,
    steps: jax.Array,
    *,
    chunk: int,
    alternatives: int | None,
) -> tuple[Rows, dict]:
    """Decode up to `steps` more tokens in each row, fewer if all rows end earlier.

    Args:
        decoder: the model.
        rows: the batch.
        dropped_B: rows that are no longer wanted.
        held_B: rows that stay unchanged this time.
        steps: tokens between two visits of the host, at most `chunk`.
        chunk: length of the outputs.
        alternatives: likeliest tokens to return with each token; None: no log-probabilities.

    Returns:
        The batch; `token` int32 [B, chunk], ABSENT where a row had ended, and with `alternatives` float32 `logprob` [B, chunk], `ids` and
        `logprobs` [B, chunk, alternatives], of the model's own distribution, before any sampling setting.
    """

    def unfinished(carry):
        index, rows, _ = carry
        return (index < steps) & ~rows.state["done"].all()

    def step(carry):
        index, rows, outputs = carry
        z_B1D, cache = passes.decode(decoder, rows.state["token"][:, None], rows.state["position"][:, None], rows.cache)
        state, new = _next(rows.state, decoder.model.logits(z_B1D)[:, 0], alternatives)
        return index + 1, Rows(cache=cache, state=state), {name: x.at[:, index].set(new[name]) for name, x in outputs.items()}

    ended_B = rows.state["done"] | dropped_B
    rows = dataclasses.replace(rows, state=rows.state | {"done": ended_B | held_B})
    b = dropped_B.shape[0]
    shapes = jax.eval_shape(lambda: _next(rows.state, jnp.zeros((b, decoder.vocab_size)), alternatives)[1])
    outputs = {name: jnp.full((b, chunk, *x.shape[1:]), ABSENT, x.dtype) for name, x in shapes.items()}
    _, rows, outputs = jax.lax.while_loop(unfinished, step, (0, rows, outputs))
    state = decoding.everywhere(decoder.layout, rows.state | {"done": jnp.where(held_B, ended_B, rows.state["done"])})
    return dataclasses.replace(rows, state=state), decoding.everywhere(decoder.layout, outputs)


def _next(state: dict, logits_BV: jax.Array, alternatives: int | None) -> tuple[dict, dict]:
    """Return the next state and its outputs; rows that are done stay unchanged."""
    position_B = jnp.where(state["done"], state["position"], state["position"] + 1)
    keys_B = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(state["key"]), position_B)
    token_B = jnp.where(state["done"], state["token"], sampling.sample(keys_B, logits_BV, state["seen"], state["counts"], state))
    ended_B = (token_B[:, None] == state["stop_ids"]).any(axis=1) | (position_B + 1 >= state["limit"])
    after = state | {
        "token": token_B,
        "position": position_B,
        "done": state["done"] | ended_B,
        "seen": state["seen"].at[jnp.arange(token_B.shape[0]), token_B].set(True),
        "counts": state["counts"].at[jnp.arange(token_B.shape[0]), token_B].add(~state["done"]),
    }
    outputs = {"token": jnp.where(state["done"], ABSENT, token_B)}
    if alternatives is not None:
        outputs |= passes.logprobs_of_logits(logits_BV, token_B, alternatives)
    return after, outputs
