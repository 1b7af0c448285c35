import types

import jax
import numpy as np
import pytest

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax.errors import UserError
from teleflm_jax.generate import decoder, loglikelihood
from tests import tiny

CONFIG = tiny.config(context_length=32)
RANDOM = np.random.default_rng(0)
CONTEXTS = [[1, *RANDOM.integers(4, 64, size=n).tolist()] for n in (2, 16, 29, 31)]
CHOICES = [(context, RANDOM.integers(4, 64, size=n).tolist()) for context in CONTEXTS for n in (1, 3, 9)]
ALONE = [([1], RANDOM.integers(4, 64, size=n).tolist()) for n in (1, 20, 31, 32)] + [(CONTEXTS[1], [7]), ([1, 2, 3, 4], [5, 6])]


def on(*sizes):
    mesh = dict(zip(("data", "pipe", "tensor"), sizes, strict=True))
    layout = rules.layout(MeshConfig(**mesh), CONFIG.d_model, jax.devices()[: np.prod(sizes)])
    return decoder.decoder(jax.device_put(tiny.model(CONFIG), layout.replicated()), layout)


@jax.jit
def logprobs(tokens):
    return jax.nn.log_softmax(tiny.logits(tiny.model(CONFIG), tokens))


def expected(context, continuation):
    """By one full forward pass over the last 33 ids; what stands behind a text does not change it."""
    text, count = [*context, *continuation][-CONFIG.context_length - 1 :], len(continuation)
    padded = np.zeros((1, CONFIG.context_length), np.int32)
    padded[0, : len(text) - 1] = text[:-1]
    table = np.asarray(logprobs(padded)[0])[len(text) - 1 - count : len(text) - 1]
    return table[np.arange(count), text[-count:]].sum(), table.argmax(axis=-1).tolist() == text[-count:]


@pytest.mark.parametrize(
    "sizes, batch_size",
    [((1, 1, 1), 8), ((2, 2, 2), 8), *(pytest.param(sizes, 1, marks=pytest.mark.distributed) for sizes in ((1, 1, 1), (2, 2, 2)))],
)
def test_scores_are_those_of_full_forward_passes_in_the_order_asked(sizes, batch_size):
    pairs = [pair for both in zip(CHOICES, [*ALONE, *ALONE], strict=True) for pair in both]
    found = loglikelihood.loglikelihoods(on(*sizes), pairs, batch_size=batch_size)
    for pair, (logprob, greedy) in zip(pairs, found, strict=True):
        wanted = expected(*pair)
        np.testing.assert_allclose(logprob, wanted[0], rtol=1e-4)
        assert greedy == wanted[1]


@pytest.mark.parametrize("length", [0, 33, 40])
@pytest.mark.parametrize("context", [[1], [1, 2, 3]])
def test_a_continuation_that_cannot_be_scored_whole_is_refused_before_any_work(length, context):
    nothing_to_work_with = types.SimpleNamespace(context_length=32)
    pairs = [(context, [5] * 32), (context, [5] * length)]
    with pytest.raises(UserError, match=f"got text 1 with a continuation of {length} tokens for a context of 32; allowed: 1 to 32, "):
        loglikelihood.loglikelihoods(nothing_to_work_with, pairs, batch_size=1)
    with pytest.raises(UserError, match="got item 1 of a task with a continuation"):
        loglikelihood.loglikelihoods(nothing_to_work_with, pairs, batch_size=1, name="item {} of a task".format)


@pytest.mark.parametrize("context, continuation, expected", [(1, 32, False), (32, 1, False), (2, 32, True), (33, 1, True), (1, 1, False)])
def test_a_context_is_shortened_where_both_have_more_than_the_context_and_a_target(context, continuation, expected):
    assert loglikelihood.is_truncated(([5] * context, [5] * continuation), 32) is expected


def test_the_likeliest_continuation_is_greedy_and_a_change_of_one_id_is_not():
    model, text = tiny.model(CONFIG), list(CONTEXTS[1])
    for _ in range(5):
        padded = np.array([text + [0] * (32 - len(text))])  # what comes later changes nothing, and one shape is compiled once
        text.append(int(tiny.logits(model, padded)[0, len(text) - 1].argmax()))
    context, likeliest = text[: len(CONTEXTS[1])], text[len(CONTEXTS[1]) :]
    wrong = [[(token + (i == j)) % 64 for j, token in enumerate(likeliest)] for i in range(5)]
    found = loglikelihood.loglikelihoods(on(1, 1, 1), [(context, likeliest), *((context, each) for each in wrong)], batch_size=1)
    assert [greedy for _, greedy in found] == [True] + [False] * 5


def test_a_context_is_read_once_for_all_its_continuations(monkeypatch):
    read = []
    original = loglikelihood._prefill_and_keep
    monkeypatch.setattr(
        loglikelihood, "_prefill_and_keep", lambda decoder, tokens, *rest: read.append(tokens.shape) or original(decoder, tokens, *rest)
    )
    loglikelihood.loglikelihoods(on(1, 1, 1), CHOICES[:6], batch_size=1)
    assert sorted(read) == [(1, 16), (1, 32)]


def test_every_batch_is_seen_by_who_watches():
    seen = []
    loglikelihood.loglikelihoods(on(1, 1, 1), CHOICES, batch_size=2, watch=lambda batches: seen.append(len(batches)) or batches)
    assert seen == [4]  # of one context the first, of two the second, and four continuations whose contexts are cut, in twos
