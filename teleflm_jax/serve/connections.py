"""Limits on open connections, and on the time that one may wait for a request or leave an answer unread.

uvicorn limits neither. A `Connection` stands between asyncio and uvicorn's protocol and forwards everything; `Connections.sweep` closes
those that are overdue.
"""

import asyncio
import dataclasses
import typing
from typing import Any

from prometheus_client import Counter
from uvicorn.protocols.http.h11_impl import H11Protocol

from teleflm_jax import open_files

MAX_CONNECTIONS = 1024
"""Most connections at one time."""
BACKLOG = 128
"""Connections that the system queues; asyncio accepts as many at once, so for a moment the limit may be exceeded by this number."""
RESERVED_FILES = 128
"""Open files for purposes other than connections."""
HEAD_SECONDS = 20.0
"""Time from the opening of a connection, or its last answer, until the next request's head is complete."""
WRITE_SECONDS = 20.0
"""Time in which a client must read MIN_BYTES_READ of a pending answer."""
MIN_BYTES_READ = 16 << 10
READ_BYTES = 32 << 10
"""Most bytes read from a connection in one turn of the event loop; h11 needs 60 ms for as many in chunks of one."""
SWEEP_SECONDS = 1.0
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
)


def limit() -> int:
    """Return the number of connections that the limit of open files allows, at most MAX_CONNECTIONS."""
    return max(8, min(MAX_CONNECTIONS, open_files.limit() - BACKLOG - RESERVED_FILES))


@dataclasses.dataclass(kw_only=True, eq=False)
class Connections:
    """All open connections, in the order in which their present waits began."""

    limit: int
    closed: Counter
    """Number of connections that ended before a request or without reading its answer, by reason."""
    full: bytes
    """Body of the answer to a client for which there is no room."""
    open: dict["Connection", None] = dataclasses.field(default_factory=dict)

    def protocol(self, **settings: Any) -> "Connection":
        """Create a protocol for uvicorn; the ASGI scope's state holds the connection."""
        connection = Connection(pool=self)
        state = settings.pop("app_state") | {"connection": connection}
        connection.inner = H11Protocol(app_state=state, **settings)
        return connection

    def admit(self, connection: "Connection") -> bool:
        """Admit a new connection, if need be by closing the one that has waited longest for a request or the end of its body."""
        if len(self.open) >= self.limit:
            idle = next((each for each in self.open if each.waits or each.receiving), None)
            if idle is None:
                self.closed.labels("full").inc()
                return False
            idle.close("full")
        self.open[connection] = None
        return True

    async def sweep(self) -> None:
        """Close overdue connections, forever."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = asyncio.get_running_loop().time()
            for connection in list(self.open):
                connection.check(now)


@dataclasses.dataclass(kw_only=True, eq=False)
class Connection:
    """A connection, called by asyncio as a protocol."""

    pool: Connections
    inner: H11Protocol = dataclasses.field(init=False)
    transport: asyncio.Transport = dataclasses.field(init=False)
    requests: int = 0
    """Number of requests being answered."""
    receiving: bool = False
    """True while the body of the present request is incomplete."""
    heard: bool = False
    """True if bytes arrived since the last answer."""
    since: float = 0.0
    """Start of the present wait, for a request or for the client to read."""
    unread: int | None = None
    """Bytes pending at `since`; None: writing is not paused."""

    @property
    def waits(self) -> bool:
        """True if there is neither a request to answer nor an answer to send."""
        return not self.requests and self.unread is None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Open the connection, or refuse it if there is no room."""
        self.transport = transport
        if not self.pool.admit(self):
            transport.write(FULL % (len(self.pool.full), self.pool.full))
            transport.close()
            return
        typing.cast(Any, transport).max_size = READ_BYTES  # asyncio's own, which says how much it reads at a time
        self._wait()
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Forward received bytes."""
        self.heard = True
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Forward the end of input; a client that closes during its answer counts as disconnected, however much is left to send."""
        if self.requests:
            self.transport.abort()
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        """Start to check whether the client reads."""
        self.unread = self.transport.get_write_buffer_size()
        self._wait()
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        """Stop to check it."""
        self.unread = None
        self._wait()
        self.inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        """Remove the connection; uvicorn does not know one that was refused."""
        if self in self.pool.open:
            if self.heard and not self.requests:
                self.pool.closed.labels("no_request").inc()
            del self.pool.open[self]
        if self.inner.transport is not None:
            self.inner.connection_lost(error)

    def request_started(self) -> None:
        """Count a request whose head is complete."""
        self.requests += 1

    def request_ended(self) -> None:
        """Count the end of a request and start the wait for the next one."""
        self.requests -= 1
        self.heard = bool(self.inner.conn.trailing_data[0])  # the next head may have started in the same packet
        self._wait()
        if self in self.pool.open:  # after those that have waited longer
            self.pool.open[self] = self.pool.open.pop(self)

    def check(self, now: float) -> None:
        """Close the connection if it is overdue."""
        if self.unread is not None:
            left = self.transport.get_write_buffer_size()
            if left <= self.unread - MIN_BYTES_READ:
                self.unread, self.since = left, now
            elif now - self.since > WRITE_SECONDS:
                self.close("slow_reader")
        elif not self.requests and now - self.since > HEAD_SECONDS:
            self.close("slow_head" if self.heard else "idle")

    def close(self, reason: str) -> None:
        """Close the connection at once, whatever is left to send."""
        self.pool.closed.labels(reason).inc()
        self.pool.open.pop(self, None)
        self.transport.abort()

    def _wait(self) -> None:
        self.since = asyncio.get_running_loop().time()
