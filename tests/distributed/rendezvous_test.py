"""Processes meet whoever else speaks at their port: within the time, by the secret of the launch, and within bounds."""

import concurrent.futures
import contextlib
import os
import resource
import socket
import threading
import time

import pytest

from teleflm_jax.distributed import rendezvous

SECRET = "of this launch"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def meet(indices, count, seconds, port=None):
    """Return the answers of `rendezvous.meet` to these processes of `count`."""
    address = f"localhost:{port or free_port()}"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda index: rendezvous.meet(address, count, index, seconds, print, secret=SECRET), indices))


def connect(port):
    """A stranger's connection, as soon as somebody listens."""
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("localhost", port), timeout=10)
        time.sleep(0.02)


def nonce(connection):
    """The number that process 0 says first."""
    return connection.makefile("rb").readline().decode().strip()


def greeting(count, index, nonce):
    """The line of a process that knows the secret."""
    return f"{count} {index} {'0' * 32} {rendezvous._code(SECRET, 'come', nonce, '0' * 32, count, index)}\n".encode()


@contextlib.contextmanager
def waiting(count, seconds, **settings):
    """Process 0 of `count`, which waits; yields its port and its answer to come."""
    port = free_port()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        yield port, pool.submit(rendezvous.meet, f"localhost:{port}", count, 0, seconds, print, secret=SECRET, **settings)


def test_processes_meet_in_whatever_order_they_come():
    assert meet([2, 1, 3, 0], 4, 20) == [None] * 4


def test_process_0_names_who_is_missing_and_tells_those_who_came(monkeypatch, capsys):
    monkeypatch.setattr(rendezvous, "REPORT_SECONDS", 0.4)
    first, other = meet([0, 2], 4, 1)
    assert first == (
        "got 2 of 4 processes after 1 s; missing: processes 1 and 3; allowed: all of them; start it, or look at its log and its host"
    )
    assert other == f"process 0 ended the start: {first}"
    assert capsys.readouterr().out.splitlines()[-1] == "waiting for 2 of 4 processes for 1 s now: processes 1 and 3"


def test_a_process_that_leaves_again_is_missing_and_strangers_do_not_count():
    with waiting(3, 2) as (port, first):
        with connect(port) as process:
            process.sendall(greeting(3, 1, nonce(process)))
            time.sleep(0.1)
        for said in (b"3 1\n", b"GET / HTTP/1.1\r\n", b"5 2\n"):
            with connect(port) as stranger:
                stranger.sendall(said)
                time.sleep(0.1)
        assert "got 1 of 3" in first.result() and "processes 1 and 2" in first.result()


def test_a_process_without_a_coordinator_says_where_it_looked():
    port = free_port()
    (alone,) = meet([1], 2, 1, port)
    assert alone.startswith(f"got no answer from process 0 at localhost:{port} in 1 s (Connection refused); allowed: ")
    assert "got no answer from process 0 at no.such.host:1 in" in rendezvous.meet("no.such.host:1", 2, 1, 0.5, print)


def test_of_many_missing_processes_a_few_are_named():
    assert rendezvous.names([3]) == "process 3" and rendezvous.names({5, 3}) == "processes 3 and 5"
    assert rendezvous.names(range(100), most=3) == "processes 0, 1, 2 and 97 more"
    assert rendezvous.split("[::1]:80") == ("::1", 80)


def test_a_stranger_does_not_take_the_place_of_a_process():
    with waiting(3, 20) as (port, first), concurrent.futures.ThreadPoolExecutor() as pool:
        join = lambda index, secret: pool.submit(rendezvous.meet, f"localhost:{port}", 3, index, 1, print, secret=secret)  # noqa: E731
        real = pool.submit(rendezvous.meet, f"localhost:{port}", 3, 1, 20, print, secret=SECRET)
        time.sleep(0.5)
        with connect(port) as stranger:
            stranger.sendall(b"3 1\n")  # what once was a greeting
        assert "or one with another secret" in join(1, "guessed").result()
        assert "or one with another secret" in join(2, "").result()
        assert not real.done() and not first.done()
        last = pool.submit(rendezvous.meet, f"localhost:{port}", 3, 2, 20, print, secret=SECRET)
        assert [first.result(), real.result(), last.result()] == [None] * 3


