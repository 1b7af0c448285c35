"""Chat templates that clients steer, and that hang."""

import dataclasses
import os
import signal
import threading

import openai
import pytest

from teleflm_jax.generate import chat, template
from teleflm_jax.serve import protocol
from tests.serve import servers
from tests.serve.refusals_test import RIGHT, TALK, send, user

SOURCE = (
    "{% for message in messages %}{{ message.content }}{% endfor %}{{ '<_bot>' if enable_thinking is false }}"
    "{% if messages[0].content == 'hang' %}{% for a in range(99999) %}{{ range(99999) | sum }}{% endfor %}{% endif %}"
)


@pytest.fixture
def templated(served, tmp_path):
    (tmp_path / chat.TEMPLATE).write_text(SOURCE, encoding="utf-8")
    return dataclasses.replace(served, format=chat.load(tmp_path, served.tokenizer))


def test_variables_of_a_request_are_its_own(templated):
    prompt = lambda **fields: protocol.parse_chat(TALK | fields, templated, max_choices=1).requests[0].prompt  # noqa: E731
    bot = templated.tokenizer.token_to_id("<_bot>")
    assert prompt(chat_template_kwargs={"enable_thinking": False}) == (*prompt(), bot)
    assert prompt(chat_template_kwargs={"enable_thinking": True}) == prompt(chat_template_kwargs=None) == prompt() != ()


@pytest.mark.parametrize(
    "change, param, message",
    [
        ({"chat_template_kwargs": []}, "chat_template_kwargs", "got chat_template_kwargs that are not an object; allowed: an object"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "with the name 'messages'"),
        ({"chat_template_kwargs": {"a": "</s>"}}, "chat_template_kwargs", "with the text of a special token"),
        ({"messages": user("a") * 33}, "messages", "got 33 messages; allowed: at most 32"),
    ],
)
def test_a_wrong_field_of_a_chat_is_named(by_hand, change, param, message):
    with pytest.raises(openai.BadRequestError) as refused:
        by_hand.openai.post("/chat/completions", body=TALK | change, cast_to=object)
    assert message in refused.value.body["message"] and refused.value.body["param"] == param


def test_a_template_that_hangs_holds_up_nobody_but_chats(templated, monkeypatch):
    engine, chats, found = servers.ByHand(), [], []
    with servers.running(templated, lambda: engine, slots=2) as running:
        for _ in range(more := min(32, os.cpu_count() + 4) + 1):  # than threads that encode
            ask = lambda: found.append(send(running, TALK | {"messages": user("hang")}, "/v1/chat/completions"))  # noqa: E731
            chats.append(threading.Thread(target=ask))
            chats[-1].start()
        servers.until(lambda: running.service.chats.locked())
        engine.orders.put("step")
        assert send(running, RIGHT)[0] == 200
        assert not found
        monkeypatch.setattr(template, "SECONDS", 0.001)  # of those that wait; the one that hangs ends here
        os.kill(templated.format.template._process.popen.pid, signal.SIGKILL)
        for asking in chats:
            asking.join(servers.SECONDS)
        monkeypatch.undo()
        assert [status for status, _, _ in found] == [400] * more
        assert all("got a conversation that the model's template fails to render (it" in told["error"]["message"] for _, _, told in found)
        engine.orders.put("step")
        assert send(running, TALK, "/v1/chat/completions")[0] == 200
