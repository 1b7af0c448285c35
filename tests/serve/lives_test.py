"""Queues, clients that leave, engines that fail, and the end; the engine does what the test says."""

import threading
import weakref

import openai
import pytest

from teleflm_jax.serve import engine_thread
from tests.serve import servers
from tests.serve.refusals_test import RIGHT, TALK, send


def begin(running, results, **settings):
    """Ask in a thread of its own; the answer, or what was raised, goes to `results`."""

    def ask():
        try:
            results.append(running.openai.completions.create(**RIGHT | settings).choices[0].text)
        except openai.APIError as error:
            results.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_a_full_queue_refuses_and_those_in_it_are_answered(by_hand):
    results = []
    threads = [begin(by_hand, results, max_tokens=2) for _ in range(4)]
    servers.until(lambda: by_hand.service.engine_thread.load == 4)
    status, headers, told = send(by_hand, RIGHT)
    assert status == 429 and headers["Retry-After"] == "1" and told["error"]["code"] == "queue_full"
    assert "got a request while 4 texts run or wait; allowed: 4" in told["error"]["message"]
    for _ in range(8):
        by_hand.engine.orders.put("step")
    for thread in threads:
        thread.join(servers.SECONDS)
    assert results == ["0 1 "] * 4
    by_hand.engine.orders.put("step")
    assert by_hand.openai.completions.create(**RIGHT).choices[0].text == "0 "


@pytest.mark.parametrize("path", ["completions", "chat.completions"])
def test_a_client_that_leaves_a_stream_frees_its_slot_and_others_go_on(by_hand, path):
    results = []
    create = by_hand.openai.completions.create if path == "completions" else by_hand.openai.chat.completions.create
    stream = create(**(RIGHT if path == "completions" else TALK) | {"max_tokens": 9}, stream=True)
    other = begin(by_hand, results, max_tokens=3)
    servers.until(lambda: by_hand.service.engine_thread.load == 2)
    by_hand.engine.orders.put("step")
    next(iter(stream))
    stream.close()
    servers.until(lambda: by_hand.service.engine_thread.load == 1)
    by_hand.engine.orders.put("step")
    assert by_hand.engine.dropped.get(timeout=servers.SECONDS) == 1
    by_hand.engine.orders.put("step"), by_hand.engine.orders.put("step")
    other.join(servers.SECONDS)
    assert results == ["0 1 2 "]
    servers.until(lambda: by_hand.service.engine_thread.load == 0)


def test_a_client_that_does_not_wait_for_its_answer_frees_its_slot(by_hand):
    with pytest.raises(openai.APITimeoutError):
        by_hand.openai.with_options(timeout=0.2).completions.create(**RIGHT | {"max_tokens": 9})
    servers.until(lambda: by_hand.service.engine_thread.load == 0)
    by_hand.engine.orders.put("step")
    assert by_hand.engine.dropped.get(timeout=servers.SECONDS) == 1 and by_hand.engine.idle


@pytest.fixture
def failing(served):
    """A server, and the engines that it has made; each fails in its first steps as often as `failures` says."""

    class Failing:
        def __init__(self):
            self.engines, self.failures = [], [0]

        def make(self):
            self.engines.append(servers.ByHand())
            if self.failures[0]:
                self.failures[0] -= 1
                self.engines[-1].orders.put(RuntimeError("no"))
            return self.engines[-1]

    made = Failing()
    with servers.running(served, made.make, slots=2) as running, running.client() as running.openai:
        running.made = made
        yield running


def test_an_engine_that_fails_is_replaced_and_its_texts_go_on(failing, caplog):
    results, engines = [], failing.made.engines
    asked = begin(failing, results, max_tokens=3)
    stream = failing.openai.chat.completions.create(**TALK | {"max_tokens": 2}, stream=True)
    servers.until(lambda: failing.service.engine_thread.load == 2 and len(engines[0].sequences) == 2)
    engines[0].orders.put("step")
    engines[0].orders.put(RuntimeError("out of memory\nat 0x1"))
    servers.until(lambda: len(engines) == 2)
    engines[1].orders.put("step"), engines[1].orders.put("step")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "0 1 "
    asked.join(servers.SECONDS)
    assert results == ["0 1 2 "]
    servers.until(lambda: failing.service.engine_thread.load == 0)
    status, _, told = send(failing, None, "/health", "GET")
    assert (status, told["status"], told["engine_failures"], told["texts"]) == (200, "ok", 1, 0)
    assert told["last_failure"] == "RuntimeError: out of memory at 0x1" and "Traceback" in caplog.text


