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
"""Smallest length that is compiled for."""
NOTHING = -1
"""In a chunk: this row had ended. Among stop ids: none."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """Texts being continued."""

    cache: kv.Cache
    """All but the newest token of each."""
    of: dict[str, jax.Array]
    """By name, [B, …]: `token` (the newest), `position` (where it stands), `limit` (tokens that the row may have in all), `done`, `seen`
    ([B, V], the ids it has had), `counts` ([B, V], how often its continuation has), `key`, `stop_ids`, and those of `sampling.settings`."""


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
    return {"stop_ids": stop_ids, "limit": limit, "key": key, **sampling.settings([request.sampling for request in filled])}


@functools.partial(jax.jit, static_argnames=("count", "slots"))
def empty(decoder: Decoder, *, count: int, slots: int) -> Rows:
    """Rows that have ended, with room for texts of `slots` tokens."""
    of = {name: jnp.zeros((count, *x.shape[1:]), x.dtype) for name, x in settings([Request(prompt=(), max_tokens=1)], [0], 1).items()}
    of |= {"token": jnp.zeros(count, jnp.int32), "position": jnp.zeros(count, jnp.int32), "done": jnp.ones(count, bool)}
    of |= {"seen": jnp.zeros((count, decoder.vocab_size), bool), "counts": jnp.zeros((count, decoder.vocab_size), jnp.int32)}
    cache = decoding.placed_cache(decoder.layout, kv.init(decoder.model.config, count, slots))
    return Rows(cache=cache, of=of | {"temperature": jnp.zeros(count)})


@functools.partial(jax.jit, static_argnames=("count", "slots"))
def grow(decoder: Decoder, rows: Rows, *, count: int, slots: int) -> Rows:
    """The same texts, with room for more and longer ones."""
    more = count - rows.of["token"].shape[0]
    of = {name: jnp.pad(x, [(0, more)] + [(0, 0)] * (x.ndim - 1), constant_values=name == "done") for name, x in rows.of.items()}
    widen = lambda x: jnp.pad(x, ((0, more), (0, 0), (0, slots - x.shape[2]), (0, 0)))  # noqa: E731
    return Rows(cache=decoding.placed_cache(decoder.layout, jax.tree.map(widen, rows.cache)), of=of)


@functools.partial(jax.jit, static_argnames=("alternatives", "tell_prompts"), donate_argnames="rows")
def begin(
    decoder, rows: Rows, prompts_UT, lengths_U, source_R, slots_R, new: dict, *, alternatives: int | None, tell_prompts: bool
) -> tuple[Rows, dict]:
    """Read prompts, choose the first token of each new text, and put the texts among the others.

    Args:
        decoder: the model.
        rows: the others.
        prompts_UT: different prompts, padded on the right.
        lengths_U: their tokens.
        source_R: of each new text, the number of its prompt.
        slots_R: of each, its row; past the last row: none.
        new: of `settings`.
        alternatives: as in `extend`.
        tell_prompts: tell the prompts' tokens but the first too, which takes `alternatives`.

    Returns:
        The rows, and of the new ones what `extend` returns, for one token; of the prompts the same under names with `prompt_` in front,
        [R, T, …], for each token the one after it.
    """
    z_UTD, cache = passes.read(decoder, prompts_UT)
    logits_UV = decoder.model.logits(jnp.take_along_axis(z_UTD, lengths_U[:, None, None] - 1, axis=1))[:, 0]
    u, t = prompts_UT.shape
    seen_UV = jnp.zeros((u, decoder.vocab_size), bool).at[jnp.arange(u)[:, None], prompts_UT].max(jnp.arange(t) < lengths_U[:, None])
    of = new | {"seen": seen_UV[source_R], "counts": jnp.zeros((len(source_R), decoder.vocab_size), jnp.int32)}
    of |= {"token": jnp.zeros_like(source_R), "position": lengths_U[source_R] - 1, "done": jnp.zeros(source_R.shape, bool)}
    of, figures = _next(of, logits_UV[source_R], alternatives)
    placed = {name: x.at[slots_R].set(of[name], mode="drop") for name, x in rows.of.items()}
    write = lambda old, read: old.at[slots_R, :, :t].set(read[source_R], mode="drop")  # noqa: E731
    cache = decoding.placed_cache(decoder.layout, jax.tree.map(write, rows.cache, cache))
    told = {name: x[:, None] for name, x in figures.items()}
    if tell_prompts:
        found = passes.tell(decoder, z_UTD.reshape(u * t, -1), jnp.roll(prompts_UT, -1, axis=1).reshape(u * t), alternatives)
        told |= {f"prompt_{name}": x.reshape(u, t, *x.shape[1:])[source_R] for name, x in found.items()}
    return Rows(cache=cache, of=placed), decoding.everywhere(decoder.layout, told)


@functools.partial(jax.jit, static_argnames=("chunk", "alternatives"), donate_argnames="rows")
def extend(decoder: Decoder, rows: Rows, dropped_B, *, chunk: int, alternatives: int | None) -> tuple[Rows, dict]:
    """Up to `chunk` more tokens per row, fewer if all rows end before.

    Args:
        decoder: the model.
        rows: being continued.
        dropped_B: those that nobody wants any more.
        chunk: tokens between two visits of the host.
        alternatives: how many of the likeliest tokens are told with each; None: no log-probabilities at all.

    Returns:
        The rows; `token` int32 [B, chunk], NOTHING where a row had ended, and with `alternatives` float32 `logprob` [B, chunk], `ids` and
        `logprobs` [B, chunk, alternatives], of the model's own distribution, before any setting.
    """

    def unfinished(carry):
        number, rows, _ = carry
        return (number < chunk) & ~rows.of["done"].all()

    def step(carry):
        number, rows, told = carry
        z_B1D, cache = passes.go_on(decoder, rows.of["token"][:, None], rows.of["position"][:, None], rows.cache)
        of, figures = _next(rows.of, decoder.model.logits(z_B1D)[:, 0], alternatives)
        return number + 1, Rows(cache=cache, of=of), {name: x.at[:, number].set(figures[name]) for name, x in told.items()}

    rows = dataclasses.replace(rows, of=rows.of | {"done": rows.of["done"] | dropped_B})
    b = dropped_B.shape[0]
    shapes = jax.eval_shape(lambda: _next(rows.of, jnp.zeros((b, decoder.vocab_size)), alternatives)[1])
    told = {name: jnp.full((b, chunk, *x.shape[1:]), NOTHING, x.dtype) for name, x in shapes.items()}
    _, rows, told = jax.lax.while_loop(unfinished, step, (0, rows, told))
    return rows, decoding.everywhere(decoder.layout, told)


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
        "counts": of["counts"].at[jnp.arange(token_B.shape[0]), token_B].add(1),
    }
    figures = {"token": jnp.where(of["done"], NOTHING, token_B)}
    if alternatives is not None:
        figures |= passes.figures(logits_BV, token_B, alternatives)
    return after, figures
