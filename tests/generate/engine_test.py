import dataclasses

import jax
import numpy as np
import pytest

from sharding.config import MeshConfig
from teleflm_jax.errors import UserError
from teleflm_jax.generate import engine, rows
from teleflm_jax.generate.request import Request
from teleflm_jax.generate.sampling import GREEDY, Sampling
from teleflm_jax.generate.text import decode
from teleflm_jax.tokenizer.pieces import piece_bytes
from tests import tiny

VOCABULARY = 390
WARM = Sampling(temperature=1.0, top_p=1.0)
PROMPTS = [(1, 20, 30), (1,), (1, 9, 8, 7, 6, 5, 40)]
MIXED = [
    GREEDY,
    WARM,
    Sampling(temperature=1.5, top_k=7, top_p=0.9),
    Sampling(temperature=0.7, min_p=0.2, repetition_penalty=1.3),
    Sampling(temperature=0.0, repetition_penalty=2.0),
    Sampling(temperature=0.0, repetition_penalty=1.2, presence_penalty=0.7, frequency_penalty=0.4, logit_bias=((7, 1.5), (300, -3.0))),
    Sampling(temperature=0.9, presence_penalty=-0.5, frequency_penalty=2.0, logit_bias=((5, 0.5),)),
]


def on(mesh, **changes):
    """A decoder of the tiny model on a mesh of so many devices."""
    return tiny.decoder(tiny.config(vocab_size=VOCABULARY, context_length=64, **changes), mesh)


@pytest.fixture(scope="module")
def alone():
    return on(MeshConfig(data=1))


@pytest.fixture
def complete(alone, shared):
    """Token ids of each request's text."""

    def run(requests, slots=4, on=alone):
        return [[token.id for token in piece.tokens] for piece in engine.run(shared(on, slots=slots), requests)]

    return run


def ask(prompt, **changes):
    return Request(**{"prompt": tuple(prompt), "max_tokens": 20, "sampling": GREEDY} | changes)


def test_each_greedy_token_is_the_likeliest_after_a_full_forward(complete):
    model = tiny.model(tiny.config(vocab_size=VOCABULARY, context_length=64))
    found = complete([ask(prompt) for prompt in PROMPTS])
    texts = np.zeros((3, 32), np.int32)
    for text, prompt, row in zip(texts, PROMPTS, found, strict=True):
        text[: len(prompt) + 20] = [*prompt, *row]
    likeliest = np.asarray(tiny.logits(model, texts).argmax(axis=-1))
    assert found == [row[len(prompt) - 1 :][:20].tolist() for row, prompt in zip(likeliest, PROMPTS, strict=True)]


def test_a_text_does_not_depend_on_its_neighbours_their_settings_or_when_it_came(complete, alone, shared):
    requests = [ask(prompt, sampling=how, seed=3, choice=i) for i, how in enumerate(MIXED) for prompt in PROMPTS]
    single = [complete([request])[0] for request in requests]
    assert complete(requests, slots=4) == single == complete(requests, slots=16)
    running, texts = shared(alone, slots=3, chunk=5), {}
    for request in [*requests, None, None, None]:
        if request:
            texts[running.add(request)] = []
        for ticket, piece in running.step().items():
            texts[ticket] += [token.id for token in piece.tokens]
    while not running.idle:
        for ticket, piece in running.step().items():
            texts[ticket] += [token.id for token in piece.tokens]
    assert list(texts.values()) == single


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param(MeshConfig(data=2), marks=pytest.mark.distributed),
        pytest.param(MeshConfig(data=1, tensor=4), marks=pytest.mark.distributed),
        MeshConfig(data=2, pipe=2, tensor=2),
        pytest.param(MeshConfig(data=1, pipe=2, tensor=4), marks=pytest.mark.distributed),
    ],
    ids=["data 2", "tensor 4", "2 x 2 x 2", "pipe 2 x tensor 4"],
)
def test_every_mesh_writes_the_same(complete, mesh):
    requests = [ask(prompt, sampling=how, choice=i) for i, how in enumerate(MIXED[:3]) for prompt in PROMPTS]
    assert complete(requests, on=on(mesh)) == complete(requests)


def test_grouped_heads_share_a_cache(complete):
    model = tiny.model(tiny.config(vocab_size=VOCABULARY, context_length=64, num_kv_heads=2))
    (row,) = complete([ask(PROMPTS[0])], on=on(MeshConfig(data=1), num_kv_heads=2))
    text = np.array([[*PROMPTS[0], *row]])
    assert row == np.asarray(tiny.logits(model, text).argmax(axis=-1))[0, 2:-1].tolist()


def test_the_seed_and_the_number_decide(complete):
    warm = {"sampling": WARM}
    first = complete([ask([1, 5], choice=i, seed=1, **warm) for i in range(3)])
    assert first == complete([ask([1, 5], choice=i, seed=1, **warm) for i in range(3)])
    assert first != complete([ask([1, 5], choice=i, seed=2**32 - 1, **warm) for i in range(3)])
    assert first[0] != first[1] != first[2]


