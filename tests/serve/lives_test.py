"""Queues, clients that leave, engines that fail, and the end; the engine does what the test says."""

import threading

import openai
import pytest

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
    servers.until(lambda: by_hand.service.worker.load == 4)
    status, headers, told = send(by_hand, RIGHT)
    assert status == 429 and headers["Retry-After"] == "1" and told["error"]["code"] == "queue_full"
    assert "got a request while 4 texts are under way or wait; allowed: 4" in told["error"]["message"]
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
    servers.until(lambda: by_hand.service.worker.load == 2)
    by_hand.engine.orders.put("step")
    next(iter(stream))
    stream.close()
    servers.until(lambda: by_hand.service.worker.load == 1)
    by_hand.engine.orders.put("step")
    assert by_hand.engine.dropped.get(timeout=servers.SECONDS) == 1
    by_hand.engine.orders.put("step"), by_hand.engine.orders.put("step")
    other.join(servers.SECONDS)
    assert results == ["0 1 2 "]
    servers.until(lambda: by_hand.service.worker.load == 0)


def test_a_client_that_does_not_wait_for_its_answer_frees_its_slot(by_hand):
    with pytest.raises(openai.APITimeoutError):
        by_hand.openai.with_options(timeout=0.2).completions.create(**RIGHT | {"max_tokens": 9})
    servers.until(lambda: by_hand.service.worker.load == 0)
    by_hand.engine.orders.put("step")
    assert by_hand.engine.dropped.get(timeout=servers.SECONDS) == 1 and by_hand.engine.idle


def test_an_engine_that_fails_is_told_and_another_takes_its_place(served, caplog):
    engines = []

    def make():
        engines.append(servers.ByHand())
        return engines[-1]

    with servers.running(served, make, slots=2) as running, running.client() as running.openai:
        results = []
        asked = begin(running, results, max_tokens=9)
        stream = running.openai.chat.completions.create(**TALK | {"max_tokens": 9}, stream=True)
        servers.until(lambda: running.service.worker.load == 2)
        engines[0].orders.put("step")
        engines[0].orders.put(RuntimeError("out of memory\nat 0x1"))
        with pytest.raises(openai.APIError, match="the engine failed .RuntimeError: out of memory at 0x1."):
            list(stream)
        asked.join(servers.SECONDS)
        (error,) = results
        assert error.status_code == 500 and error.code == "engine_failed" and error.body["type"] == "server_error"
        servers.until(lambda: running.service.worker.load == 0)
        status, _, told = send(running, None, "/health", "GET")
        assert (status, told["status"], told["engine_failures"], told["texts"]) == (200, "ok", 1, 0)
        assert told["last_failure"] == "RuntimeError: out of memory at 0x1"
        engines[1].orders.put("step")
        assert running.openai.completions.create(**RIGHT).choices[0].text == "0 "
    assert "Traceback" in caplog.text


def test_an_engine_that_fails_at_its_first_step_after_a_failure_is_given_up(served):
    engines = []

    def make():
        engines.append(servers.ByHand())
        engines[-1].orders.put(RuntimeError("no"))
        return engines[-1]

    with servers.running(served, make, slots=2) as running:
        assert [send(running, RIGHT)[0] for _ in range(3)] == [500] * 3
        status, _, told = send(running, None, "/health", "GET")
        assert (status, told["status"], told["engine_failures"]) == (503, "broken", 2) and len(engines) == 2


def test_the_end_refuses_new_requests_and_finishes_what_is_under_way(served):
    engine = servers.ByHand()
    with servers.running(served, lambda: engine, slots=2) as running, running.client() as running.openai:
        results = []
        asked = begin(running, results, max_tokens=2)
        servers.until(lambda: engine.texts)
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
        servers.until(lambda: engine.texts)
        running.stop()
        asked.join(servers.SECONDS)
        assert results[0].status_code == 503 and results[0].code == "stopping"
        engine.orders.put("step")