def test_texts_at_which_two_engines_fail_are_told_and_the_server_rests(failing, monkeypatch):
    monkeypatch.setattr(engine_thread, "RETRY_SECONDS", 3600)
    failing.made.failures[0] = 1
    failing.made.engines[0].orders.put(RuntimeError("no"))
    stream = failing.openai.chat.completions.create(**TALK | {"max_tokens": 2}, stream=True)
    with pytest.raises(openai.APIError, match="the engine failed .RuntimeError: no."):
        list(stream)
    status, _, told = send(failing, RIGHT)
    assert (status, told["error"]["code"], told["error"]["type"]) == (500, "engine_failed", "server_error")
    status, _, told = send(failing, None, "/health", "GET")
    assert (status, told["status"], told["engine_failures"]) == (503, "broken", 2) and len(failing.made.engines) == 2


@pytest.mark.parametrize("failures", [2, 5])
def test_after_a_rest_the_next_request_has_a_new_engine(failing, monkeypatch, failures):
    monkeypatch.setattr(engine_thread, "RETRY_SECONDS", 0)
    failing.made.failures[0] = failures - 1
    failing.made.engines[0].orders.put(RuntimeError("no"))
    assert [send(failing, RIGHT)[0] for _ in range(failures - 1)] == [500] * (failures - 1)  # the first of them had two engines
    results = []
    asked = begin(failing, results)
    servers.until(lambda: len(failing.made.engines) == failures + 1)
    failing.made.engines[-1].orders.put("step")
    asked.join(servers.SECONDS)
    assert results == ["0 "] and send(failing, None, "/health", "GET")[2]["engine_failures"] == failures


def test_a_failed_engine_and_what_its_frames_held_are_gone_before_the_next_is_made(served):
    found, engines = [], []

    class Large:
        """As arrays on a device."""

    class Engine(servers.ByHand):
        def step(self):
            large = Large()
            found.append(weakref.ref(large))
            raise RuntimeError("no") from ValueError("why")

    def make():
        found.append(all(one() is None for one in [*found, *engines] if isinstance(one, weakref.ref)))
        engine = Engine()
        engines.append(weakref.ref(engine))
        return engine

    with servers.running(served, make, slots=2) as running:
        assert send(running, RIGHT)[0] == 500
    assert [one for one in found if isinstance(one, bool)] == [True, True]


def test_the_end_refuses_new_requests_and_finishes_what_is_under_way(served):
    engine = servers.ByHand()
    with servers.running(served, lambda: engine, slots=2) as running, running.client() as running.openai:
        results = []
        asked = begin(running, results, max_tokens=2)
        servers.until(lambda: engine.sequences)
        running.stop()
        servers.until(lambda: running.service.stopping)
        status, headers, told = send(running, RIGHT)
        assert status == 503 and headers["Retry-After"] == "1" and told["error"]["code"] == "stopping"
        assert send(running, None, "/health", "GET")[0] == 503
        engine.orders.put("step"), engine.orders.put("step")
        asked.join(servers.SECONDS)
        assert results == ["0 1 "]
        running.thread.join(servers.SECONDS)
        assert not running.thread.is_alive()


def test_what_outlasts_the_grace_is_told_so(served):
    engine = servers.ByHand()
    with servers.running(served, lambda: engine, slots=2, grace=0.05) as running, running.client() as running.openai:
        results = []
        asked = begin(running, results, max_tokens=5)
        servers.until(lambda: engine.sequences)
        running.stop()
        asked.join(servers.SECONDS)
        assert results[0].status_code == 503 and results[0].code == "stopping"
        engine.orders.put("step")
