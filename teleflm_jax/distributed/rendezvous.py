"""Waiting until every process of a run has come, so that those that have not can be named.

jax's own start knows only how many it waits for: when one of them never comes, it aborts every other with a C++ stack and names none. So
the processes meet here first, on the coordinator's port, which is free again before jax's service takes it.

Both sides prove that they know the run's secret, over numbers that the other one has chosen: process 0 says `NONCE`, a process answers
`COUNT INDEX NONCE CODE`, and the last word is `CODE TEXT`. Lines have a largest size and a latest time.
"""

import collections
import contextlib
import dataclasses
import errno
import hashlib
import hmac
import re
import secrets
import selectors
import socket
import time
import typing
from collections.abc import Callable, Collection, Iterator

from teleflm_jax import foreign, open_files

REPORT_SECONDS = 30.0
"""So often the wait is spoken of."""
MARGIN_SECONDS = 10.0
"""A process that has reached the coordinator leaves the end of the wait to it, and so much longer."""
TRY_SECONDS = 5.0
"""Limit for a connection, and for the first line of whoever answers."""
RETRY_SECONDS = 0.2
GREETING_SECONDS = 10.0
"""Time that a visitor has for its line."""
STRANGERS = 64
"""Connections beside those of the run's own processes; beyond that, the oldest that has not said its line is closed."""
LONGEST_LINE = 2_000
"""Bytes."""
GO = "go"
ANYWHERE = ("::", "0.0.0.0", "")
"""Hosts that stand for all addresses."""


def meet(
    coordinator: str, count: int, index: int, seconds: float, say: Callable[[str], None], *, secret: str = "", bind: str | None = None
) -> str | None:
    """Wait for all processes.

    Args:
        coordinator: HOST:PORT of process 0.
        count: processes.
        index: of this process.
        seconds: to wait at most.
        say: is given a line every 30 s.
        secret: that all processes of the run know.
        bind: HOST:PORT where process 0 listens, if that is not `coordinator`.

    Returns:
        What is wrong, in one line, if they are not all here by then; otherwise None.
    """
    if index == 0:
        return _receive(split(bind or coordinator), count, seconds, say, secret)
    return _report(split(coordinator), count, index, seconds, say, secret)


