"""Connections that send nothing, half of something, or do not read: each ends in time and is counted, and others are served."""

import contextlib
import json
import socket

import pytest

from teleflm_jax import open_files
from teleflm_jax.serve import bodies, connections
from tests.serve import servers
from tests.serve.refusals_test import RIGHT, send

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def hurried(monkeypatch, by_hand):
    """A server that loses patience at once."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.1)
    return by_hand


@pytest.fixture(autouse=True)
def swept(monkeypatch):
    monkeypatch.setattr(connections, "SWEEP_SECONDS", 0.02)


@contextlib.contextmanager
def opened(running, *sent):
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), servers.SECONDS) as found:
        for part in sent:
            found.sendall(part)
        yield found


def rest(connection):
    """All that comes until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def answer(connection):
    """Status and body of one answer on a connection that stays."""
    return answers(connection, 1)[0]


def answers(connection, count):
    """The same of answers that may come in one packet."""
    file, found = connection.makefile("rb"), []
    for _ in range(count):
        status = int(file.readline().split()[1])
        length = 0
        while line := file.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split()[1])
        found.append((status, file.read(length)))
    return found


def closed(running, reason):
    return running.service.metrics.closed.labels(reason)._value.get()


def outcome(running, route, status):
    return running.service.metrics.requests.labels(route, status)._value.get()


@pytest.mark.parametrize(
    "sent, reason",
    [
        ([], "idle"),
        ([b"GET /health HT"], "slow_head"),
        ([HEAD], "slow_head"),
        ([HEALTH], "idle"),
        ([HEALTH, b"GET /hea"], "slow_head"),
        ([HEALTH + b"GET /hea"], "slow_head"),
    ],
)
def test_a_connection_that_asks_nothing_ends(hurried, sent, reason):
    with opened(hurried, *sent) as connection:
        found = rest(connection)
    assert found.startswith(b"HTTP/1.1 200") if sent and sent[0].startswith(HEALTH) else found == b""
    assert closed(hurried, reason) == 1


def test_a_head_that_comes_byte_by_byte_ends_as_one_that_stops(hurried):
    with opened(hurried, HEALTH) as connection:
        assert answer(connection)[0] == 200
        with pytest.raises(OSError):  # noqa: PT012
            while True:
                connection.sendall(b"G")
                if not connection.recv(1):
                    raise OSError
    assert closed(hurried, "no_request") + closed(hurried, "slow_head") == 1


def test_a_body_that_goes_on_after_its_refusal_ends(hurried):
    with opened(hurried, HEAD.replace(b"json", b"xml") + b"Content-Length: 9999\r\n\r\n") as connection:
        found = rest(connection)
    assert found.startswith(b"HTTP/1.1 415") and closed(hurried, "idle") == 1


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_does_not_read_frees_its_slot(hurried, stream):
    hurried.engine.padding = "x" * (4 << 20)
    body = json.dumps(RIGHT | {"stream": stream, "max_tokens": 4}).encode()
    with opened(hurried, HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)) as connection:
        for _ in range(4):
            hurried.engine.orders.put("step")
        servers.until(lambda: closed(hurried, "slow_reader") == 1)
        servers.until(lambda: hurried.service.engine_thread.load == 0)
        assert rest(connection)


def test_a_client_that_goes_with_an_answer_unread_frees_its_slot_and_writes_no_log(by_hand, caplog):
    by_hand.engine.padding = "x" * (4 << 20)
    body = json.dumps(RIGHT | {"stream": True, "max_tokens": 20}).encode()
    with opened(by_hand, HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)) as connection:
        by_hand.engine.orders.put("step")
        assert connection.recv(1)
        connection.shutdown(socket.SHUT_WR)
        servers.until(lambda: by_hand.service.engine_thread.load == 0)
        for _ in range(19):
            by_hand.engine.orders.put("step")
        servers.until(lambda: outcome(by_hand, "/v1/completions", "disconnected") == 1)
    assert not caplog.records and closed(by_hand, "slow_reader") == 0


def test_a_client_that_reads_slowly_but_reads_is_waited_for():
    class Transport:
        left, aborted = 1 << 20, False

        def get_write_buffer_size(self):
            return self.left

        def abort(self):
            self.aborted = True

    transport = Transport()
    pool = connections.Connections(limit=1, closed=Counts(), full=b"")
    connection = connections.Connection(pool=pool, unread=1 << 20, requests=1)
    connection.transport = transport
    for second in range(0, 200, 10):
        transport.left -= connections.MIN_BYTES_READ
        connection.check(second)
        assert not transport.aborted
    for second in range(200, 221, 10):
        transport.left -= 1
        connection.check(second)
    assert transport.aborted and pool.closed.reasons == ["slow_reader"]


class Counts:
    def __init__(self):
        self.reasons = []

    def labels(self, reason):
        self.reasons.append(reason)
        return self

    def inc(self):
        pass


