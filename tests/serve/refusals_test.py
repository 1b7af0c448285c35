"""Wrong requests: OpenAI's shape of an error, and nobody else is harmed."""

import dataclasses
import http.client
import json
import types

import openai
import pytest

from teleflm_jax.serve import protocol
from teleflm_jax.tokenizer import specials
from tests.serve import servers

RIGHT = {"model": "tiny", "prompt": "a", "max_tokens": 1}
CHUNKED = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
TALK = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}


def send(running, body, path="/v1/completions", method="POST", **headers):
    """Status, headers and JSON of the answer to raw bytes."""
    connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=servers.SECONDS)
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method, path, content, {"Content-Type": "application/json"} | headers)
    with connection.getresponse() as response:
        found = response.status, response.headers, json.loads(response.read())
    connection.close()
    return found


WITH_A_TEXT = (
    b'{"model": "tiny", "prompt": "a%s"}',
    b'{"model": "tiny", "prompt": "a", "%s": 1}',
    b'{"model": "%s", "prompt": "a"}',
    b'{"model": "tiny", "prompt": "a", "stop": ["%s"]}',
    b'{"model": "tiny", "prompt": "a", "user": "%s"}',
    b'{"model": "tiny", "prompt": "a", "logit_bias": {"%s": 1}}',
    b'{"model": "tiny", "messages": [{"role": "%s", "content": "a"}]}',
)
"""Where a text may have half a character in it."""