def split(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT, in which a numeric IPv6 host stands in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def names(processes: Collection[int], most: int = 10) -> str:
    """`process 2` or `processes 2, 5 and 7`; of very many the first few."""
    shown = [str(process) for process in sorted(processes)]
    if len(shown) > most:
        shown = [*shown[:most], f"{len(shown) - most} more"]
    return f"process {shown[0]}" if len(shown) == 1 else f"processes {', '.join(shown[:-1])} and {shown[-1]}"


@dataclasses.dataclass(kw_only=True, eq=False)
class _Visitor:
    """A connection to process 0."""

    socket: socket.socket
    nonce: str
    came: float
    said: bytes = b""
    index: int | None = None
    """The process's, once it has proved to be one of the run."""
    answer: str = ""
    """The number that it wants the answer to be made with."""


@dataclasses.dataclass(kw_only=True)
class _Hall:
    """State of process 0 while it waits: processes that have come, and visitors that have not yet said who they are."""

    count: int
    secret: str
    selector: selectors.BaseSelector
    here: dict[int, _Visitor] = dataclasses.field(default_factory=dict)
    strangers: collections.OrderedDict[socket.socket, _Visitor] = dataclasses.field(default_factory=collections.OrderedDict)
    """The oldest first."""
    refused: int = 0

    def admit(self, listener: socket.socket) -> None:
        """Take a connection on, and say our number."""
        while len(self.strangers) >= self.count + STRANGERS:
            self.refuse(next(iter(self.strangers.values())))
        try:
            connection, _ = listener.accept()
        except OSError:  # it has gone again, or there are too many open files
            if self.strangers:
                self.refuse(next(iter(self.strangers.values())))
            return
        connection.setblocking(False)
        visitor = _Visitor(socket=connection, nonce=secrets.token_hex(16), came=time.monotonic())
        self.strangers[connection] = visitor
        self.selector.register(connection, selectors.EVENT_READ, visitor)
        _send(connection, visitor.nonce)

    def hear(self, visitor: _Visitor) -> None:
        """Read what there is; a visitor that leaves is forgotten."""
        try:
            part = visitor.socket.recv(LONGEST_LINE)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if visitor.index is not None:  # it has left: none has more to say before it gets its answer
            del self.here[visitor.index]
            self.close(visitor)
            return
        visitor.said += part
        if visitor.said.endswith(b"\n"):
            self.greet(visitor)
        elif not part or len(visitor.said) >= LONGEST_LINE:
            self.refuse(visitor)

    def greet(self, visitor: _Visitor) -> None:
        """Note a process of the run; another one with the same number that had come before is told so."""
        said = re.fullmatch(rb"(\d{1,9}) (\d{1,9}) ([0-9a-f]{32}) ([0-9a-f]{64})\n", visitor.said)
        count, index, nonce, code = (part.decode() for part in said.groups()) if said else ("", "", "", "")
        if not said or not hmac.compare_digest(code, _code(self.secret, "come", visitor.nonce, nonce, count, index)):
            self.refuse(visitor)
            return
        visitor.answer = nonce
        if int(count) != self.count or not 0 < int(index) < self.count:
            self.tell(
                visitor,
                f"got process {index} of {count}, where process 0 is one of {self.count}; "
                "allowed: the same number for all; look at how they are started",
            )
            self.refuse(visitor)
            return
        del self.strangers[visitor.socket]
        if before := self.here.get(int(index)):
            self.tell(before, f"got two processes with the number {index}; allowed: one; look at how they are started")
            self.close(before)
        visitor.index = int(index)
        self.here[visitor.index] = visitor

    def tell(self, visitor: _Visitor, text: str) -> None:
        """Give the last word."""
        _send(visitor.socket, f"{_code(self.secret, 'answer', visitor.nonce, visitor.answer, text)} {text}")

    def refuse(self, visitor: _Visitor) -> None:
        """Close the connection of who is none of ours."""
        self.refused += 1
        del self.strangers[visitor.socket]
        self.close(visitor)

    def close(self, visitor: _Visitor) -> None:
        """Forget a connection."""
        self.selector.unregister(visitor.socket)
        visitor.socket.close()

    def tidy(self) -> None:
        """Close the connections that have not said who they are in time."""
        late = time.monotonic() - GREETING_SECONDS
        for visitor in [visitor for visitor in self.strangers.values() if visitor.came < late]:
            self.refuse(visitor)


def _receive(bind: tuple[str, int], count: int, seconds: float, say: Callable[[str], None], secret: str) -> str | None:
    """Process 0: take note of who comes, then send all of them on, or tell them who is missing."""
    began = time.monotonic()
    open_files.raise_limit()  # each process holds a connection
    with contextlib.ExitStack() as opened:
        listeners = [opened.enter_context(listener) for listener in _listen(*bind, began + seconds)]
        selector = opened.enter_context(selectors.DefaultSelector())
        for listener in listeners:
            listener.setblocking(False)
            selector.register(listener, selectors.EVENT_READ)
        hall, reports = _Hall(count=count, secret=secret, selector=selector), 1
        opened.callback(lambda: [visitor.socket.close() for visitor in (*hall.here.values(), *hall.strangers.values())])
        while len(hall.here) < count - 1:
            waited = time.monotonic() - began
            missing = set(range(1, count)) - set(hall.here)
            if waited > seconds:
                problem = (
                    f"got {len(hall.here) + 1} of {count} processes after {seconds:.0f} s; missing: {names(missing)}; "
                    f"allowed: all of them; start it, or look at its log and its host{_of_others(hall.refused)}"
                )
                for visitor in hall.here.values():
                    hall.tell(visitor, problem)
                return problem
            if waited > reports * REPORT_SECONDS:
                say(f"waiting for {len(missing)} of {count} processes since {waited:.0f} s: {names(missing)}{_of_others(hall.refused)}")
                reports += 1
            for key, _ in selector.select(timeout=max(0.0, min(seconds, reports * REPORT_SECONDS, waited + 1) - waited) + 0.01):
                ready = typing.cast(socket.socket, key.fileobj)
                if key.data is None:
                    hall.admit(ready)
                elif ready.fileno() >= 0:  # not closed by what came before it
                    hall.hear(key.data)
            hall.tidy()
        for listener in listeners:  # before anyone looks for jax's service there
            listener.close()
        for visitor in hall.here.values():
            hall.tell(visitor, GO)
    return None


def _of_others(refused: int) -> str:
    return f" ({refused:,} connections were none of this run's, or had another secret)" if refused else ""


def _report(address: tuple[str, int], count: int, index: int, seconds: float, say: Callable[[str], None], secret: str) -> str | None:
    """The others: tell process 0 that this one has come, and wait for its word."""
    began, reports, reason = time.monotonic(), 1, ""
    while (waited := time.monotonic() - began) < seconds:
        try:
            with socket.create_connection(address, timeout=min(TRY_SECONDS, seconds - waited)) as connection:
                answer = _converse(connection, count, index, secret, began + seconds + MARGIN_SECONDS)
            if answer == GO:
                return None
            if answer is not None:
                return f"process 0 ended the start: {foreign.printable(answer)}"
            reason = "another service answers there, or one with another secret"
        except OSError as error:
            reason = error.strerror or str(error)
        if waited > reports * REPORT_SECONDS:
            say(f"process {index} waits for process 0 at {address[0]}:{address[1]} since {waited:.0f} s: {reason}")
            reports += 1
        time.sleep(RETRY_SECONDS)
    return (
        f"got no answer from process 0 at {address[0]}:{address[1]} in {seconds:.0f} s ({reason}); allowed: a coordinator that process "
        f"{index} can reach; look at process 0's log, the address and the firewall between the hosts"
    )


def _converse(connection: socket.socket, count: int, index: int, secret: str, deadline: float) -> str | None:
    """Say who we are; returns process 0's last word, or None where it is not process 0 that answers."""
    theirs, ours = _line(connection, time.monotonic() + TRY_SECONDS), secrets.token_hex(16)
    if not re.fullmatch("[0-9a-f]{32}", theirs):
        return None
    connection.sendall(f"{count} {index} {ours} {_code(secret, 'come', theirs, ours, count, index)}\n".encode())
    code, _, answer = _line(connection, deadline).partition(" ")
    return answer if hmac.compare_digest(code.encode(), _code(secret, "answer", theirs, ours, answer).encode()) else None


def _line(connection: socket.socket, deadline: float) -> str:
    """A line that ends in time, without its end; anything else is empty."""
    said = b""
    while not said.endswith(b"\n"):
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            part = connection.recv(LONGEST_LINE)
        except TimeoutError:
            return ""
        said += part
        if not part or len(said) > LONGEST_LINE:
            return ""
    return said[:-1].decode(errors="replace")


def _code(secret: str, *parts: object) -> str:
    return hmac.digest(secret.encode(), " ".join(map(str, parts)).encode(), hashlib.sha256).hex()


def _listen(host: str, port: int, deadline: float) -> Iterator[socket.socket]:
    """Listen on the addresses of a host's name, or on all of this host; whoever had the port before may take a while to leave it."""
    if host in ANYWHERE:
        both = socket.has_dualstack_ipv6()
        places = [(socket.AF_INET6 if both else socket.AF_INET, ("::" if both else "0.0.0.0", port), both)]
    else:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        places = list(dict.fromkeys((family, address, False) for family, _, _, _, address in found))
    problem: OSError | None = None
    listening = 0
    for family, address, both in places:
        try:
            yield _bound(family, address, both, deadline)
            listening += 1
        except OSError as error:  # a name may have an IPv6 address where the host has none
            problem = error
    if problem is not None and not listening:
        raise problem


def _bound(family: int, address: tuple, both: bool, deadline: float) -> socket.socket:
    while True:
        try:
            return socket.create_server(address[:2], family=family, backlog=1024, dualstack_ipv6=both)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
        time.sleep(RETRY_SECONDS)


def _send(connection: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):  # it has left; jax's own start will notice
        connection.sendall(f"{line}\n".encode())