def test_no_two_prompts_share_random_numbers(complete):
    flat = Sampling(temperature=1e6, top_p=1.0)  # all tokens nearly alike, so that equal random numbers give equal texts
    requests = [ask((1, i, i + 1), sampling=flat, max_tokens=4, seed=2) for i in range(4, 20)]
    found = complete(requests, slots=16)
    assert len({row[0] for row in found}) > 12 and len(set(map(tuple, found))) == 16
    assert complete(requests[::-1][:5], slots=4) == found[::-1][:5]


def test_a_text_ends_with_its_own_stop_id(complete):
    free = complete([ask(prompt) for prompt in PROMPTS])
    stops = [row[5] for row in free]
    cut = [row[: row.index(stop) + 1] for row, stop in zip(free, stops, strict=True)]
    assert complete([ask(prompt, stop_ids=(stop, 389)) for prompt, stop in zip(PROMPTS, stops, strict=True)]) == cut


def test_a_text_ends_before_its_stop_string_and_the_row_goes_to_the_next(alone, tokenizer, shared):
    pieces = piece_bytes(tokenizer)
    (free,) = engine.complete(alone, tokenizer, [ask(PROMPTS[0], max_tokens=40)], slots=1)
    stop = free.text[7:9]
    running = shared(alone, slots=1, chunk=4)
    first, second = running.add(ask(PROMPTS[0], max_tokens=40, stop=(stop, "never"))), running.add(ask(PROMPTS[1], max_tokens=3))
    found = {first: [], second: []}
    while not running.idle:
        for ticket, piece in running.step().items():
            found[ticket].append(piece)
    text = "".join(piece.text for piece in found[first])
    assert text == free.text[: free.text.index(stop)] and found[first][-1].finish_reason == "stop"
    ids = [token.id for piece in found[first] for token in piece.tokens]
    assert stop in decode(ids, pieces) and stop not in decode(ids[:-1], pieces)
    assert sum(len(piece.tokens) for piece in found[second]) == 3 and found[second][-1].finish_reason == "length"


def test_texts_end_at_the_context(complete):
    prompts = [*PROMPTS, (1,) * 63]
    assert [len(row) for row in complete([ask(prompt, max_tokens=500) for prompt in prompts])] == [64 - len(prompt) for prompt in prompts]


def test_logprobs_are_those_of_a_full_forward_whatever_the_settings(alone, shared):
    requests = [ask(PROMPTS[0], sampling=MIXED[3], logprobs=3), ask(PROMPTS[1], logprobs=0), ask(PROMPTS[2])]
    some, none, silent = engine.run(shared(alone, slots=3), requests)
    assert {token.logprob for token in silent.tokens} == {None} and {token.alternatives for token in none.tokens} == {()}
    model = tiny.model(tiny.config(vocab_size=VOCABULARY, context_length=64))
    ids = [token.id for token in some.tokens]
    full = np.asarray(jax.nn.log_softmax(tiny.logits(model, np.array([[*PROMPTS[0], *ids]]))[0, 2:-1]))
    np.testing.assert_allclose([token.logprob for token in some.tokens], full[np.arange(20), ids], rtol=1e-4)
    for row, token in zip(full, some.tokens, strict=True):
        assert [index for index, _ in token.alternatives] == np.argsort(-row)[:3].tolist()
        np.testing.assert_allclose([value for _, value in token.alternatives], np.sort(row)[::-1][:3], rtol=1e-4)


def test_a_dropped_request_frees_its_row_and_harms_no_other(alone, complete, shared):
    running = shared(alone, slots=2, chunk=4)
    tickets = [running.add(ask(PROMPTS[i], max_tokens=30)) for i in range(3)]
    texts = {ticket: [] for ticket in tickets}
    for number in range(100):
        if number == 2:
            running.drop(tickets[0])
            waiting = running.add(ask(PROMPTS[0]))
            running.drop(waiting), running.drop(12345)
        for ticket, piece in running.step().items():
            assert number < 2 or ticket != tickets[0]
            texts[ticket] += [token.id for token in piece.tokens]
        if running.idle:
            break
    assert [texts[ticket] for ticket in tickets[1:]] == complete([ask(PROMPTS[i], max_tokens=30) for i in (1, 2)])


def test_greedy_texts_follow_biases_and_penalties_of_what_was_written(complete):
    how = MIXED[5]
    model = tiny.model(tiny.config(vocab_size=VOCABULARY, context_length=64))
    found = complete([ask(PROMPTS[2], sampling=how)])[0]
    padded = np.zeros((1, 32), np.int32)
    padded[0, : len(PROMPTS[2]) + 20] = [*PROMPTS[2], *found]
    table = np.array(tiny.logits(model, padded)[0], np.float32)
    for place in range(20):
        logits, written = table[len(PROMPTS[2]) - 1 + place], found[:place]
        for index, value in how.logit_bias:
            logits[index] += value
        for index in {*PROMPTS[2], *written}:
            logits[index] *= 1.2 if logits[index] < 0 else 1 / 1.2
        for index in written:
            logits[index] -= 0.4
        for index in set(written):
            logits[index] -= 0.7
        assert found[place] == logits.argmax()
    assert found != complete([ask(PROMPTS[2], sampling=Sampling(temperature=0.0, repetition_penalty=1.2))])[0]


