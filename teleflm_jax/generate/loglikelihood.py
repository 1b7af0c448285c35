"""Log-likelihoods of given continuations after given contexts.

A context with several continuations is read once: it fills a cache, from which each continuation is decoded. A context with a single
continuation is read together with it. Texts of similar lengths share a batch.
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
"""Ids of a context and of its continuation."""
_Scores = tuple[list[int], np.ndarray, np.ndarray, np.ndarray]
"""Indices of pairs; and for each token of a continuation the position of its pair there, its log-probability, and whether it is greedy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Group:
    """Continuations of one context."""

    context: tuple[int, ...]
    continuations: list[tuple[int, ...]]
    indices: list[int]
    """Index of each continuation among all pairs."""


def loglikelihoods(
    decoder: Decoder,
    pairs: Sequence[Pair],
    *,
    batch_size: int,
    watch: Callable[[Sequence[list[_Group]]], Iterable[list[_Group]]] = iter,
    name: Callable[[int], str] = "text {}".format,
) -> list[tuple[float, bool]]:
    """Return the log-probability of each continuation in nats, and whether greedy decoding would give it.

    Only the end of a context too long for the model is read (`is_truncated`), as in lm-evaluation-harness: the last context_length + 1 ids
    of context and continuation; the last token is not an input.

    Args:
        decoder: the model.
        pairs: contexts, none empty, and continuations.
        batch_size: contexts of the longest length that are read at one time; more of shorter ones.
        watch: takes all batches and yields them one by one, such as a progress bar.
        name: the name of a pair in an error, by its index.

    Raises:
        UserError: a continuation is empty or longer than the model's context; nothing has been computed then.
    """
    for index, (_, continuation) in enumerate(pairs):
        if not 1 <= len(continuation) <= decoder.context_length:
            raise UserError(
                f"got {name(index)} with a continuation of {len(continuation):,} tokens for a context of {decoder.context_length:,}; "
                f"allowed: 1 to {decoder.context_length:,}, since all of it is scored; leave the task out or take a longer context"
            )
    groups = _grouped(pairs, decoder.context_length)
    scores: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
    for batch in watch(_batches(groups, decoder.context_length, batch_size)):
        shared = len(batch[0].continuations) > 1
        indices, owners, logprobs, greedy = (_by_context if shared else _in_one_pass)(decoder, batch)
        totals, agreed = np.zeros(len(indices)), np.ones(len(indices), bool)
        np.add.at(totals, owners, logprobs.astype(np.float64))
        np.logical_and.at(agreed, owners, greedy)
        for index, total, all_greedy in zip(indices, totals.tolist(), agreed.tolist(), strict=True):
            scores[index] = (total, all_greedy)
    return scores


def is_truncated(pair: Pair, context_length: int) -> bool:
    """Return whether only the end of a pair's context is read."""
    return len(pair[0]) + len(pair[1]) > context_length + 1


def _grouped(pairs: Sequence[Pair], context_length: int) -> list[_Group]:
    """Group pairs by context if it is whole."""
    groups: dict[tuple, _Group] = {}
    for index, (context, continuation) in enumerate(pairs):
        both = (*context, *continuation)
        text = both[-context_length - 1 :]
        read = max(1, len(text) - len(continuation))
        # a context that was cut differs from one continuation to the next
        key = text[:read], index if len(text) < len(both) else None
        group = groups.setdefault(key, _Group(context=text[:read], continuations=[], indices=[]))
        group.continuations.append(text[read:])
        group.indices.append(index)
    return list(groups.values())


