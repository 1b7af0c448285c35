"""What a device knows of the texts that it continues: caches, and for each row its newest token, its limits and how it chooses.

Lengths and numbers of rows are powers of two, so that a handful of compiled programs serve all. A row's random numbers
depend on its seed, its number and its prompt (`Request.key`), and neither on its neighbours nor on the chunk.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sharding import decoding
from teleflm_jax.generate import decoder as passes
from teleflm_jax.generate import sampling
from teleflm_jax.generate.decoder import Decoder
from teleflm_jax.generate.request import MAX_STOP_IDS, Request
from teleflm_jax.model import cache as kv

SHORTEST = 16
"""Smallest length of a prompt that is compiled for."""
NOTHING = -1
"""In a chunk: this row had ended. Among stop ids: none. Among rows: a free one."""
NOBODY = Request(prompt=(), max_tokens=1)
"""The request of rows that are free."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """Texts being continued."""

    cache: kv.Cache
    """All but the newest token of each."""
    of: dict[str, jax.Array]
    """By name, [B, …]: `token` (the newest), `position` (where it stands), `limit` (tokens that the row may have in all), `prompt`
    (those of its prompt), `done`, `seen` ([B, V], the ids it has had), `counts` ([B, V], how often its continuation has), `key`,
    `stop_ids`, and those of `sampling.settings`."""


def bucket(length: int, largest: int, smallest: int = SHORTEST) -> int:
    """The next power of two, at least `smallest` and at most `largest`."""
    return min(largest, max(smallest, 1 << (length - 1).bit_length()))


def settings(requests: Sequence[Request], limits: Sequence[int], count: int) -> dict[str, np.ndarray]:
    """What new rows start with, filled up to `count` with the first one."""
    filled = [*requests, *requests[:1] * (count - len(requests))]
    stop_ids = np.full((count, MAX_STOP_IDS), NOTHING, np.int32)
    for row, request in zip(stop_ids, filled, strict=True):
        row[: len(request.stop_ids)] = request.stop_ids
    limit = np.array([*limits, *limits[:1] * (count - len(limits))], np.int32)
    key = np.array([request.key for request in filled], np.uint32)
    prompt = np.array([len(request.prompt) for request in filled], np.int32)
    return {
        "stop_ids": stop_ids,
        "limit": limit,
        "prompt": prompt,
        "key": key,
        **sampling.settings([request.sampling for request in filled]),
    }


def cached(decoder: Decoder, count: int, slots: int) -> jax.ShapeDtypeStruct:
    """One of the arrays that a cache of so many rows and slots has, and where it lies."""
    config = decoder.model.config
    where = decoding.cache_placement(decoder.layout, count, config.num_kv_heads)
    return jax.ShapeDtypeStruct((count, config.num_kv_heads, slots, config.head_size), config.compute_dtype, sharding=where)


def state(vocab_size: int, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and types of what is known of so many rows beside their cache, by name."""
    shapes = {name: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype) for name, x in settings([NOBODY], [0], 1).items()}
    of_each = {"token": np.int32, "position": np.int32, "done": bool}
    of_ids = {"seen": bool, "counts": np.int32}
    shapes |= {name: jax.ShapeDtypeStruct((count,), kind) for name, kind in of_each.items()}
    return shapes | {name: jax.ShapeDtypeStruct((count, vocab_size), kind) for name, kind in of_ids.items()}


@functools.partial(jax.jit, static_argnames=("count", "slots"))
def empty(decoder: Decoder, *, count: int, slots: int) -> Rows:
    """Rows that have ended, with room for texts of `slots` tokens."""
    of = {name: jnp.zeros(x.shape, x.dtype) for name, x in state(decoder.vocab_size, count).items()} | {"done": jnp.ones(count, bool)}
    cache = decoding.placed_cache(decoder.layout, kv.init(decoder.model.config, count, slots))
    return Rows(cache=cache, of=decoding.everywhere(decoder.layout, of))


@functools.partial(jax.jit, static_argnames=("slots", "layout"))
def moved(old_BKSH: jax.Array, source_R: jax.Array, *, slots: int, layout) -> jax.Array:
    """One array of a cache with rows `source_R` of the old one and another number of slots; NOTHING: any values."""
    kept = old_BKSH[jnp.maximum(source_R, 0), :, :slots]
    return decoding.placed_cache(layout, jnp.pad(kept, ((0, 0), (0, 0), (0, slots - kept.shape[2]), (0, 0))))


@functools.partial(jax.jit, static_argnames="layout")
def moved_of(of: dict, source_R: jax.Array, *, layout) -> dict:
    """The same of what is known of rows beside the cache; free rows have ended."""
    kept = {name: x[jnp.maximum(source_R, 0)] for name, x in of.items()}
    return decoding.everywhere(layout, kept | {"done": kept["done"] | (source_R == NOTHING)})


@jax.jit
def read(decoder: Decoder, prompts_UT: jax.Array) -> kv.Cache:
    """Read different prompts, padded on the right, into a cache."""
    return passes.read(decoder, prompts_UT)[1]


@functools.partial(jax.jit, static_argnames="alternatives")
def told(decoder: Decoder, prompts_UT: jax.Array, *, alternatives: int) -> tuple[kv.Cache, dict]:
    """The same, and what `extend` tells of tokens, of the one after each: `logprob` [U, T], `ids` and `logprobs` [U, T, alternatives]."""
    z_UTD, cache = passes.read(decoder, prompts_UT)
    shape = prompts_UT.shape
    found = passes.tell(decoder, z_UTD.reshape(prompts_UT.size, -1), jnp.roll(prompts_UT, -1, axis=1).reshape(-1), alternatives)
    return cache, decoding.everywhere(decoder.layout, {name: x.reshape(*shape, *x.shape[1:]) for name, x in found.items()})