def test_the_longest_waiting_connection_makes_room_and_none_under_way_does(monkeypatch, served):
    monkeypatch.setattr(connections, "limit", lambda: 3)
    engine = servers.ByHand(slots=4)
    with servers.running(served, lambda: engine, slots=4) as running, contextlib.ExitStack() as stack:
        starts = (b"GET /h", HEAD + b"Content-Length: 9\r\n\r\n{")
        waiting = [stack.enter_context(opened(running, starts[number % 2])) for number in range(20)]
        assert send(running, None, "/health", "GET")[0] == 200
        assert [rest(connection) for connection in waiting[:17]] == [b""] * 17
        assert closed(running, "full") >= 17
        body = json.dumps(RIGHT | {"stream": True, "max_tokens": 2}).encode()
        request = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        asked = [stack.enter_context(opened(running, request)) for _ in range(3)]
        servers.until(lambda: len(engine.sequences) == 3)
        with opened(running) as refused:
            head, _, told = rest(refused).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1" in head
        assert json.loads(told)["error"]["code"] == "connections_full"
        engine.orders.put("step"), engine.orders.put("step")
        for connection in asked:
            assert b"data: [DONE]" in rest(connection)
        assert send(running, None, "/health", "GET")[0] == 200


def test_connections_leave_room_in_the_limit_of_files(monkeypatch):
    for limit, most in ((65_536, 1024), (1024, 768), (300, 44), (64, 8)):
        monkeypatch.setattr(open_files, "limit", lambda limit=limit: limit)
        assert connections.limit() == most


def test_bodies_that_never_end_share_a_budget_and_small_ones_pass(monkeypatch, by_hand):
    monkeypatch.setattr(bodies, "MAX_TOTAL_BYTES", 300_000)
    with contextlib.ExitStack() as stack:
        head = HEAD + b"Content-Length: 400000\r\n\r\n"
        for _ in range(2):
            stack.enter_context(opened(by_hand, head, b" " * 200_000))
        servers.until(lambda: by_hand.service.bodies.held == 2 * (200_000 - bodies.UNCOUNTED_BYTES))
        status, headers, told = send(by_hand, b" " * 200_000)
        assert (status, told["error"]["code"], headers["Retry-After"]) == (503, "bodies_full", "1")
        by_hand.engine.orders.put("step")
        assert send(by_hand, RIGHT)[0] == 200
        assert send(by_hand, b" " * bodies.UNCOUNTED_BYTES)[0] == 400
    servers.until(lambda: by_hand.service.bodies.held == 0)
    assert send(by_hand, b" " * 200_000)[0] == 400


def test_a_body_that_does_not_come_in_time_is_refused_and_counted(monkeypatch, by_hand):
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)
    with opened(by_hand, HEAD + b"Content-Length: 9\r\n\r\n{") as connection:
        status, told = answer(connection)
    assert status == 408 and b"got no complete body in 0.05 seconds" in told
    servers.until(lambda: outcome(by_hand, "/v1/completions", 408) == 1)


def test_a_body_full_of_values_is_refused_before_it_is_parsed(by_hand):
    for body in (b"[" + b"[]," * (1 << 20) + b"[]]", b"{" + b'"a":1,' * (1 << 19) + b'"a":1}'):
        status, _, told = send(by_hand, body)
        assert status == 400 and "brackets, braces and colons; allowed: 262,144" in told["error"]["message"]


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /" + b"a" * (1 << 17),
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * (1 << 15),
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * (1 << 17),
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_and_counted_without_a_line_in_the_log(by_hand, caplog, sent):
    with opened(by_hand) as connection:
        with contextlib.suppress(OSError):  # it may be closed while we send
            connection.sendall(sent)
        found = rest(connection)
    assert found.startswith(b"HTTP/1.1 4") or found == b""
    servers.until(lambda: closed(by_hand, "no_request") == 1)
    assert not caplog.records and send(by_hand, None, "/health", "GET")[0] == 200


def test_requests_in_one_packet_are_answered_in_turn(by_hand):
    with opened(by_hand, HEALTH + HEALTH.replace(b"/health", b"/v1/models") + HEALTH.replace(b"/health", b"/no")) as connection:
        found = [status for status, _ in answers(connection, 3)]
    assert found == [200, 200, 404]


def test_what_http_has_beside_is_understood(by_hand):
    with opened(by_hand, b"GET /health HTTP/1.0\r\n\r\n") as connection:
        assert rest(connection).startswith(b"HTTP/1.1 200")
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
    for target, status in ((b"/health", 200), (b"http://localhost/health", 404), (b"//health", 404), (b"/%ff%00%0a", 404)):
        with opened(by_hand, b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n" + upgrade) as connection:
            assert answer(connection)[0] == status
    body = json.dumps(RIGHT).encode()
    with opened(by_hand, HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)) as connection:
        assert connection.recv(1 << 10).startswith(b"HTTP/1.1 100 ")
        by_hand.engine.orders.put("step")
        connection.sendall(body)
        assert answer(connection)[0] == 200
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    with opened(by_hand, chunked, *(b"1;x=y\r\n%c\r\n" % byte for byte in body), b"0\r\nTrailer: 1\r\n\r\n") as connection:
        by_hand.engine.orders.put("step")
        assert answer(connection)[0] == 200
    with opened(by_hand, chunked + b"0\r\nTrailer: " + b"a" * (1 << 17)) as connection:
        assert b" 400 " in rest(connection)[:20]
