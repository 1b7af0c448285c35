"""How likely given continuations are after given contexts.

Continuations of one context read it once: the context fills a cache, from which each continuation goes on. A context with a single
continuation is read together with it. Texts of like lengths share a batch.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from teleflm_jax.errors import UserError
from teleflm_jax.generate import decoder as passes
from teleflm_jax.generate.decoder import Decoder
from teleflm_jax.generate.rows import bucket

Pair = tuple[Sequence[int], Sequence[int]]
"""Ids of a context, and of its continuation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Group:
    """Continuations of one context."""

    context: tuple[int, ...]
    continuations: list[tuple[int, ...]]
    places: list[int]
    """Of each, its number among all."""


def score(
    decoder: Decoder,
    pairs: Sequence[Pair],
    *,
    batch_size: int,
    watch: Callable[[Sequence], Iterable] = iter,
    name: Callable[[int], str] = "text {}".format,
) -> list[tuple[float, bool]]:
    """The log-probability of each continuation in nats, and whether it is what always choosing the likeliest token would give.

    Of a context too long for the model only the end is read (`is_shortened`), as lm-evaluation-harness does: the last context_length + 1
    ids of both, of which the last is no input.

    Args:
        decoder: the model.
        pairs: contexts, none empty, and continuations.
        batch_size: contexts that are read at one time, at the longest length; more of shorter ones.
        watch: gets all batches and yields them one by one, such as a progress bar.
        name: what an error calls a pair, by its place.

    Raises:
        UserError: a continuation is empty or longer than the model's context; nothing is computed then.
    """
    for place, (_, continuation) in enumerate(pairs):
        if not 1 <= len(continuation) <= decoder.context_length:
            raise UserError(
                f"got {name(place)} with a continuation of {len(continuation):,} tokens for a context of {decoder.context_length:,}; "
                f"allowed: 1 to {decoder.context_length:,}, since all of it is scored; leave the task out or take a longer context"
            )
    groups = _grouped(pairs, decoder.context_length)
    scores: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
    for batch in watch(_batches(groups, decoder.context_length, batch_size)):
        shared = len(batch[0].continuations) > 1
        places, owners, logprobs, greedy = (_by_context if shared else _whole)(decoder, batch)
        totals, agreed = np.zeros(len(places)), np.ones(len(places), bool)
        np.add.at(totals, owners, logprobs.astype(np.float64))
        np.logical_and.at(agreed, owners, greedy)
        for place, total, all_greedy in zip(places, totals.tolist(), agreed.tolist(), strict=True):
            scores[place] = (total, all_greedy)
    return scores


def is_shortened(pair: Pair, context_length: int) -> bool:
    """Whether a model reads only the end of a pair's context."""
    return len(pair[0]) + len(pair[1]) > context_length + 1


def _grouped(pairs: Sequence[Pair], context_length: int) -> list[_Group]:
    """Pairs by their contexts, as far as these are whole."""
    found: dict[tuple, _Group] = {}
    for place, (context, continuation) in enumerate(pairs):
        both = (*context, *continuation)
        text = both[-context_length - 1 :]
        read = max(1, len(text) - len(continuation))
        # a context that was cut differs from one continuation to the next
        key = text[:read], place if len(text) < len(both) else None
        group = found.setdefault(key, _Group(context=text[:read], continuations=[], places=[]))
        group.continuations.append(text[read:])
        group.places.append(place)
    return list(found.values())


