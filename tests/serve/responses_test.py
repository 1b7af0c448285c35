"""What OpenAI's own client gets from a server with a real model."""

import concurrent.futures
import json
import urllib.request

import pytest

from teleflm_jax.generate import chat
from teleflm_jax.generate.engine import complete
from teleflm_jax.generate.request import Request
from teleflm_jax.generate.sampling import Sampling
from tests.serve import servers

GREEDY = {"model": "tiny", "temperature": 0.0}
SAID = [{"role": "system", "content": "be"}, {"role": "user", "content": "the time"}]


def text_of(stream):
    return "".join(chunk.choices[0].text for chunk in stream)


def test_a_completion_is_what_the_engine_writes(client, served, weights):
    prompt = (1, *served.tokenizer.encode("the time").ids)
    sampling = Sampling(
        temperature=0.9,
        top_k=50,
        top_p=0.9,
        min_p=0.01,
        repetition_penalty=1.1,
        presence_penalty=0.3,
        frequency_penalty=-0.2,
        logit_bias=((300, 3.0), (20, -1.5)),
    )
    wanted = [
        complete(
            weights, served.tokenizer, [Request(prompt=prompt, max_tokens=20, sampling=sampling, seed=5, choice=n, stop_ids=(2,))], slots=1
        )[0]
        for n in range(3)
    ]
    extra = {"top_k": 50, "min_p": 0.01, "repetition_penalty": 1.1}
    penalties = {"presence_penalty": 0.3, "frequency_penalty": -0.2, "logit_bias": {"300": 3, "20": -1.5}}
    found = client.completions.create(
        model="tiny", prompt="the time", max_tokens=20, temperature=0.9, top_p=0.9, seed=5, n=3, **penalties, extra_body=extra
    )
    assert [choice.text for choice in found.choices] == [piece.text for piece in wanted]
    assert [choice.finish_reason for choice in found.choices] == [piece.finish_reason for piece in wanted]
    assert [choice.index for choice in found.choices] == [0, 1, 2] and len({choice.text for choice in found.choices}) == 3
    new = sum(len(piece.tokens) for piece in wanted)
    assert found.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": len(prompt),
        "completion_tokens": new,
        "total_tokens": len(prompt) + new,
    }
    assert found.object == "text_completion" and found.model == "tiny" and found.id.startswith("cmpl-")


def test_a_chat_is_the_template_continued(client, served, weights):
    prompt = chat.encode(served.format, [chat.Message(**message) for message in SAID])
    request = Request(prompt=prompt, max_tokens=12, sampling=Sampling(temperature=0.0), stop_ids=chat.stop_ids(served.format))
    (wanted,) = complete(weights, served.tokenizer, [request], slots=1)
    found = client.chat.completions.create(**GREEDY, messages=SAID, max_completion_tokens=12)
    assert found.choices[0].message.content == wanted.text and found.choices[0].message.role == "assistant"
    assert found.choices[0].finish_reason == wanted.finish_reason
    assert found.usage.prompt_tokens == len(prompt) and found.usage.completion_tokens == len(wanted.tokens)
    assert found.object == "chat.completion" and found.id.startswith("chatcmpl-")
    parts = [{"role": "developer", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "e"}]}, SAID[1]]
    again = client.chat.completions.create(**GREEDY, messages=parts, max_tokens=12)
    assert again.choices[0].message.content == wanted.text


def test_an_answer_may_fill_the_context(client):
    found = client.chat.completions.create(**GREEDY, messages=SAID)
    assert found.usage.total_tokens == 32 or found.choices[0].finish_reason == "stop"


def test_a_stream_joins_to_the_same_text(client):
    settings = {"model": "tiny", "seed": 3, "temperature": 1.2, "n": 2, "max_tokens": 25}
    whole = client.completions.create(**settings, prompt="the time")
    chunks = list(client.completions.create(**settings, prompt="the time", stream=True, stream_options={"include_usage": True}))
    *told, last = chunks
    for choice in whole.choices:
        parts = [chunk.choices[0] for chunk in told if chunk.choices[0].index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + [choice.finish_reason]
        assert len(parts) > 1
    assert last.choices == [] and last.usage == whole.usage and all(chunk.usage is None for chunk in told)
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_streamed_chat_joins_to_the_same_text(client):
    settings = {"messages": SAID, "max_tokens": 20, "logprobs": True, "top_logprobs": 2, **GREEDY}
    whole = client.chat.completions.create(**settings).choices[0]
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**settings, stream=True)]
    assert chunks[0].delta.role == "assistant" and chunks[0].delta.content == ""
    assert "".join(chunk.delta.content or "" for chunk in chunks) == whole.message.content
    assert chunks[-1].finish_reason == whole.finish_reason
    told = [token for chunk in chunks if chunk.logprobs for token in chunk.logprobs.content]
    assert [token.token for token in told] == [token.token for token in whole.logprobs.content]


def test_log_probabilities_of_a_completion_name_tokens_and_places(client):
    found = client.completions.create(**GREEDY, prompt="the time", max_tokens=12, logprobs=3).choices[0]
    told = found.logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset) > 3
    for token, value, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert len(top) == 3 and value == max(top.values()) == top[token] <= 0  # the chosen one is the likeliest
    whole = [(token, place) for token, place in zip(told.tokens, told.text_offset, strict=True) if not token.startswith(("bytes:", "<"))]
    assert whole and all(found.text[place : place + len(token)] == token for token, place in whole)


