"""Rendezvous of the processes of a run before jax connects them, so that missing processes can be named.

jax only counts processes: if one never connects, it aborts all others with a C++ stack and names none. So the processes connect here first,
on the coordinator's port, which is free again before jax's service uses it.

Both sides prove that they know the run's secret, with nonces chosen by the other side: process 0 sends `NONCE`, a process replies with
`COUNT INDEX NONCE CODE`, and process 0 ends with `CODE TEXT`. Lines are limited in size and time.
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
"""Seconds between messages about the wait."""
MARGIN_SECONDS = 10.0
"""Seconds that a connected process waits longer than the coordinator, which ends the wait."""
TRY_SECONDS = 5.0
"""Seconds for a connection, and for the first line of the peer."""
RETRY_SECONDS = 0.2
GREETING_SECONDS = 10.0
"""Seconds that a peer has for its line."""
UNIDENTIFIED = 64
"""Connections beside those of the run's own processes; beyond them, the oldest one that has not sent its line is closed."""
LONGEST_LINE = 2_000
"""Bytes of the longest line."""
GO = "go"
ANYWHERE = ("::", "0.0.0.0", "")
"""Hosts that mean all addresses."""


def meet(
    coordinator: str, count: int, index: int, seconds: float, log: Callable[[str], None], *, secret: str = "", bind: str | None = None
) -> str | None:
    """Wait for all processes.

    Args:
        coordinator: HOST:PORT of process 0.
        count: processes.
        index: of this process.
        seconds: longest wait.
        log: takes a line every 30 s.
        secret: known to all processes of the run.
        bind: HOST:PORT at which process 0 listens, if it is not `coordinator`.

    Returns:
        The problem in one line if not all processes have connected by then; otherwise None.
    """
    if index == 0:
        return _coordinate(split(bind or coordinator), count, seconds, log, secret)
    return _connect(split(coordinator), count, index, seconds, log, secret)


def split(address: str) -> tuple[str, int]:
    """Split HOST:PORT, in which a numeric IPv6 host is in brackets, into host and port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def names(processes: Collection[int], most: int = 10) -> str:
    """Format indices as `process 2` or `processes 2, 5 and 7`; of very many only the first few."""
    shown = [str(process) for process in sorted(processes)]
    if len(shown) > most:
        shown = [*shown[:most], f"{len(shown) - most} more"]
    return f"process {shown[0]}" if len(shown) == 1 else f"processes {', '.join(shown[:-1])} and {shown[-1]}"


@dataclasses.dataclass(kw_only=True, eq=False)
class _Peer:
    """Connection to process 0."""

    socket: socket.socket
    nonce: str
    connected: float
    """Time of the connection by the monotonic clock."""
    received: bytes = b""
    index: int | None = None
    """Index of the process, once it has proved to be one of the run."""
    answer: str = ""
    """Nonce with which it wants the answer to be signed."""


@dataclasses.dataclass(kw_only=True)
class _Coordinator:
    """State of process 0 while it waits: processes that have connected, and peers that have not identified themselves yet."""

    count: int
    secret: str
    selector: selectors.BaseSelector
    joined: dict[int, _Peer] = dataclasses.field(default_factory=dict)
    unidentified: collections.OrderedDict[socket.socket, _Peer] = dataclasses.field(default_factory=collections.OrderedDict)
    """Oldest first."""
    refused: int = 0

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection and send our nonce."""
        while len(self.unidentified) >= self.count + UNIDENTIFIED:
            self.refuse(next(iter(self.unidentified.values())))
        try:
            connection, _ = listener.accept()
        except OSError:  # the peer is gone, or too many files are open
            if self.unidentified:
                self.refuse(next(iter(self.unidentified.values())))
            return
        connection.setblocking(False)
        peer = _Peer(socket=connection, nonce=secrets.token_hex(16), connected=time.monotonic())
        self.unidentified[connection] = peer
        self.selector.register(connection, selectors.EVENT_READ, peer)
        _send(connection, peer.nonce)

    def read(self, peer: _Peer) -> None:
        """Read what has arrived; forget a peer that has disconnected."""
        try:
            part = peer.socket.recv(LONGEST_LINE)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if peer.index is not None:  # it has disconnected: a process sends nothing more before it gets its answer
            del self.joined[peer.index]
            self.close(peer)
            return
        peer.received += part
        if peer.received.endswith(b"\n"):
            self.identify(peer)
        elif not part or len(peer.received) >= LONGEST_LINE:
            self.refuse(peer)

    def identify(self, peer: _Peer) -> None:
        """Record a process of the run; refuse an earlier one with the same index."""
        matched = re.fullmatch(rb"(\d{1,9}) (\d{1,9}) ([0-9a-f]{32}) ([0-9a-f]{64})\n", peer.received)
        count, index, nonce, code = (part.decode() for part in matched.groups()) if matched else ("", "", "", "")
        if not matched or not hmac.compare_digest(code, _code(self.secret, "come", peer.nonce, nonce, count, index)):
            self.refuse(peer)
            return
        peer.answer = nonce
        if int(count) != self.count or not 0 < int(index) < self.count:
            self.send_last(
                peer,
                f"got process {index} of {count}, where process 0 is one of {self.count}; "
                "allowed: the same number for all; look at how they are started",
            )
            self.refuse(peer)
            return
        del self.unidentified[peer.socket]
        if before := self.joined.get(int(index)):
            self.send_last(before, f"got two processes with the number {index}; allowed: one; look at how they are started")
            self.close(before)
        peer.index = int(index)
        self.joined[peer.index] = peer

    def send_last(self, peer: _Peer, text: str) -> None:
        """Send the final answer."""
        _send(peer.socket, f"{_code(self.secret, 'answer', peer.nonce, peer.answer, text)} {text}")

    def refuse(self, peer: _Peer) -> None:
        """Close the connection of a peer that is not a process of the run."""
        self.refused += 1
        del self.unidentified[peer.socket]
        self.close(peer)

    def close(self, peer: _Peer) -> None:
        """Close and forget a connection."""
        self.selector.unregister(peer.socket)
        peer.socket.close()

    def close_late(self) -> None:
        """Close the connections whose peers have not identified themselves in time."""
        late = time.monotonic() - GREETING_SECONDS
        for peer in [peer for peer in self.unidentified.values() if peer.connected < late]:
            self.refuse(peer)