@functools.partial(jax.jit, static_argnames="layout", donate_argnames="old_BKSH")
def written(old_BKSH: jax.Array, read_UKTH: jax.Array, source_R: jax.Array, rows_R: jax.Array, *, layout) -> jax.Array:
    """One array of a cache with prompts `source_R` of what was read in rows `rows_R`; past the last row: none."""
    return decoding.placed_cache(layout, old_BKSH.at[rows_R, :, : read_UKTH.shape[2]].set(read_UKTH[source_R], mode="drop"))


@functools.partial(jax.jit, static_argnames="layout", donate_argnames="of")
def begun(of: dict, prompts_UT, lengths_U, source_R, rows_R, new: dict, *, layout) -> dict:
    """Put new texts among what is known of rows beside the cache: the last token of each prompt is its newest.

    Args:
        of: of the others.
        prompts_UT: different prompts, padded on the right.
        lengths_U: their tokens.
        source_R: of each new text, the number of its prompt.
        rows_R: of each, its row; past the last row: none.
        new: of `settings`.
        layout: the mesh.
    """
    (u, t), vocab_size = prompts_UT.shape, of["seen"].shape[1]
    seen_UV = jnp.zeros((u, vocab_size), bool).at[jnp.arange(u)[:, None], prompts_UT].max(jnp.arange(t) < lengths_U[:, None])
    position_R = lengths_U[source_R] - 1
    new = new | {"seen": seen_UV[source_R], "token": prompts_UT[source_R, position_R]}
    new |= {"position": position_R, "done": jnp.zeros(source_R.shape, bool)}
    written_RT = (jnp.arange(t) >= new["prompt"][:, None]) & (jnp.arange(t) <= position_R[:, None])
    none_RV = jnp.zeros((len(source_R), vocab_size), jnp.int32)
    new |= {"counts": none_RV.at[jnp.arange(len(source_R))[:, None], prompts_UT[source_R]].add(written_RT)}
    return decoding.everywhere(layout, {name: x.at[rows_R].set(new[name], mode="drop") for name, x in of.items()})


@functools.partial(jax.jit, static_argnames=("chunk", "alternatives"), donate_argnames="rows")
def extend(decoder: Decoder, rows: Rows, dropped_B, held_B, steps, *, chunk: int, alternatives: int | None) -> tuple[Rows, dict]:
    """Up to `steps` more tokens per row, fewer if all rows end before.

    Args:
        decoder: the model.
        rows: being continued.
        dropped_B: those that nobody wants any more.
        held_B: those that stay as they are this time.
        steps: tokens between two visits of the host, at most `chunk`.
        chunk: tokens that there is room for in what is told.
        alternatives: how many of the likeliest tokens are told with each; None: no log-probabilities at all.

    Returns:
        The rows; `token` int32 [B, chunk], NOTHING where a row had ended, and with `alternatives` float32 `logprob` [B, chunk], `ids` and
        `logprobs` [B, chunk, alternatives], of the model's own distribution, before any setting.
    """

    def unfinished(carry):
        number, rows, _ = carry
        return (number < steps) & ~rows.of["done"].all()

    def step(carry):
        number, rows, told = carry
        z_B1D, cache = passes.go_on(decoder, rows.of["token"][:, None], rows.of["position"][:, None], rows.cache)
        of, figures = _next(rows.of, decoder.model.logits(z_B1D)[:, 0], alternatives)
        return number + 1, Rows(cache=cache, of=of), {name: x.at[:, number].set(figures[name]) for name, x in told.items()}

    ended_B = rows.of["done"] | dropped_B
    rows = dataclasses.replace(rows, of=rows.of | {"done": ended_B | held_B})
    b = dropped_B.shape[0]
    shapes = jax.eval_shape(lambda: _next(rows.of, jnp.zeros((b, decoder.vocab_size)), alternatives)[1])
    told = {name: jnp.full((b, chunk, *x.shape[1:]), NOTHING, x.dtype) for name, x in shapes.items()}
    _, rows, told = jax.lax.while_loop(unfinished, step, (0, rows, told))
    of = decoding.everywhere(decoder.layout, rows.of | {"done": jnp.where(held_B, ended_B, rows.of["done"])})
    return dataclasses.replace(rows, of=of), decoding.everywhere(decoder.layout, told)


def _next(of: dict, logits_BV: jax.Array, alternatives: int | None) -> tuple[dict, dict]:
    """Choose the next token of the rows that go on; the others stay as they are."""
    position_B = jnp.where(of["done"], of["position"], of["position"] + 1)
    keys_B = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(of["key"]), position_B)
    token_B = jnp.where(of["done"], of["token"], sampling.choose(keys_B, logits_BV, of["seen"], of["counts"], of))
    ended_B = (token_B[:, None] == of["stop_ids"]).any(axis=1) | (position_B + 1 >= of["limit"])
    after = of | {
        "token": token_B,
        "position": position_B,
        "done": of["done"] | ended_B,
        "seen": of["seen"].at[jnp.arange(token_B.shape[0]), token_B].set(True),
        "counts": of["counts"].at[jnp.arange(token_B.shape[0]), token_B].add(~of["done"]),
    }
    figures = {"token": jnp.where(of["done"], NOTHING, token_B)}
    if alternatives is not None:
        figures |= passes.figures(logits_BV, token_B, alternatives)
    return after, figures