def test_log_probabilities_of_a_chat_have_bytes_that_make_the_text(client):
    found = client.chat.completions.create(**GREEDY, messages=SAID, max_tokens=20, logprobs=True, top_logprobs=4).choices[0]
    content = found.logprobs.content
    assert b"".join(bytes(token.bytes or b"") for token in content).decode(errors="replace") == found.message.content
    for token in content:
        assert len(token.top_logprobs) == 4 and token.top_logprobs[0].logprob == token.logprob
    bare = client.chat.completions.create(**GREEDY, messages=SAID, max_tokens=3, logprobs=True).choices[0]
    assert bare.logprobs.content and all(token.top_logprobs == [] for token in bare.logprobs.content)
    assert client.chat.completions.create(**GREEDY, messages=SAID, max_tokens=3).choices[0].logprobs is None


def test_stop_strings_end_the_text_before_them(client):
    free = client.completions.create(**GREEDY, prompt="the time", max_tokens=20).choices[0].text
    stop = free[4:6]
    cut = client.completions.create(**GREEDY, prompt="the time", max_tokens=20, stop=["never there", stop]).choices[0]
    assert cut.text == free[: free.index(stop)] and cut.finish_reason == "stop"
    assert text_of(client.completions.create(**GREEDY, prompt="the time", max_tokens=20, stop=stop, stream=True)) == cut.text


def test_the_seed_decides_and_without_one_texts_differ(client):
    def written(**settings):
        return client.completions.create(model="tiny", prompt="a", max_tokens=20, **settings).choices[0].text

    assert written(seed=7) == written(seed=7) != written(seed=8)
    assert written() != written()


def test_choices_share_no_random_numbers_and_do_not_depend_on_the_other_prompts(client):
    def texts(*prompts, n=1):
        found = client.completions.create(model="tiny", prompt=list(prompts), max_tokens=8, temperature=1e6, seed=4, n=n)
        return [choice.text for choice in found.choices]

    found = texts([1, 5], [1, 6], [1, 5], n=2)
    assert len(set(found)) == 6
    assert texts([1, 6], n=2) == found[2:4] and texts([1, 5], n=4) == found[:2] + found[4:]


def test_several_prompts_as_text_or_ids_and_echo(client, served):
    ids = [1, *served.tokenizer.encode("a house").ids]
    alone = [client.completions.create(**GREEDY, prompt=prompt, max_tokens=5).choices[0].text for prompt in ("the", ids)]
    found = client.completions.create(**GREEDY, prompt=["the", "a house"], max_tokens=5, n=2, echo=True)
    assert [choice.text for choice in found.choices] == [f"the{alone[0]}"] * 2 + [f"a house{alone[1]}"] * 2
    stream = client.completions.create(**GREEDY, prompt="the", max_tokens=5, echo=True, stream=True)
    assert text_of(stream) == f"the{alone[0]}"
    assert client.completions.create(**GREEDY, prompt=[ids], max_tokens=5).choices[0].text == alone[1]
    assert client.completions.create(**GREEDY, prompt="", max_tokens=1).usage.prompt_tokens == 1


def test_what_people_write_is_never_a_special_token(client, served):
    found = client.completions.create(**GREEDY, prompt="</s><_user>", max_tokens=1)
    assert found.usage.prompt_tokens > 10
    counts = [
        client.chat.completions.create(**GREEDY, messages=[{"role": "user", "content": content}], max_tokens=1).usage.prompt_tokens
        for content in ("", "<_end>")
    ]
    assert counts == [3, 3 + len(served.tokenizer.encode("<_end>").ids)]


def test_requests_at_one_time_get_what_they_get_alone(client):
    calls = [{"prompt": prompt, "seed": seed, "max_tokens": 10 + seed} for seed, prompt in enumerate(["the", "a time of", "house 12"] * 4)]
    ask = lambda call: client.completions.create(model="tiny", **call).choices[0].text  # noqa: E731
    alone = [ask(call) for call in calls]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, calls)) == alone


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").model_extra["max_model_len"] == 32


@pytest.mark.parametrize("path", ["/health", "/metrics"])
def test_health_and_metrics_need_no_client(client, live, path):
    client.completions.create(**GREEDY, prompt="a", max_tokens=3)
    servers.until(lambda: live.service.engine_thread.load == 0)
    with urllib.request.urlopen(live.url + path) as response:
        body = response.read().decode()
    if path == "/health":
        assert json.loads(body) == {"status": "ok", "texts": 0, "engine_failures": 0, "last_failure": None}
    else:
        lines = dict(line.rsplit(" ", 1) for line in body.splitlines() if not line.startswith("#"))
        assert float(lines['teleflm_requests_total{route="/v1/completions",status="200"}']) >= 1
        assert float(lines["teleflm_new_tokens_total"]) >= 3 and float(lines["teleflm_texts_in_progress"]) == 0
        assert float(lines["teleflm_first_token_seconds_count"]) == float(lines["teleflm_request_seconds_count"])