def test_a_prompts_tokens_are_told_with_what_a_full_forward_says_of_them(alone, shared):
    long = (1, *range(4, 44))
    requests = [ask(prompt, logprobs=2, prompt_logprobs=True, max_tokens=n) for prompt, n in ((long, 0), (PROMPTS[1], 2), (PROMPTS[2], 1))]
    found = engine.run(shared(alone, slots=4), [*requests, ask(PROMPTS[0], logprobs=1)])
    model = tiny.model(tiny.config(vocab_size=VOCABULARY, context_length=64))
    for request, piece in zip(requests, found, strict=False):
        first, *others = piece.prompt
        assert [token.id for token in piece.prompt] == list(request.prompt) and first.logprob is None and first.alternatives == ()
        padded = np.zeros((1, 64), np.int32)
        padded[0, : len(request.prompt)] = request.prompt
        full = np.asarray(jax.nn.log_softmax(tiny.logits(model, padded)[0]))
        for row, token in zip(full, others, strict=False):
            np.testing.assert_allclose(token.logprob, row[token.id], rtol=1e-4)
            assert [index for index, _ in token.alternatives] == np.argsort(-row, kind="stable")[:2].tolist()
    assert found[3].prompt == () and [len(piece.tokens) for piece in found] == [0, 2, 1, 20]
    assert found[0].text == "" and found[0].finish_reason == "length"
    same = engine.run(shared(alone, slots=1), [dataclasses.replace(requests[2], prompt_logprobs=False)])
    assert [token.id for token in same[0].tokens] == [token.id for token in found[2].tokens]


def test_a_text_that_was_put_back_goes_on_with_what_it_has_written(alone, shared):
    requests = [ask(prompt, sampling=MIXED[5], logprobs=1, prompt_logprobs=True) for prompt in PROMPTS]
    wanted = engine.run(shared(alone, slots=4), requests)
    running, found = shared(alone, slots=4, chunk=4), {}
    tickets = [running.add(request) for request in requests]
    for number in range(50):
        for ticket, piece in running.step().items():
            found.setdefault(ticket, []).append(piece)
        if number == 1:
            running._preempt(0)
    assert running.idle
    for ticket, whole in zip(tickets, wanted, strict=True):
        assert [token.id for piece in found[ticket] for token in piece.tokens] == [token.id for token in whole.tokens]
        assert [len(piece.prompt) for piece in found[ticket]] == [len(whole.prompt)] + [0] * (len(found[ticket]) - 1)


def test_the_penalty_forbids_repetition_when_it_is_strong(complete):
    (text,) = complete([ask([1, 2, 3], max_tokens=30, sampling=Sampling(temperature=0.0, repetition_penalty=1e6))])
    assert len({1, 2, 3, *text}) == 33


def test_lengths_and_settings_share_compiled_programs(alone, tokenizer):
    def compiled(length, how):
        running = engine.Engine(alone, tokenizer, slots=4)
        engine.run(running, [ask([1] * length + [i], sampling=how, seed=length) for i in range(4)])
        return set(running._compiled._compiled)

    assert compiled(4, GREEDY) == compiled(2, WARM) == compiled(8, MIXED[2]) == compiled(11, MIXED[3])


@pytest.mark.parametrize("length, expected", [(1, 16), (16, 16), (17, 32), (33, 50), (50, 50)])
def test_buckets_are_powers_of_two_up_to_the_context(length, expected):
    assert rows.bucket(length, largest=50) == expected


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"prompt": (1,) * 64}, "got a prompt of 64 tokens .* context of 64; allowed: at most 63"),
        ({"prompt": ()}, "got an empty prompt"),
        ({"prompt": (1, VOCABULARY)}, "got a prompt with ids from 1 to 390; allowed: 0 to 389"),
        ({"max_tokens": -1}, "got max_tokens -1; allowed: 0 or more"),
        ({"seed": -(2**63) - 1}, "got seed -9223372036854775809; allowed: -9223372036854775808 to 18446744073709551615"),
        ({"seed": 2**64}, "got seed 18446744073709551616"),
        ({"sampling": Sampling(logit_bias=((VOCABULARY, 1.0),))}, "got logit_bias of the id 390; allowed: 0 to 389"),
        ({"prompt_logprobs": True}, "got prompt_logprobs without logprobs"),
        ({"stop": ("a", "")}, "got an empty stop string"),
        ({"stop_ids": tuple(range(33))}, "allowed: at most 32 ids"),
        ({"logprobs": 21}, "got logprobs 21; allowed: 0 to 20"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(alone, changes, message, shared):
    running = shared(alone, slots=1)
    with pytest.raises(UserError, match=message):
        engine.run(running, [ask([1]), dataclasses.replace(ask([1]), **changes)])
    assert running.idle
