"""Caches that grow and shrink, memory that ends, programs that are not ready, engines that fail."""

import dataclasses
import threading

import jax
import numpy as np
import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.generate import engine, programs
from teleflm_jax.generate.cache_budget import CacheBudget
from teleflm_jax.generate.request import Request
from teleflm_jax.generate.sampling import GREEDY, Sampling
from tests import tiny

VOCABULARY, CONTEXT = 390, 1024
SETTINGS = (GREEDY, Sampling(temperature=1.0, top_p=1.0), Sampling(temperature=0.9, top_k=9, repetition_penalty=1.2))


@pytest.fixture(scope="module")
def long():
    """A decoder with a long context."""
    return tiny.decoder(tiny.config(vocab_size=VOCABULARY, context_length=CONTEXT, num_layers=1))


@pytest.fixture
def make(long, shared):
    """An engine."""
    return lambda **changes: shared(long, **{"slots": 4} | changes)


def ask(number, max_tokens=CONTEXT, **changes):
    return Request(prompt=(1, 20 + number, 30), max_tokens=max_tokens, sampling=SETTINGS[number % 3], seed=number, **changes)


def step(running, texts):
    """Take a step; tokens by ticket are added to `texts`. Returns the tickets."""
    pieces = running.step()
    for ticket, piece in pieces.items():
        texts.setdefault(ticket, []).extend(token.id for token in piece.tokens)
    return set(pieces)


def finish(running, texts, look=lambda: None):
    """Step to the end; tokens by ticket are added to `texts`."""
    while not running.idle:
        look()
        step(running, texts)
    return [texts[ticket] for ticket in sorted(texts)]


@pytest.fixture(scope="module")
def alone(long, shared):
    """Tokens of each text, written alone up to the end of the context."""
    found = {}

    def run(number, max_tokens=CONTEXT):
        if (number, max_tokens) not in found:
            (found[number, max_tokens],) = finish(one := shared(long, slots=1), {one.add(ask(number, max_tokens)): []})
        return found[number, max_tokens]

    return run


def test_rows_are_as_long_as_the_text_and_not_as_its_limit(make, alone):
    running, seen = make(), []
    ticket = running.add(ask(0))
    (text,) = finish(running, {ticket: []}, lambda: seen.append((running._size or (0, 0))[1]))
    assert text == alone(0) and len(text) == CONTEXT - 3
    changes = [slots for slots, before in zip(seen[1:], seen, strict=False) if slots != before]
    assert changes == [256, 512, 1024]


def test_a_text_that_stays_short_has_its_slots_at_once(make, alone):
    running, seen, texts = make(), set(), {}
    running.add(ask(0, max_tokens=40))
    finish(running, texts, lambda: seen.add(running._size))
    assert seen == {None, (1, 64)} and texts[0] == alone(0, 40)


def test_greedy_tokens_are_the_likeliest_after_a_full_forward_in_a_cache_that_grew(alone):
    model = tiny.model(tiny.config(vocab_size=VOCABULARY, context_length=CONTEXT, num_layers=1))
    whole = np.array([[*ask(0).prompt, *alone(0)]], np.int32)
    assert np.asarray(tiny.logits(model, whole).argmax(axis=-1))[0, 2:-1].tolist() == alone(0)


