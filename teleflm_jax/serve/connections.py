"""Connections: how many are open, and how long one may wait for a request or leave an answer unread.

uvicorn bounds neither. A `Connection` stands between asyncio and uvicorn's protocol and passes everything on; `Connections.sweep` ends
those that are overdue.
"""

import asyncio
import dataclasses
from typing import Any

from prometheus_client import Counter
from uvicorn.protocols.http.h11_impl import H11Protocol

from teleflm_jax import open_files

MOST = 1024
"""Connections at one time."""
BACKLOG = 128
"""Connections that the system accepts ahead; asyncio takes so many at once, so for a moment as many are open beyond the limit."""
OTHER_FILES = 128
"""Files for all else than connections."""
HEAD_SECONDS = 20.0
"""Time from the opening of a connection, or its last answer, until the next request's head is whole."""
WRITE_SECONDS = 20.0
"""Time in which a client must take LEAST_BYTES of an answer that waits to be sent."""
LEAST_BYTES = 16 << 10
READ_BYTES = 32 << 10
"""Taken from a connection in one turn of the event loop; h11 needs 60 ms for as many bytes in chunks of one."""
SWEEP_SECONDS = 1.0
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
)


def most() -> int:
    """Return the number of connections that the limit of open files leaves room for, at most MOST."""
    return max(8, min(MOST, open_files.limit() - BACKLOG - OTHER_FILES))


@dataclasses.dataclass(kw_only=True, eq=False)
class Connections:
    """All that are open, in the order in which their present waits began."""

    most: int
    closed: Counter
    """Connections that ended before their request or without taking its answer, by reason."""
    full: bytes
    """Body of the answer to whoever finds no room."""
    open: dict["Connection", None] = dataclasses.field(default_factory=dict)

    def protocol(self, **settings: Any) -> "Connection":
        """Make what uvicorn makes a protocol of; the ASGI scope's state has the connection."""
        connection = Connection(pool=self)
        state = settings.pop("app_state") | {"connection": connection}
        connection.inner = H11Protocol(app_state=state, **settings)
        return connection

    def admit(self, connection: "Connection") -> bool:
        """Take a new connection in; where there is no room, one makes room that has long waited for its request or the end of its body."""
        if len(self.open) >= self.most:
            idle = next((each for each in self.open if each.waits or each.receiving), None)
            if idle is None:
                self.closed.labels("full").inc()
                return False
            idle.end("full")
        self.open[connection] = None
        return True

    async def sweep(self) -> None:
        """End what is overdue, for ever."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = asyncio.get_running_loop().time()
            for connection in list(self.open):
                connection.check(now)


@dataclasses.dataclass(kw_only=True, eq=False)
class Connection:
    """One connection, called by asyncio as a protocol is."""

    pool: Connections
    inner: H11Protocol | None = None
    transport: asyncio.Transport | None = None
    requests: int = 0
    """Under way."""
    receiving: bool = False
    """Whether the body of the request under way has not yet come."""
    heard: bool = False
    """Whether bytes came since the last answer."""
    since: float = 0.0
    """When the present wait, for a request or for the client to read, began."""
    unread: int | None = None
    """Bytes that wait to be sent, as of `since`; None: not so many that writing is paused."""

    @property
    def waits(self) -> bool:
        """Whether there is neither a request under way nor an answer to send."""
        return not self.requests and self.unread is None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin, or refuse for want of room."""
        self.transport = transport
        if not self.pool.admit(self):
            transport.write(FULL % (len(self.pool.full), self.pool.full))
            transport.close()
            return
        transport.max_size = READ_BYTES
        self._wait()
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass on."""
        self.heard = True
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on; a client that goes in the midst of its answer is gone, however much is left to send."""
        if self.requests:
            self.transport.abort()
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        """Begin to watch whether the client reads."""
        self.unread = self.transport.get_write_buffer_size()
        self._wait()
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        """End to watch it."""
        self.unread = None
        self._wait()
        self.inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        """Forget it; uvicorn never heard of one that found no room."""
        if self in self.pool.open:
            if self.heard and not self.requests:
                self.pool.closed.labels("no_request").inc()
            del self.pool.open[self]
        if self.inner.transport is not None:
            self.inner.connection_lost(error)

    def begin(self) -> None:
        """Count a request whose head is whole."""
        self.requests += 1

    def answered(self) -> None:
        """Count its end, from which on the next one is waited for."""
        self.requests -= 1
        self.heard = bool(self.inner.conn.trailing_data[0])  # the next head may have begun in the same packet
        self._wait()
        if self in self.pool.open:  # behind those that have waited longer
            self.pool.open[self] = self.pool.open.pop(self)

    def check(self, now: float) -> None:
        """End it if it is overdue."""
        if self.unread is not None:
            left = self.transport.get_write_buffer_size()
            if left <= self.unread - LEAST_BYTES:
                self.unread, self.since = left, now
            elif now - self.since > WRITE_SECONDS:
                self.end("slow_reader")
        elif not self.requests and now - self.since > HEAD_SECONDS:
            self.end("slow_head" if self.heard else "idle")

    def end(self, reason: str) -> None:
        """Close it at once, whatever is left to send."""
        self.pool.closed.labels(reason).inc()
        self.pool.open.pop(self, None)
        self.transport.abort()

    def _wait(self) -> None:
        self.since = asyncio.get_running_loop().time()
