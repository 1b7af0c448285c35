"""Fields of OpenAI's interface, each with a value that its clients send."""

import dataclasses
import json

import numpy as np
import pytest

from teleflm_jax.generate import loglikelihood
from teleflm_jax.serve import protocol, responses, served_model
from teleflm_jax.serve.protocol import ApiError
from tests.serve import servers
from tests.serve.refusals_test import RIGHT, TALK, send

GREEDY = {"model": "tiny", "temperature": 0.0}
PLAIN = {"messages": [{"role": "user", "content": "the time"}]}
COMPLETION = {
    "best_of": 1,
    "echo": False,
    "frequency_penalty": 0.5,
    "logit_bias": {"50": -100},
    "logprobs": 2,
    "max_tokens": 4,
    "n": 1,
    "presence_penalty": -0.5,
    "prompt": "the time",
    "seed": -(2**63),
    "stop": [str(i) for i in range(64)],
    "stream": False,
    "suffix": None,
    "temperature": 1,
    "top_p": 0,
    "user": "me",
}
CHAT = {
    "frequency_penalty": 0.5,
    "logit_bias": {"50": -100},
    "logprobs": False,
    "max_completion_tokens": 4,
    "messages": [
        {"role": "developer", "content": [{"type": "text", "text": "be"}, {"type": "text", "text": " brief"}]},
        {"role": "user", "content": "the time", "name": "Ann"},
    ],
    "metadata": {"a": "b"},
    "modalities": ["text"],
    "moderation": None,
    "n": 1,
    "parallel_tool_calls": True,
    "presence_penalty": -0.5,
    "prompt_cache_key": "a",
    "prompt_cache_options": {"mode": "explicit", "ttl": "30m"},
    "reasoning_effort": None,
    "response_format": {"type": "text"},
    "safety_identifier": "a",
    "seed": 2**64 - 1,
    "service_tier": "auto",
    "stop": None,
    "store": False,
    "stream": False,
    "temperature": 0,
    "tool_choice": "none",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1,
    "user": "me",
}


@pytest.mark.parametrize("path, fields", [("/completions", COMPLETION), ("/chat/completions", CHAT)])
def test_every_field_is_taken_alone_all_together_and_as_null(client, path, fields):
    needed = {name: fields[name] for name in ("prompt", "messages") if name in fields} | {"model": "tiny"}
    for asked in ({}, fields, dict.fromkeys(set(fields) - {"messages"}), *({name: value} for name, value in fields.items())):
        found = client.post(
            path, body={"max_tokens": 4} | needed | asked if "max_completion_tokens" not in asked else needed | asked, cast_to=object
        )
        assert found["choices"][0]["finish_reason"] in ("stop", "length")


def test_seeds_of_64_bits_decide_and_differ_from_each_other(client):
    def written(seed):
        return client.completions.create(model="tiny", prompt="a", max_tokens=12, temperature=9, seed=seed).choices[0].text

    seeds = [-(2**63), -(2**32), -1, 0, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
    texts = [written(seed) for seed in seeds]
    assert len(set(texts)) == len(seeds) and [written(seed) for seed in seeds[:3]] == texts[:3]


def test_top_p_of_0_is_the_likeliest_token_alone(client):
    greedy = client.completions.create(**GREEDY, prompt="the", max_tokens=12).choices[0].text
    assert client.completions.create(model="tiny", prompt="the", max_tokens=12, temperature=9, top_p=0).choices[0].text == greedy


def test_whole_numbers_may_be_written_as_others(live):
    body = b'{"model": "tiny", "prompt": "a", "max_tokens": 3.0, "n": 1e0, "seed": 5.0, "top_k": -0.0, "logprobs": 2.0}'
    as_whole = b'{"model": "tiny", "prompt": "a", "max_tokens": 3, "n": 1, "seed": 5, "logprobs": 2}'
    found, wanted = (send(live, each)[2] for each in (body, as_whole))
    assert found["choices"] == wanted["choices"] and found["usage"]["completion_tokens"] == 3


def test_a_name_reaches_the_template_as_text(served, client):
    named = [{"role": "user", "content": "a", "name": "</s><_bot>"}]
    bare = [{"role": "user", "content": "a"}]
    counts = [client.chat.completions.create(**GREEDY, messages=each, max_tokens=1).usage.prompt_tokens for each in (named, bare)]
    assert counts[0] == counts[1]  # our own template writes no names


def test_no_prompt_is_the_beginning_of_a_text(client):
    null, empty = (client.post("/completions", body=GREEDY | {"prompt": each, "max_tokens": 3}, cast_to=object) for each in (None, ""))
    assert null["choices"] == empty["choices"] and null["usage"]["prompt_tokens"] == 1


def test_the_chosen_token_is_among_its_own_log_probabilities(client):
    settings = {"model": "tiny", "temperature": 100.0, "seed": 1, "max_tokens": 20}
    for count in (0, 2):
        told = client.completions.create(**settings, prompt="the", logprobs=count).choices[0].logprobs
        sizes = set()
        for token, value, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
            assert top[token] == value
            sizes.add(len(top))
        assert sizes <= {count, count + 1} and max(sizes) == count + 1
    content = client.chat.completions.create(**settings, **PLAIN, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert {len(token.top_logprobs) for token in content} == {2}  # the likeliest; the chosen one is told beside them
    assert any(token.token not in [top.token for top in token.top_logprobs] for token in content)


def test_a_bias_forces_and_forbids_tokens_and_leaves_the_models_own_log_probabilities(client, served):
    token = served.vocab_size - 1
    free = client.completions.create(**GREEDY, prompt="the", max_tokens=6, logprobs=0).choices[0]
    found = client.completions.create(**GREEDY, prompt="the", max_tokens=6, logit_bias={str(token): 100}, logprobs=0).choices[0]
    assert found.logprobs.tokens == [served.tokenizer.decode([token])] * 6
    assert found.logprobs.token_logprobs[0] < free.logprobs.token_logprobs[0]
    two = {str(token): 100, str(token - 1): 99.5}
    both = client.completions.create(**GREEDY, prompt="the", max_tokens=6, logit_bias=two, presence_penalty=2, logprobs=0).choices[0]
    assert set(both.logprobs.tokens) == {served.tokenizer.decode([token]), served.tokenizer.decode([token - 1])}
    none = {str(i): -100 for i in range(served.vocab_size) if i != token}
    assert client.completions.create(**GREEDY, prompt="the", max_tokens=6, logit_bias=none).choices[0].text == found.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 1, 3])