def test_a_greeting_that_was_overheard_is_of_no_use():
    with waiting(3, 2) as (port, first), connect(port) as one, connect(port) as two:
        said = greeting(3, 1, nonce(one))
        nonce(two)
        two.sendall(said)
        assert two.recv(100) == b""  # closed
        one.sendall(said)
        assert "missing: process 2" in first.result() and one.recv(1000).endswith(b"or had another secret)\n")


def test_who_answers_has_to_prove_that_it_is_process_0():
    with socket.create_server(("localhost", 0)) as listener:

        def answer():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(b"0" * 32 + b"\n")
                        connection.recv(1000)
                        connection.sendall(b"go\n")

        threading.Thread(target=answer, daemon=True).start()
        problem = rendezvous.meet(f"localhost:{listener.getsockname()[1]}", 2, 1, 1, print, secret=SECRET)
    assert "or one with another secret" in problem


@pytest.mark.parametrize("first", [b"", b"x", b"0" * 32 + b"\n"])
def test_bytes_without_an_end_do_not_outlast_the_time(monkeypatch, first):
    monkeypatch.setattr(rendezvous, "TRY_SECONDS", 1.0)
    monkeypatch.setattr(rendezvous, "MARGIN_SECONDS", 0.5)
    ended = threading.Event()

    def drip(connection):
        with contextlib.suppress(OSError):
            connection.sendall(first)
            while not ended.is_set():
                connection.sendall(b"x")
                time.sleep(0.05)

    with socket.create_server(("localhost", 0)) as listener:
        listener.settimeout(0.2)

        def serve():
            with contextlib.suppress(OSError):
                while not ended.is_set():
                    with contextlib.suppress(TimeoutError), listener.accept()[0] as connection:
                        drip(connection)

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        began = time.monotonic()
        assert "got no answer from process 0" in rendezvous.meet(f"localhost:{listener.getsockname()[1]}", 2, 1, 1, print, secret=SECRET)
        assert time.monotonic() - began < 10  # a bound of the wait, not a speed: it would last for ever
        ended.set()
        listener.close()
        serving.join(15)


def test_strangers_that_say_nothing_or_too_much_keep_nobody_out(monkeypatch):
    monkeypatch.setattr(rendezvous, "UNIDENTIFIED", 4)
    monkeypatch.setattr(rendezvous, "GREETING_SECONDS", 0.5)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with waiting(2, 20) as (port, first), contextlib.ExitStack() as opened:
        for number in range(60):
            stranger = opened.enter_context(connect(port))
            with contextlib.suppress(OSError):
                stranger.sendall(b"x" * (100_000 if number % 2 else 1))
        assert len(os.listdir("/proc/self/fd")) < 200 or not os.path.isdir("/proc/self/fd")
        assert rendezvous.meet(f"localhost:{port}", 2, 1, 20, print, secret=SECRET) is None
        assert first.result() is None
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_processes_of_another_count_and_of_one_number_are_told():
    with waiting(3, 2) as (port, first), concurrent.futures.ThreadPoolExecutor() as pool:
        join = lambda count, index: pool.submit(rendezvous.meet, f"localhost:{port}", count, index, 20, print, secret=SECRET)  # noqa: E731
        assert join(4, 2).result() == (
            "process 0 ended the start: got process 2 of 4, where process 0 is one of 3; allowed: the same number for all; "
            "look at how they are started"
        )
        one = join(3, 1)
        time.sleep(0.5)
        again = join(3, 1)
        assert "got two processes with the number 1" in one.result()
        assert "missing: process 2" in first.result() and "missing: process 2" in again.result()


def test_process_0_listens_at_the_host_that_it_is_told():
    port = free_port()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        address = f"127.0.0.1:{port}"
        first = pool.submit(rendezvous.meet, "no.such.host:1", 2, 0, 20, print, bind=address)
        time.sleep(0.3)
        with socket.socket(socket.AF_INET6) as other, pytest.raises(OSError):
            other.connect(("::1", port))
        assert rendezvous.meet(address, 2, 1, 20, print) is None and first.result() is None