def _batches(groups: Sequence[_Group], context_length: int, batch_size: int) -> list[list[_Group]]:
    """Batch groups of similar length, those with one continuation apart; longest first, so that memory runs out at once or never."""
    keyed: dict[tuple[bool, int], list[_Group]] = {}
    for group in groups:
        shared = len(group.continuations) > 1
        length = len(group.context) + (0 if shared else len(group.continuations[0]) - 1)
        keyed.setdefault((shared, bucket(length, context_length)), []).append(group)
    batches = []
    for (_, length), fitting in sorted(keyed.items(), reverse=True):
        rows = bucket(batch_size * (context_length // length), 1 << 30, 1)
        batches += [fitting[i : i + rows] for i in range(0, len(fitting), rows)]
    return batches


def _in_one_pass(decoder: Decoder, batch: Sequence[_Group]) -> _Scores:
    """Read each context with its only continuation."""
    texts = [group.context + group.continuations[0] for group in batch]
    tokens_BT = _padded([text[:-1] for text in texts], decoder.context_length)
    requested = [
        (row, position, text[position + 1])
        for row, (text, group) in enumerate(zip(texts, batch, strict=True))
        for position in range(len(group.context) - 1, len(text) - 1)
    ]
    rows_N, positions_N, targets_N = _columns(requested)
    logprobs, greedy = jax.device_get(_prefill_and_score(decoder, tokens_BT, rows_N, positions_N, targets_N))
    owners = rows_N[: len(requested)]
    return [group.indices[0] for group in batch], owners, logprobs[: len(requested)], greedy[: len(requested)]


def _by_context(decoder: Decoder, batch: Sequence[_Group]) -> _Scores:
    """Read the contexts first, then the continuations of each without their last ids."""
    rows = [(number, continuation) for number, group in enumerate(batch) for continuation in group.continuations]
    tokens_BT = _padded([group.context for group in batch], decoder.context_length)
    firsts = [(number, len(batch[number].context) - 1, continuation[0]) for number, continuation in rows]
    first_logprobs, first_greedy, cache = _prefill_and_keep(decoder, tokens_BT, *_columns(firsts))
    owners, logprobs, greedy = [np.arange(len(rows))], [first_logprobs], [first_greedy]
    if longer := [(owner, number, continuation) for owner, (number, continuation) in enumerate(rows) if len(continuation) > 1]:
        more_RT = _padded([continuation[:-1] for _, _, continuation in longer], decoder.context_length)
        count = len(more_RT)
        sources_R = np.array([number for _, number, _ in longer] + [0] * (count - len(longer)), np.int32)
        starts_R = np.array([len(batch[number].context) for number in sources_R.tolist()], np.int32)
        requested = [(row, i, token) for row, (_, _, continuation) in enumerate(longer) for i, token in enumerate(continuation[1:])]
        outputs = _decode_and_score(decoder, cache, more_RT, sources_R, starts_R, *_columns(requested))
        owners.append(np.array([longer[row][0] for row, _, _ in requested]))
        logprobs.append(outputs[0][: len(requested)])
        greedy.append(outputs[1][: len(requested)])
    logprobs, greedy = ([np.asarray(x) for x in jax.device_get(xs)] for xs in (logprobs, greedy))
    logprobs[0], greedy[0] = logprobs[0][: len(rows)], greedy[0][: len(rows)]
    indices = [index for group in batch for index in group.indices]
    return indices, np.concatenate(owners), np.concatenate(logprobs), np.concatenate(greedy)


def _padded(texts: Sequence[Sequence[int]], context_length: int) -> np.ndarray:
    """Return texts as int32 rows, both sizes rounded up to limit the number of programs."""
    padded = np.zeros((bucket(len(texts), 1 << 30, 1), bucket(max(map(len, texts)), context_length)), np.int32)
    for row, text in zip(padded, texts, strict=False):
        row[: len(text)] = text
    return padded


def _columns(requested: Sequence[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (row, position, target) as three columns, padded to limit the number of programs."""
    rows, positions, targets = columns = np.zeros((3, bucket(len(requested), 1 << 30)), np.int32)
    columns[:, : len(requested)] = np.array(requested, np.int32).T
    return rows, positions, targets


@jax.jit
def _prefill_and_score(
    decoder: Decoder, tokens_BT: jax.Array, rows_N: jax.Array, positions_N: jax.Array, targets_N: jax.Array
) -> tuple[jax.Array, jax.Array]:
    z_BTD, _ = passes.prefill(decoder, tokens_BT)
    return passes.score_targets(decoder, z_BTD[rows_N, positions_N], targets_N)


@jax.jit
def _prefill_and_keep(decoder, tokens_BT, rows_N, positions_N, targets_N):
    z_BTD, cache = passes.prefill(decoder, tokens_BT)
    return *passes.score_targets(decoder, z_BTD[rows_N, positions_N], targets_N), cache


@jax.jit
def _decode_and_score(decoder, cache, tokens_RT, sources_R, starts_R, rows_N, positions_N, targets_N):
    t = tokens_RT.shape[1]
    extended = lambda x: jnp.pad(x[sources_R], ((0, 0), (0, 0), (0, t), (0, 0)))  # noqa: E731
    positions_RT = starts_R[:, None] + jnp.arange(t)
    z_RTD, _ = passes.decode(decoder, tokens_RT, positions_RT, jax.tree.map(extended, cache))
    return passes.score_targets(decoder, z_RTD[rows_N, positions_N], targets_N)