def user(content):
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    "change, param, message",
    [
        ({"model": None}, "model", "got model that is null; allowed: the string 'tiny'"),
        ({"prompt": 5}, "prompt", "got a prompt that is 5; allowed: a string, an array of ids from 0 to 389"),
        ({"prompt": []}, "prompt", "an array of length 0"),
        ({"prompt": [1, "a"]}, "prompt", "an array of length 2"),
        ({"prompt": [1, 390]}, "prompt", "an array of length 2"),
        ({"prompt": [True]}, "prompt", "an array of length 1"),
        ({"prompt": ["a"] * 5}, "prompt", "got 5 prompts; allowed: at most 4"),
        ({"prompt": ["a", "b", "c"], "n": 2}, "n", "got 3 prompts with n 2; allowed: at most 4 choices"),
        ({"max_tokens": -1}, "max_tokens", "got max_tokens that is -1; allowed: a whole number from 0"),
        ({"max_tokens": 1.5}, "max_tokens", "got max_tokens that is 1.5"),
        ({"max_tokens": "1"}, "max_tokens", "got max_tokens that is a string of length 1"),
        ({"max_tokens": True}, "max_tokens", "got max_tokens that is true"),
        ({"n": 5}, "n", "allowed: a whole number from 1 to 4"),
        ({"temperature": -1}, "temperature", "got temperature -1.0; allowed: a number from 0"),
        ({"temperature": "hot"}, "temperature", "got temperature that is a string of length 3; allowed: a number"),
        ({"top_p": -0.1}, "top_p", "got top_p -0.1; allowed: 0 (the likeliest alone) to 1"),
        ({"top_p": [1]}, "top_p", "an array of length 1"),
        ({"top_k": 2**31}, "top_k", "got top_k that is 2147483648; allowed: a whole number from -1 to 2147483647"),
        ({"min_p": 2}, "min_p", "got min_p 2.0"),
        ({"repetition_penalty": 0}, "repetition_penalty", "got repetition_penalty 0.0"),
        ({"seed": 2**64}, "seed", "allowed: a whole number from -9223372036854775808 to 18446744073709551615"),
        ({"seed": -(2**63) - 1}, "seed", "allowed: a whole number from -9223372036854775808 to 18446744073709551615"),
        ({"stop": ["a"] * 65}, "stop", "got stop that is an array of length 65; allowed: a string or up to 64"),
        ({"stop": ["a" * 900] * 5}, "stop", "got stop strings of 4,500 characters together; allowed: at most 4,000"),
        ({"stop": ""}, "stop", "a string of length 0"),
        ({"stop": [1]}, "stop", "an array of length 1"),
        ({"stop": {}}, "stop", "an object of length 0"),
        ({"logprobs": 21}, "logprobs", "allowed: a whole number from 0 to 20"),
        ({"logprobs": True}, "logprobs", "got logprobs that is true"),
        ({"best_of": 2}, "best_of", "got best_of 2; allowed: as many as n, 1"),
        ({"stream": 1}, "stream", "got stream that is 1; allowed: true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "allowed: with stream true"),
        ({"suffix": "z"}, "suffix", "got suffix, which this server does not support"),
        ({"logit_bias": [5]}, "logit_bias", "got logit_bias that is an array of length 1; allowed: an object of at most 1,024 ids"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", "got logit_bias that is an object of length 1,025"),
        *(
            ({"logit_bias": {key: 1}}, "logit_bias", f"got logit_bias of {key!r}; allowed: ids")
            for key in ("390", "-1", "05", " 5", "5_0", "٣", "")
        ),
        *(({"logit_bias": {"5": wrong}}, "logit_bias", "allowed: a number from -100 to 100") for wrong in (101, -100.5, "1", True, None)),
        ({"presence_penalty": 2.1}, "presence_penalty", "got presence_penalty 2.1; allowed: -2 to 2"),
        ({"frequency_penalty": -3}, "frequency_penalty", "got frequency_penalty -3.0; allowed: -2 to 2"),
        ({"frequency_penalty": "1"}, "frequency_penalty", "got frequency_penalty that is a string of length 1"),
        ({"frequency_penalty": False}, "frequency_penalty", "got frequency_penalty that is false"),
        ({"é\u202e": 1}, "é\u202e", "got the unknown field 'é\\u202e'"),
        ({"messages": []}, "messages", "got the unknown field 'messages'"),
        ({"temprature": 1}, "temprature", "got the unknown field 'temprature'; allowed: model, stream"),
    ],
)
def test_a_wrong_completion_is_named(by_hand, change, param, message):
    with pytest.raises(openai.BadRequestError) as refused:
        by_hand.openai.post("/completions", body=RIGHT | change, cast_to=object)
    assert message in refused.value.body["message"]
    assert refused.value.body["param"] == param and refused.value.body["type"] == "invalid_request_error"
    assert by_hand.engine.idle


@pytest.mark.parametrize(
    "change, param, message",
    [
        ({"messages": None}, "messages", "got no messages"),
        ({"messages": []}, "messages", "got no messages"),
        ({"messages": ["a"]}, "messages[0]", "got messages[0] that is a string of length 1"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", "allowed: system, developer, user, assistant"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "messages[0].role", "without a known role"),
        ({"messages": user(None)}, "messages[0].content", "whose content is null; allowed: text"),
        ({"messages": user([{"type": "image_url", "image_url": {}}])}, "messages[0].content", "an array of length 1"),
        ({"messages": [{"role": "user", "content": "a", "name": 1}]}, "messages[0].name", "got messages[0] whose name is 1; allowed: text"),
        ({"messages": [{"role": "user", "content": "a", "weight": 1}]}, "messages[0].weight", "got messages[0] with 'weight'"),
        ({"tools": [{"type": "function"}]}, "tools", "got tools, which this server does not support"),
        ({"response_format": {"type": "json_object"}}, "response_format", "got response_format, which"),
        ({"top_logprobs": 2}, "top_logprobs", "got top_logprobs without logprobs"),
        ({"logprobs": 2}, "logprobs", "got logprobs that is 2; allowed: true or false"),
        ({"max_tokens": 0}, "max_tokens", "got max_tokens that is 0; allowed: a whole number from 1"),
        ({"max_completion_tokens": 2}, "max_tokens", "got max_tokens and another max_completion_tokens"),
        ({"prompt": "a"}, "prompt", "got the unknown field 'prompt'"),
    ],
)
def test_a_wrong_chat_is_named(by_hand, change, param, message):
    with pytest.raises(openai.BadRequestError) as refused:
        by_hand.openai.post("/chat/completions", body=TALK | change, cast_to=object)
    assert message in refused.value.body["message"] and refused.value.body["param"] == param


@pytest.mark.parametrize(
    "body, path", [(RIGHT | {"prompt": "a" * 99}, "/completions"), (TALK | {"messages": user("a" * 99)}, "/chat/completions")]
)
def test_a_prompt_that_fills_the_context_has_openais_code(by_hand, body, path):
    with pytest.raises(openai.BadRequestError, match="for a context of 32; allowed: at most 31; shorten it") as refused:
        by_hand.openai.post(path, body=body, cast_to=object)
    assert refused.value.code == "context_length_exceeded"


def test_log_probabilities_of_prompts_are_bounded(by_hand, monkeypatch):
    monkeypatch.setattr(protocol, "MAX_PROMPT_LOGPROBS", 2 * 3 * 21 - 1)
    status, _, told = send(by_hand, RIGHT | {"echo": True, "logprobs": 20, "prompt": [[1] * 3] * 2})
    assert status == 400 and told["error"]["param"] == "echo"
    assert "got echo with 126 log-probabilities of the prompts' tokens; allowed: 125" in told["error"]["message"]


@pytest.mark.parametrize(
    "body, path",
    [
        (RIGHT | {"prompt": "9" * (4_000_000)}, "/v1/completions"),
        (RIGHT | {"prompt": ["a", "9" * (4_000_000)]}, "/v1/completions"),
        (RIGHT | {"prompt": [4] * 1_300_000}, "/v1/completions"),
        (RIGHT | {"prompt": [[4] * 1_300_000]}, "/v1/completions"),
        (TALK | {"messages": user("9" * 4_000_000)}, "/v1/chat/completions"),
        (TALK | {"messages": user([{"type": "text", "text": "9" * 9_999}] * 99)}, "/v1/chat/completions"),
    ],
)
def test_a_prompt_far_too_long_is_refused_before_it_is_encoded(by_hand, monkeypatch, body, path):
    encoded = []
    four = types.SimpleNamespace(ids=[4], offsets=[(0, 0)])
    monkeypatch.setattr(specials, "encoding", lambda _, text: encoded.append(text) or four)
    status, _, told = send(by_hand, body, path)
    assert status == 400 and told["error"]["code"] == "context_length_exceeded"
    assert told["error"]["param"] == ("prompt" if "prompt" in body else "messages") and all(len(text) < 99 for text in encoded)


@pytest.mark.parametrize(
    "body, status, message",
    [
        (b"{", 400, "got a body that is not JSON"),
        (b"\xff", 400, "got a body that is not JSON"),
        (b"[" * 100_000, 400, "got a body that is not JSON"),
        (b"[]", 400, "got a body that is an array of length 0; allowed: a JSON object"),
        (b'{"model": "tiny", "prompt": "a", "temperature": NaN}', 400, "got temperature that is NaN"),
        (b'{"model": "tiny", "prompt": "a", "max_tokens": -Infinity}', 400, "got max_tokens that is -Infinity"),
        (b'{"model": "tiny", "prompt": "a", "logit_bias": {"5": NaN}}', 400, "got logit_bias that is NaN"),
        (b'{"model": "tiny", "prompt": "a", "seed": 1e400}', 400, "got seed that is Infinity"),
        (b'{"model": "tiny", "prompt": "a", "prompt": "b"}', 400, "a duplicate name"),
        (b'{"model": "tiny", "prompt": "a", "metadata": {"a": "b", "a": "c"}}', 400, "a duplicate name"),
        (b'{"model": "tiny", "prompt": "a", "metadata": ' + b"[" * 99 + b"]" * 99 + b"}", 400, "more than 64 levels"),
        (b'{"model": "tiny", "prompt": "a", "temperature": 1e999}', 400, "got temperature that is Infinity"),
        (b'{"model": "tiny", "prompt": "a", "seed": ' + b"9" * 5000 + b"}", 400, "got a body that is not JSON"),
        (b"", 400, "got a body that is not JSON"),
        *((body % rb"\ud800", 400, "a string with a lone surrogate") for body in WITH_A_TEXT),
        *((body % b"\xed\xa0\x80", 400, "a string with a lone surrogate") for body in WITH_A_TEXT),
        (b" " * (5 << 20), 413, "got a body of more than 4,194,304 bytes"),
    ],
)
def test_a_body_that_is_no_request(by_hand, body, status, message):
    found, _, told = send(by_hand, body)
    assert found == status and message in told["error"]["message"] and told["error"].keys() == {"message", "type", "param", "code"}


def test_a_body_without_a_length_is_measured_as_it_comes(by_hand):
    connection = http.client.HTTPConnection(by_hand.url.removeprefix("http://"), timeout=servers.SECONDS)
    connection.request("POST", "/v1/completions", iter([b" " * (1 << 20)] * 5), encode_chunked=True, headers=CHUNKED)
    assert connection.getresponse().status == 413
    connection.close()


def test_unknown_models_and_paths(by_hand):
    with pytest.raises(openai.NotFoundError, match="got the model 'gpt'; allowed: 'tiny'") as refused:
        by_hand.openai.completions.create(model="gpt", prompt="a")
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        by_hand.openai.models.retrieve("gpt/2")
    status, _, told = send(by_hand, None, "/v1/embeddings")
    assert status == 404 and "allowed: POST to /v1/completions" in told["error"]["message"]
    assert send(by_hand, None, "/v1/completions", "GET")[0] == 405


def test_fields_without_effect_and_neutral_values_are_let_through(by_hand):
    by_hand.engine.orders.put("step")
    neutral = {"tools": [], "response_format": {"type": "text"}, "logit_bias": None, "presence_penalty": 0, "user": "me", "seed": None}
    messages = [{"role": "assistant", "content": "a", "refusal": None, "tool_calls": []}, *user("b")]
    found = by_hand.openai.post("/chat/completions", body=TALK | neutral | {"messages": messages}, cast_to=object)
    assert found["choices"][0]["message"]["content"] == "0 "


def test_a_key_is_asked_for_where_the_server_has_one(served):
    with servers.running(served, servers.ByHand, slots=1, key="sesame é") as running:
        for headers in ({}, {"Authorization": "Bearer sesam"}, {"Authorization": "sesame"}):
            status, _, told = send(running, RIGHT, **headers)
            assert status == 401 and told["error"]["code"] == "invalid_api_key"
        assert send(running, None, "/v1/models", "GET")[0] == 401
        assert send(running, None, "/health", "GET")[0] == 200
        assert send(running, None, "/v1/models", "GET", Authorization="Bearer sesame é".encode())[0] == 200


def test_a_model_without_a_template_serves_completions_alone(served):
    mute = dataclasses.replace(served, format=None, no_chat="got a folder without chat_template.jinja")
    with servers.running(mute, servers.ByHand, slots=1) as running:
        status, _, told = send(running, TALK, "/v1/chat/completions")
        assert status == 400 and told["error"]["message"] == "got a folder without chat_template.jinja"