def _batches(groups: Sequence[_Group], context_length: int, batch_size: int) -> list[list[_Group]]:
    """Groups of like length together, those with one continuation apart; longest first, so that memory runs out at once or not at all."""
    keyed: dict[tuple[bool, int], list[_Group]] = {}
    for group in groups:
        shared = len(group.continuations) > 1
        length = len(group.context) + (0 if shared else len(group.continuations[0]) - 1)
        keyed.setdefault((shared, bucket(length, context_length)), []).append(group)
    made = []
    for (_, length), fitting in sorted(keyed.items(), reverse=True):
        rows = bucket(batch_size * (context_length // length), 1 << 30, 1)
        made += [fitting[i : i + rows] for i in range(0, len(fitting), rows)]
    return made


def _whole(decoder: Decoder, batch: Sequence[_Group]):
    """Each context with its only continuation, in one pass."""
    texts = [group.context + group.continuations[0] for group in batch]
    tokens_BT = _padded([text[:-1] for text in texts], decoder.context_length)
    asked = [
        (row, place, text[place + 1])
        for row, (text, group) in enumerate(zip(texts, batch, strict=True))
        for place in range(len(group.context) - 1, len(text) - 1)
    ]
    rows_N, places_N, targets_N = _columns(asked)
    logprobs, greedy = jax.device_get(_read_and_judge(decoder, tokens_BT, rows_N, places_N, targets_N))
    owners = rows_N[: len(asked)]
    return [group.places[0] for group in batch], owners, logprobs[: len(asked)], greedy[: len(asked)]


def _by_context(decoder: Decoder, batch: Sequence[_Group]):
    """Contexts first; then the continuations of each, all but their last ids."""
    rows = [(number, continuation) for number, group in enumerate(batch) for continuation in group.continuations]
    tokens_BT = _padded([group.context for group in batch], decoder.context_length)
    firsts = [(number, len(batch[number].context) - 1, continuation[0]) for number, continuation in rows]
    first_logprobs, first_greedy, cache = _read_and_keep(decoder, tokens_BT, *_columns(firsts))
    owners, logprobs, greedy = [np.arange(len(rows))], [first_logprobs], [first_greedy]
    if longer := [(owner, number, continuation) for owner, (number, continuation) in enumerate(rows) if len(continuation) > 1]:
        more_RT = _padded([continuation[:-1] for _, _, continuation in longer], decoder.context_length)
        count = len(more_RT)
        sources_R = np.array([number for _, number, _ in longer] + [0] * (count - len(longer)), np.int32)
        starts_R = np.array([len(batch[number].context) for number in sources_R.tolist()], np.int32)
        asked = [(row, i, token) for row, (_, _, continuation) in enumerate(longer) for i, token in enumerate(continuation[1:])]
        found = _go_on_and_judge(decoder, cache, more_RT, sources_R, starts_R, *_columns(asked))
        owners.append(np.array([longer[row][0] for row, _, _ in asked]))
        logprobs.append(found[0][: len(asked)])
        greedy.append(found[1][: len(asked)])
    logprobs, greedy = ([np.asarray(x) for x in jax.device_get(xs)] for xs in (logprobs, greedy))
    logprobs[0], greedy[0] = logprobs[0][: len(rows)], greedy[0][: len(rows)]
    places = [place for group in batch for place in group.places]
    return places, np.concatenate(owners), np.concatenate(logprobs), np.concatenate(greedy)


def _padded(texts: Sequence[Sequence[int]], context_length: int) -> np.ndarray:
    """Texts as rows, int32, both sizes rounded up to what is compiled for."""
    made = np.zeros((bucket(len(texts), 1 << 30, 1), bucket(max(map(len, texts)), context_length)), np.int32)
    for row, text in zip(made, texts, strict=False):
        row[: len(text)] = text
    return made


def _columns(asked: Sequence[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Row, place, target) as three columns, filled up to what is compiled for."""
    columns = np.zeros((3, bucket(len(asked), 1 << 30)), np.int32)
    columns[:, : len(asked)] = np.array(asked, np.int32).T
    return tuple(columns)


@jax.jit
def _read_and_judge(decoder, tokens_BT, rows_N, places_N, targets_N):
    z_BTD, _ = passes.read(decoder, tokens_BT)
    return passes.judge(decoder, z_BTD[rows_N, places_N], targets_N)


@jax.jit
def _read_and_keep(decoder, tokens_BT, rows_N, places_N, targets_N):
    z_BTD, cache = passes.read(decoder, tokens_BT)
    return *passes.judge(decoder, z_BTD[rows_N, places_N], targets_N), cache


@jax.jit
def _go_on_and_judge(decoder, cache, tokens_RT, sources_R, starts_R, rows_N, places_N, targets_N):
    t = tokens_RT.shape[1]
    room = lambda x: jnp.pad(x[sources_R], ((0, 0), (0, 0), (0, t), (0, 0)))  # noqa: E731
    positions_RT = starts_R[:, None] + jnp.arange(t)
    z_RTD, _ = passes.go_on(decoder, tokens_RT, positions_RT, jax.tree.map(room, cache))
    return passes.judge(decoder, z_RTD[rows_N, places_N], targets_N)