def _coordinate(bind: tuple[str, int], count: int, seconds: float, log: Callable[[str], None], secret: str) -> str | None:
    """Wait on process 0 until all processes have connected, then let all of them start, or send them the missing ones."""
    began = time.monotonic()
    open_files.raise_limit()  # each process holds a connection
    with contextlib.ExitStack() as opened:
        listeners = [opened.enter_context(listener) for listener in _listen(*bind, began + seconds)]
        selector = opened.enter_context(selectors.DefaultSelector())
        for listener in listeners:
            listener.setblocking(False)
            selector.register(listener, selectors.EVENT_READ)
        coordinator, reports = _Coordinator(count=count, secret=secret, selector=selector), 1
        opened.callback(lambda: [peer.socket.close() for peer in (*coordinator.joined.values(), *coordinator.unidentified.values())])
        while len(coordinator.joined) < count - 1:
            waited = time.monotonic() - began
            missing = set(range(1, count)) - set(coordinator.joined)
            if waited > seconds:
                problem = (
                    f"got {len(coordinator.joined) + 1} of {count} processes after {seconds:.0f} s; missing: {names(missing)}; "
                    f"allowed: all of them; start it, or look at its log and its host{_describe_refused(coordinator.refused)}"
                )
                for peer in coordinator.joined.values():
                    coordinator.send_last(peer, problem)
                return problem
            if waited > reports * REPORT_SECONDS:
                others = _describe_refused(coordinator.refused)
                log(f"waiting for {len(missing)} of {count} processes for {waited:.0f} s now: {names(missing)}{others}")
                reports += 1
            for key, _ in selector.select(timeout=max(0.0, min(seconds, reports * REPORT_SECONDS, waited + 1) - waited) + 0.01):
                ready = typing.cast(socket.socket, key.fileobj)
                if key.data is None:
                    coordinator.accept(ready)
                elif ready.fileno() >= 0:  # an earlier event has not closed it
                    coordinator.read(key.data)
            coordinator.close_late()
        for listener in listeners:  # before any process connects to jax's service there
            listener.close()
        for peer in coordinator.joined.values():
            coordinator.send_last(peer, GO)
    return None


def _describe_refused(refused: int) -> str:
    return f" ({refused:,} connections were not of this run, or had another secret)" if refused else ""


def _connect(address: tuple[str, int], count: int, index: int, seconds: float, log: Callable[[str], None], secret: str) -> str | None:
    """Connect to process 0 on any other process, and wait for its answer."""
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
            log(f"process {index} has waited {waited:.0f} s for process 0 at {address[0]}:{address[1]}: {reason}")
            reports += 1
        time.sleep(RETRY_SECONDS)
    return (
        f"got no answer from process 0 at {address[0]}:{address[1]} in {seconds:.0f} s ({reason}); allowed: a coordinator that process "
        f"{index} can reach; look at process 0's log, the address and the firewall between the hosts"
    )


def _converse(connection: socket.socket, count: int, index: int, secret: str, deadline: float) -> str | None:
    """Identify this process; return the final answer of process 0, or None if another service answers."""
    theirs, ours = _line(connection, time.monotonic() + TRY_SECONDS), secrets.token_hex(16)
    if not re.fullmatch("[0-9a-f]{32}", theirs):
        return None
    connection.sendall(f"{count} {index} {ours} {_code(secret, 'come', theirs, ours, count, index)}\n".encode())
    code, _, answer = _line(connection, deadline).partition(" ")
    return answer if hmac.compare_digest(code.encode(), _code(secret, "answer", theirs, ours, answer).encode()) else None


def _line(connection: socket.socket, deadline: float) -> str:
    """Return a line that arrives in time, without its end; empty for anything else."""
    line = b""
    while not line.endswith(b"\n"):
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            part = connection.recv(LONGEST_LINE)
        except TimeoutError:
            return ""
        line += part
        if not part or len(line) > LONGEST_LINE:
            return ""
    return line[:-1].decode(errors="replace")


def _code(secret: str, *parts: object) -> str:
    return hmac.digest(secret.encode(), " ".join(map(str, parts)).encode(), hashlib.sha256).hex()


def _listen(host: str, port: int, deadline: float) -> Iterator[socket.socket]:
    """Listen on the addresses of a host's name, or on all of this host; the port may stay in use for a while."""
    if host in ANYWHERE:
        both = socket.has_dualstack_ipv6()
        addresses = [(socket.AF_INET6 if both else socket.AF_INET, ("::" if both else "0.0.0.0", port), both)]
    else:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys((family, address, False) for family, _, _, _, address in found))
    problem, listening = None, 0
    for family, address, both in addresses:
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
    with contextlib.suppress(OSError):  # it has disconnected, which jax's own start will notice
        connection.sendall(f"{line}\n".encode())
