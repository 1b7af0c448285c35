import jax
import numpy as np
import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.generate import decode
from teleflm_jax.generate.sampling import Sampling
from tests import tiny

GREEDY = Sampling(temperature=0.0)
WARM = Sampling(temperature=1.0, top_p=1.0)
NEVER = 64
"""No id of the tiny vocabulary: nothing stops."""
PROMPTS = [[1, 20, 30], [1], [1, 9, 8, 7, 6, 5, 40]]


@pytest.fixture(scope="module")
def model():
    return tiny.model(tiny.config(context_length=64))


def test_each_greedy_token_is_the_likeliest_after_a_full_forward(model):
    found = decode.complete(model, PROMPTS, max_tokens=20, sampling=GREEDY, stop=NEVER)
    texts = np.zeros((3, 32), np.int32)
    for text, prompt, row in zip(texts, PROMPTS, found, strict=True):
        text[: len(prompt) + 20] = prompt + row
    likeliest = np.asarray(jax.jit(lambda model, texts: model(texts).argmax(axis=-1))(model, texts))
    assert found == [row[len(prompt) - 1 :][:20].tolist() for row, prompt in zip(likeliest, PROMPTS, strict=True)]


def test_a_row_does_not_depend_on_its_neighbours_or_the_chunk(model):
    settings = {"max_tokens": 21, "sampling": WARM, "seed": 3, "stop": NEVER}
    together = decode.complete(model, PROMPTS, **settings)
    assert decode.complete(model, PROMPTS[:1], **settings) == together[:1]
    chunks = list(decode.stream(model, PROMPTS, chunk=4, **settings))
    assert [[len(row) for row in chunk] for chunk in chunks] == [[1] * 3] + [[4] * 3] * 5
    assert [sum(parts, []) for parts in zip(*chunks, strict=True)] == together


def test_the_seed_decides_and_rows_of_one_prompt_differ(model):
    settings = {"max_tokens": 21, "sampling": WARM, "stop": NEVER}
    first = decode.complete(model, [[1, 5]] * 3, seed=1, **settings)
    assert first == decode.complete(model, [[1, 5]] * 3, seed=1, **settings)
    assert first != decode.complete(model, [[1, 5]] * 3, seed=2**32 - 1, **settings)
    assert first[0] != first[1] != first[2]


def test_a_text_ends_with_its_stop_token(model):
    free = decode.complete(model, PROMPTS, max_tokens=20, sampling=GREEDY, stop=NEVER)
    stop = free[0][5]
    cut = [row[: row.index(stop) + 1] if stop in row else row for row in free]
    assert decode.complete(model, PROMPTS, max_tokens=20, sampling=GREEDY, stop=stop) == cut


def test_texts_end_at_the_context(model):
    prompts = [*PROMPTS, [1] * 63]
    rows = decode.complete(model, prompts, max_tokens=500, sampling=GREEDY, stop=NEVER)
    assert [len(row) for row in rows] == [64 - len(prompt) for prompt in prompts]


def test_one_token_needs_no_second_step(model):
    chunks = decode.stream(model, PROMPTS, max_tokens=1, sampling=GREEDY)
    assert [[len(row) for row in chunk] for chunk in chunks] == [[1, 1, 1]]


def test_the_penalty_forbids_repetition_when_it_is_strong(model):
    (text,) = decode.complete(model, [[1, 2, 3]], max_tokens=30, sampling=Sampling(temperature=0.0, repetition_penalty=1e6), stop=NEVER)
    assert len({1, 2, 3, *text}) == 33


def test_lengths_share_compiled_programs(model):
    def compiled(length, seed):
        decode.complete(model, [[1] * length] * 3, max_tokens=20, sampling=GREEDY, seed=seed, stop=NEVER)
        return decode._begin._cache_size(), decode._continue._cache_size()

    assert compiled(5, seed=0) == compiled(3, seed=1) == compiled(9, seed=2) == compiled(12, seed=3)


@pytest.mark.parametrize("length, expected", [(1, 16), (16, 16), (17, 32), (33, 50), (50, 50)])
def test_buckets_are_powers_of_two_up_to_the_context(length, expected):
    assert decode.bucket(length, largest=50) == expected


@pytest.mark.parametrize(
    "prompts, changes, message",
    [
        ([[1] * 64], {}, "got a prompt of 64 tokens .* context of 64; allowed: at most 63"),
        ([], {}, "got no prompt"),
        ([[1]], {"max_tokens": 0}, "got max_tokens 0; allowed: 1 or more"),
        ([[1]], {"seed": -1}, "got seed -1"),
        ([[1]], {"seed": 2**32}, "got seed 4294967296"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(model, prompts, changes, message):
    with pytest.raises(UserError, match=message):
        decode.stream(model, prompts, **{"max_tokens": 1, "sampling": GREEDY} | changes)
