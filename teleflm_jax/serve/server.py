"""The server's socket, signals, and a shutdown that completes answers."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable

import uvicorn

from teleflm_jax.errors import UserError
from teleflm_jax.serve import connections, responses
from teleflm_jax.serve.app import Service, app
from teleflm_jax.serve.connections import BACKLOG, HEAD_SECONDS, Connections
from teleflm_jax.serve.protocol import ApiError

LOOPBACK = ("127.", "::1")
CLOSE_SECONDS = 5
"""Time for connections to close after the last answer."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address, so that a used port is detected before weights are loaded; nobody can connect yet.

    Raises:
        UserError: the address cannot be bound.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, kind)
    except OSError as error:
        raise UserError(f"got the host {host} ({error.strerror}); allowed: an address of this machine; change --host") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise UserError(f"got {host}:{port} ({error.strerror}); allowed: a free port of this machine; change --port or --host") from error
    return bound


def address(listening: socket.socket) -> str:
    """Return the URL of the server."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_local(listening: socket.socket) -> bool:
    """Return whether only this machine can reach the server."""
    return listening.getsockname()[0].startswith(LOOPBACK)


async def serve(service: Service, listening: socket.socket, *, grace: float, ready: Callable[[Callable[[], None]], None]) -> None:
    """Answer requests until SIGTERM or SIGINT; then refuse new ones, and give running ones `grace` seconds.

    A second signal ends the process at once.

    Args:
        service: its engine thread has been started; it is ended here.
        listening: from `listen`.
        grace: seconds.
        ready: called when requests are answered, with a function that acts as a signal does and may be called from any thread.
    """
    pool = Connections(limit=connections.limit(), closed=service.metrics.closed, full=responses.to_json(_full().body()))
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
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    # clients cause their warnings: by a malformed request, or by leaving before a write
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(logging.ERROR)
    server, loop, requested = uvicorn.Server(config), asyncio.get_running_loop(), asyncio.Event()
    stop = lambda: loop.call_soon_threadsafe(requested.set)  # noqa: E731

    def signalled(number: int, _) -> None:
        if service.stopping:
            os.write(2, b"second signal: exiting at once\n")
            os._exit(128 + number)
        stop()

    server.handle_exit = (
        signalled  # uvicorn's own handler would close the socket at once, and reset connections that can be answered with 503
    )
    listening.listen(BACKLOG)
    tasks = [asyncio.create_task(_end(service, server, requested, grace)), asyncio.create_task(pool.sweep())]
    ready(stop)
    try:
        await server.serve(sockets=[listening])
    finally:
        for task in tasks:
            task.cancel()
        await service.engine_thread.end()


async def _end(service: Service, server: uvicorn.Server, requested: asyncio.Event, grace: float) -> None:
    await requested.wait()
    service.stopping = True
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(service.engine_thread.empty.wait(), grace)
    await service.engine_thread.end()
    server.should_exit = True


def _full() -> ApiError:
    return ApiError(
        "got a connection while the most allowed are open; allowed: when there is room; try again later",
        status=503,
        code="connections_full",
    )
