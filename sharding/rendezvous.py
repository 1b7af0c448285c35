"""Waiting until every process of a run has come, so that those that have not can be named.

jax's own start knows only how many it waits for: when one of them never comes, it aborts every other with a C++ stack and names none. So
the processes meet here first, on the coordinator's port, which is free again before jax's service takes it.
"""

import contextlib
import re
import selectors
import socket
import time
from collections.abc import Callable, Collection

from teleflm_jax import open_files

REPORT_SECONDS = 30.0
"""So often the wait is spoken of."""
MARGIN_SECONDS = 10.0
"""A process that has reached the coordinator leaves the end of the wait to it, and so much longer."""
TRY_SECONDS = 5.0
RETRY_SECONDS = 0.2
GO = b"go\n"


def meet(coordinator: str, count: int, index: int, seconds: float, say: Callable[[str], None]) -> str | None:
    """Wait for all processes.

    Args:
        coordinator: HOST:PORT of process 0.
        count: processes.
        index: of this process.
        seconds: to wait at most.
        say: is given a line every 30 s.

    Returns:
        What is wrong, in one line, if they are not all here by then; otherwise None.
    """
    address = split(coordinator)
    return _receive(address[1], count, seconds, say) if index == 0 else _report(address, count, index, seconds, say)


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


def _receive(port: int, count: int, seconds: float, say: Callable[[str], None]) -> str | None:
    """Process 0: take note of who comes, then send all of them on, or tell them who is missing."""
    began = time.monotonic()
    open_files.raise_limit()  # each process holds a connection
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(_listen(port, began + seconds))
        selector = opened.enter_context(selectors.DefaultSelector())
        selector.register(listener, selectors.EVENT_READ)
        here, reports = {}, 1
        while len(here) < count - 1:
            waited = time.monotonic() - began
            missing = set(range(1, count)) - set(here)
            if waited > seconds:
                problem = (
                    f"got {len(here) + 1} of {count} processes after {seconds:.0f} s; missing: {names(missing)}; allowed: all of them; "
                    "start it, or look at its log and its host"
                )
                _send(here.values(), f"{problem}\n".encode())
                return problem
            if waited > reports * REPORT_SECONDS:
                say(f"waiting for {len(missing)} of {count} processes since {waited:.0f} s: {names(missing)}")
                reports += 1
            for key, _ in selector.select(timeout=max(0.0, min(seconds, reports * REPORT_SECONDS) - waited) + 0.01):
                if key.fileobj is listener:
                    visitor = opened.enter_context(listener.accept()[0])
                    selector.register(visitor, selectors.EVENT_READ)
                elif (index := _index(key.fileobj, count)) is not None:
                    here[index] = key.fileobj
                else:  # it has left again, or is none of ours
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
                    here = {index: visitor for index, visitor in here.items() if visitor is not key.fileobj}
        listener.close()  # before anyone looks for jax's service there
        _send(here.values(), GO)
    return None


def _report(address: tuple[str, int], count: int, index: int, seconds: float, say: Callable[[str], None]) -> str | None:
    """The others: tell process 0 that this one has come, and wait for its word."""
    began, reports, reason = time.monotonic(), 1, ""
    while (waited := time.monotonic() - began) < seconds:
        try:
            with socket.create_connection(address, timeout=min(TRY_SECONDS, seconds - waited)) as connection:
                connection.sendall(f"{count} {index}\n".encode())
                connection.settimeout(seconds + MARGIN_SECONDS)
                with connection.makefile("rb") as answers:
                    answer = answers.readline()
            if answer == GO:
                return None
            if answer.startswith(b"got ") and answer.endswith(b"\n"):
                return f"process 0 ended the start: {answer.decode(errors='replace').strip()}"
            reason = "another service answers there"
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


def _listen(port: int, deadline: float) -> socket.socket:
    """Listen on every address of this host, as jax's service does; whoever had the port before may take a while to leave it."""
    both = socket.has_dualstack_ipv6()
    family, host = (socket.AF_INET6, "::") if both else (socket.AF_INET, "")
    while True:
        try:
            return socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=both)
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(RETRY_SECONDS)


def _index(visitor: socket.socket, count: int) -> int | None:
    """The number of the process that speaks, if it is one of this run."""
    with contextlib.suppress(OSError):
        said = re.fullmatch(rb"(\d+) (\d+)\n", visitor.recv(64))
        if said and int(said[1]) == count and 0 < int(said[2]) < count:
            return int(said[2])
    return None


def _send(visitors: Collection[socket.socket], line: bytes) -> None:
    for visitor in visitors:
        with contextlib.suppress(OSError):  # it has left; jax's own start will notice
            visitor.sendall(line)