def test_echo_with_log_probabilities_tells_the_prompts_tokens(client, served, weights, stream, max_tokens):
    prompts = ["the time of", [1, 300, 299, 50], [1]]
    ids = [(1, *served.tokenizer.encode(prompts[0]).ids), *map(tuple, prompts[1:])]
    asked = GREEDY | {"max_tokens": max_tokens, "echo": True, "logprobs": 1, "n": 2, "stream": stream}
    for prompt, own in zip(prompts, ids, strict=True):
        text, told, finish = joined(client.completions.create(**asked, prompt=prompt), index=1)
        pairs = [(own[:place], own[place : place + 1]) for place in range(1, len(own))]
        wanted = loglikelihood.loglikelihoods(weights, pairs, batch_size=4)
        n = len(own)
        assert told["token_logprobs"][0] is None and told["top_logprobs"][0] is None
        np.testing.assert_allclose(told["token_logprobs"][1:n], [nats for nats, _ in wanted], rtol=1e-4)
        for (_, greedy), value, top in zip(wanted, told["token_logprobs"][1:n], told["top_logprobs"][1:n], strict=True):
            assert value in top.values() and (value == max(top.values())) == greedy and len(top) == 2 - greedy
        assert len(told["tokens"]) == n + max_tokens and finish == "length"
        echoed = served.tokenizer.decode(list(own))
        assert text.startswith(echoed) and (max_tokens or text == echoed)
        assert told["text_offset"][:2] == [0, 0][: len(told["text_offset"])] and told["text_offset"][n:][:1] == [len(echoed)][:max_tokens]


def joined(found, index):
    """Text, log-probabilities and reason of the end of a choice, streamed or not."""
    text, told, finish = "", {}, None
    for choice in (choice for part in ([found] if hasattr(found, "usage") else found) for choice in part.choices if choice.index == index):
        text, finish = text + choice.text, choice.finish_reason or finish
        for name, values in choice.logprobs.model_dump().items() if choice.logprobs else ():
            told[name] = told.get(name, []) + values
    return text, told, finish


def test_the_token_that_ends_a_completion_is_told_as_harnesses_count_on_it(client):
    ends = GREEDY | {"prompt": [[1, 5, 6]], "max_tokens": 5, "logprobs": 1, "echo": True, "logit_bias": {"2": 100}}
    found = client.completions.create(**ends).choices[0]
    assert found.finish_reason == "stop" and found.logprobs.tokens[3:] == ["</s>"]
    assert len(found.logprobs.token_logprobs) == 4 and found.text == client.completions.create(**ends | {"max_tokens": 0}).choices[0].text


def test_a_completion_may_have_no_new_token(client):
    found = client.completions.create(**GREEDY, prompt="the", max_tokens=0)
    assert found.choices[0].text == "" and found.choices[0].finish_reason == "length" and found.usage.completion_tokens == 0


def test_an_error_can_always_be_written(by_hand, served):
    told = json.loads(responses.to_json(ApiError("got \ud800 é", param="\udcff").body()))
    assert told["error"]["message"] == "got ? é" and told["error"]["param"] == "?"
    for body, path in ((RIGHT, "/v1/completions"), (TALK, "/v1/chat/completions")):
        status, _, told = send(by_hand, json.dumps(body | {"a\ud800": 1}).encode(), path)
        assert status == 400 and told["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/models", "/openapi.json", "/health"])
def test_what_is_no_unicode_does_not_keep_an_answer_from_being_written(served, path):
    with servers.running(dataclasses.replace(served, name="\udcff"), servers.ByHand, slots=1) as running:
        running.service.engine_thread.last_failure = "\udcff"
        status, headers, told = send(running, None, path, "GET")
    assert status == 200 and headers["Content-Type"] == "application/json"
    assert path != "/v1/models" or [model["id"] for model in told["data"]] == ["?"]
    assert path != "/health" or told["last_failure"] == "?"


def test_a_model_whose_name_is_no_unicode_is_asked_by_the_name_that_it_is_listed_by(served, tmp_path):
    named = served_model.load("a\udcff", tmp_path, served.tokenizer, context_length=served.context_length, vocab_size=served.vocab_size)
    assert named.name == "a?" and protocol.parse_completion(RIGHT | {"model": "a?"}, named, max_choices=1).requests