def test_rows_shrink_when_the_long_text_leaves_and_the_others_do_not_notice(make, alone):
    running, sizes, texts = make(chunk=8), [], {}
    long_text, *others = (running.add(ask(number)) for number in range(3))
    while running._batch == [] or running._size[1] < CONTEXT:
        step(running, texts)
    running.drop(long_text), running.drop(others[0])
    others[0] = running.add(ask(1, max_tokens=300))
    running.drop(others[1])
    del texts[long_text], texts[1], texts[2]
    (text,) = finish(running, texts, lambda: sizes.append(running._size))
    assert text == alone(1, 300) and sizes[0] == (4, CONTEXT) and (1, 256) in sizes and sizes[-1] == (1, 512)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A budget that counts nothing but tokens of caches."""

    most: int
    context_length: int

    def fits(self, sizes, prompts=(0, 0)):
        return sizes[0] * sizes[1] + prompts[0] * prompts[1] <= self.most


def test_texts_that_outgrow_the_memory_wait_for_older_ones_and_become_the_same(make, alone):
    budget = Tokens(2 * CONTEXT, CONTEXT)
    running, waited, texts = make(budget=budget), set(), {}
    for number in range(4):
        running.add(ask(number))

    def look():
        assert not running._size or budget.fits(running._size)
        waited.update(set(running._waiting) & {ticket for ticket, text in texts.items() if text})

    assert finish(running, texts, look) == [alone(number) for number in range(4)]
    assert waited == {2, 3}  # with 512 tokens each; four of 512 fit, and two of 1,024


def test_what_does_not_fit_now_waits_and_harms_nobody(make, alone):
    running, most, texts = make(budget=Tokens(200, 256)), [], {}
    for number in range(4):
        running.add(ask(number, max_tokens=40))
    finish(running, texts, lambda: most.append(len(running._running)))
    assert max(most) == 2 and [texts[number] for number in range(4)] == [alone(number, 40) for number in range(4)]


def test_what_never_fits_is_refused_at_once(make, long):
    running = make(budget=CacheBudget(decoder=long, bytes=CacheBudget(decoder=long)._required((1, 512), (1, 512))))
    with pytest.raises(UserError, match="got a prompt of 512 tokens .* for a context of 512; allowed: at most 511"):
        running.add(Request(prompt=(1,) * 512, max_tokens=1))
    with pytest.raises(UserError, match="got 0.000 GB for texts on each device; allowed: at least 0.0.*, for one of 256 tokens"):
        make(budget=CacheBudget(decoder=long, bytes=1000))


def test_texts_go_on_while_another_size_is_compiled(make, alone, long, monkeypatch):
    wanted, go, original = threading.Event(), threading.Event(), programs._Lowered.prefill

    def held(self, prompts, length):
        if length == 64:
            wanted.set()
            assert go.wait(60)
        return original(self, prompts, length)

    monkeypatch.setattr(programs._Lowered, "prefill", held)
    running, texts = make(compiled=programs.Programs(long, chunk=16, background=True)), {}
    first = running.add(ask(0, max_tokens=900))
    while first not in running.step():
        pass
    other = Request(prompt=(1,) * 40, max_tokens=5, sampling=GREEDY)
    second, compilers = running.add(other), set()
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilers.add(threading.current_thread().name) if "backend_compile" in event else None
    )
    pieces = [running.step() for _ in range(5)]
    assert wanted.wait(60) and all(set(piece) == {first} and piece[first].tokens for piece in pieces)
    go.set()
    finish(running, texts)
    assert texts[second] == finish(one := make(), {one.add(other): []})[0]
    assert {name for name in compilers if not name.startswith("MainThread")} == {name for name in compilers if name.startswith("compile")}


def test_a_text_that_needs_a_longer_row_is_held_until_there_is_one(make, alone, long, monkeypatch):
    go, original = threading.Event(), programs._Lowered.decode

    def held(self, count, slots, alternatives):
        assert slots < CONTEXT or go.wait(60)
        return original(self, count, slots, alternatives)

    monkeypatch.setattr(programs._Lowered, "decode", held)
    running, texts = make(compiled=programs.Programs(long, chunk=16, background=True)), {}
    longest = Request(prompt=(1,) * 200, max_tokens=400, sampling=GREEDY)
    old, young = running.add(longest), running.add(ask(1, max_tokens=500))
    go_on = []
    while not running.idle:
        go_on.append(step(running, texts))
        if go_on[-3:] == [{young}] * 3:
            break
    assert go_on[-3:] == [{young}] * 3 and len(texts[old]) < 400
    go.set()
    assert finish(running, texts) == [finish(one := make(slots=1), {one.add(longest): []})[0], alone(1, 500)]


def test_a_text_grows_while_the_programs_of_another_are_compiled(make, alone, long, monkeypatch):
    go, original = threading.Event(), programs.Programs._compile

    def held(self, program):
        assert program[0] not in ("prefill", "insert_cache") or 64 not in program or go.wait(60)
        return original(self, program)

    monkeypatch.setattr(programs.Programs, "_compile", held)
    running, texts = make(compiled=programs.Programs(long, chunk=16, background=True)), {}
    first = running.add(ask(0, max_tokens=700))
    while first not in step(running, texts):
        pass
    second = running.add(Request(prompt=(1,) * 40, max_tokens=5, sampling=GREEDY))
    while first in {text.ticket for text in running.sequences}:
        step(running, texts)
    assert texts[first] == alone(0, 700) and second not in texts
    go.set()
    finish(running, texts)
    assert len(texts[second]) == 5


def test_a_new_text_waits_for_the_length_that_the_others_will_have(make, long, monkeypatch):
    wanted, original = [], programs._Lowered.decode

    def recorded(self, count, slots, alternatives):
        wanted.append((count, slots))
        return original(self, count, slots, alternatives)

    monkeypatch.setattr(programs._Lowered, "decode", recorded)
    monkeypatch.setattr(engine, "SHRINK_FACTOR", CONTEXT)  # a batch that shrinks has other lengths compiled, at times of its own
    running, texts = make(compiled=programs.Programs(long, chunk=16, background=True)), {}
    first = running.add(ask(0))
    while first not in step(running, texts):
        pass
    running.add(ask(1, max_tokens=9))
    finish(running, texts)
    assert wanted[0] == (1, 512) and {slots for count, slots in wanted if count == 2} == {CONTEXT}


def test_a_program_that_cannot_be_compiled_is_tried_again(make, long, monkeypatch):
    original = programs._Lowered.prefill
    monkeypatch.setattr(programs._Lowered, "prefill", lambda *_: 1 / 0)
    collection = programs.Programs(long, chunk=16, background=True)
    running = make(compiled=collection)
    running.add(ask(0, max_tokens=3))
    with pytest.raises(ZeroDivisionError):
        finish(running, {})
    monkeypatch.setattr(programs._Lowered, "prefill", original)
    again = make(compiled=collection)
    again.resume(running.sequences)
    assert len(finish(again, {})[0]) == 3


@pytest.mark.parametrize("at", ["decode", "prefill", "resize_cache"])
def test_another_engine_goes_on_with_the_texts_of_one_that_failed(make, alone, monkeypatch, at):
    running, texts = make(), {}
    for number in range(3):
        running.add(ask(number, max_tokens=300))
    for _ in range(5):
        step(running, texts)
    running.add(ask(3, max_tokens=30))
    original = programs.Programs.__getitem__

    def fail(self, program):
        if program[0] == at:
            raise RuntimeError("RESOURCE_EXHAUSTED")
        return original(self, program)

    monkeypatch.setattr(programs.Programs, "__getitem__", fail)
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        finish(running, texts)
    monkeypatch.setattr(programs.Programs, "__getitem__", original)
    another = make()
    another.resume(running.sequences)
    assert finish(another, texts) == [*(alone(number, 300) for number in range(3)), alone(3, 30)]
