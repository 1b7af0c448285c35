"""A socket, signals, and an end without broken answers."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable

import uvicorn

from teleflm_jax.errors import UserError
from teleflm_jax.serve import answers, connections
from teleflm_jax.serve.app import Service, app
from teleflm_jax.serve.connections import BACKLOG, HEAD_SECONDS, Connections
from teleflm_jax.serve.protocol import Refusal

LOOPBACK = ("127.", "::1")
LAST_SECONDS = 5
"""For connections to close after the last answer."""


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address, so that a port that is taken is known before weights are loaded; nobody can connect yet.

    Raises:
        UserError: it cannot be bound.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.socket(family, kind)
    except OSError as error:
        raise UserError(f"got the host {host} ({error.strerror}); allowed: an address of this machine; change --host") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        raise UserError(f"got {host}:{port} ({error.strerror}); allowed: a free port of this machine; change --port or --host") from error
    return found


def address(listening: socket.socket) -> str:
    """Where clients find it."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_local(listening: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return listening.getsockname()[0].startswith(LOOPBACK)


async def serve(service: Service, listening: socket.socket, *, grace: float, ready: Callable[[Callable[[], None]], None]) -> None:
    """Answer requests until SIGTERM or SIGINT; then refuse new ones, and give those under way `grace` seconds.

    A second signal ends the process at once.

    Args:
        service: its worker has been started; it is ended here.
        listening: of `listen`.
        grace: seconds.
        ready: told when requests are answered, with a function that does what a signal does and may be called from any thread.
    """
    pool = Connections(most=connections.most(), closed=service.metrics.closed, full=answers.to_json(_full().body()))
    config = uvicorn.Config(
        app(service),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        http=pool.protocol,
        ws="none",
        loop="asyncio",
        backlog=BACKLOG,
        timeout_keep_alive=HEAD_SECONDS,
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    for name in (
        "uvicorn.error",
        "asyncio",
    ):  # their warnings are lines that clients cause: a malformed request, a write after they have gone
        logging.getLogger(name).setLevel(logging.ERROR)
    server, loop, asked = uvicorn.Server(config), asyncio.get_running_loop(), asyncio.Event()
    stop = lambda: loop.call_soon_threadsafe(asked.set)  # noqa: E731

    def signalled(number: int, _) -> None:
        if service.stopping:
            os.write(2, b"a second signal: leaving at once\n")
            os._exit(128 + number)
        stop()

    server.handle_exit = signalled  # uvicorn's own would close the socket at once, and refuse by a reset what can be answered with 503
    listening.listen(BACKLOG)
    tasks = [asyncio.create_task(_end(service, server, asked, grace)), asyncio.create_task(pool.sweep())]
    ready(stop)
    try:
        await server.serve(sockets=[listening])
    finally:
        for task in tasks:
            task.cancel()
        await service.worker.end()


async def _end(service: Service, server: uvicorn.Server, asked: asyncio.Event, grace: float) -> None:
    await asked.wait()
    service.stopping = True
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(service.worker.empty.wait(), grace)
    await service.worker.end()
    server.should_exit = True


def _full() -> Refusal:
    return Refusal(
        "got a connection while as many are open as there may be; allowed: when there is room; try again later",
        status=503,
        code="connections_full",
    )
