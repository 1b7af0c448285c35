"""Chats without `max_tokens` whose caches do not fit the memory together."""

import concurrent.futures

import pytest

from teleflm_jax.generate.cache_budget import CacheBudget
from teleflm_jax.generate.engine import Engine
from tests import tiny
from tests.serve import servers

CONTEXT = 512


def decoder_of_large_caches():
    """A model of one head, whose caches take more than reading a prompt does."""
    sizes = {"num_layers": 4, "d_model": 64, "num_heads": 1, "num_kv_heads": 1}
    return tiny.decoder(tiny.config(vocab_size=servers.VOCABULARY, context_length=CONTEXT, **sizes))


@pytest.mark.slow
def test_chats_that_do_not_fit_together_and_their_neighbours_are_answered_as_by_a_server_with_room(tmp_path):
    served, weights = servers.tiny_served(tmp_path, context_length=CONTEXT), decoder_of_large_caches()
    one = CacheBudget(decoder=weights)._required((1, CONTEXT), (1, CONTEXT))
    answers, failures = [], []
    for budget, at_once in ((CacheBudget(decoder=weights), 1), (CacheBudget(decoder=weights, bytes=one), 4)):
        assert budget.context_length == CONTEXT and budget.fits((4, CONTEXT)) == (at_once == 1)
        with servers.running(served, lambda budget=budget: Engine(weights, served.tokenizer, slots=4, budget=budget), slots=4) as running:
            with running.client() as client, concurrent.futures.ThreadPoolExecutor(at_once) as pool:

                def ask(number, client=client):
                    limits = {} if number < 4 else {"max_tokens": 9}
                    talk = [{"role": "user", "content": "the time " * (number + 1)}]
                    made = client.chat.completions.create(model="tiny", messages=talk, seed=number, **limits)
                    return made.choices[0].message.content, made.usage.completion_tokens

                answers.append(list(pool.map(ask, range(5))))
            failures.append(running.service.engine_thread.failures)
    assert answers[0] == answers[1] and failures == [0, 0]
