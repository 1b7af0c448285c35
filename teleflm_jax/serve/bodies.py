"""Bodies of requests: whole within a time, and within a number of bytes for each and for all together."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from teleflm_jax.serve.config import BODY_SECONDS, MAX_BODY_BYTES
from teleflm_jax.serve.protocol import Refusal

ALL_BYTES = 64 << 20
"""Most bytes of all bodies that have come, wholly or in part, and are not yet read."""
FREE_BYTES = 64 << 10
"""Bytes of each body that do not count: whoever holds back large bodies keeps no small one out."""
READERS = 2
"""Bodies that are parsed and encoded at one time; a parsed one may take 25 times its bytes."""
MOST_MARKS = 1 << 18
"""Brackets, braces and colons in a body. All else stands still while Python parses them: 0.4 s for so many, 2 s for a body full of them."""


@dataclasses.dataclass(kw_only=True)
class Bodies:
    """A bound on what bodies take of a server's memory and time."""

    held: int = 0
    """Bytes that count."""
    readers: asyncio.Semaphore = dataclasses.field(default_factory=lambda: asyncio.Semaphore(READERS))

    @contextlib.asynccontextmanager
    async def body(self, request: Request, turn: contextlib.AbstractAsyncContextManager) -> AsyncIterator[bytes]:
        """A request's body, while it has its turn among those of its kind and one of the readers is free for it.

        Raises:
            Refusal: it is too large, comes too slowly, ends early, finds no room, or has too many values.
        """
        connection = request.scope["state"]["connection"]
        connection.receiving = True
        try:
            content = await self._receive(request)
        finally:
            connection.receiving = False
        try:
            if (marks := sum(map(content.count, b"[{:"))) > MOST_MARKS:
                raise Refusal(f"got a body with {marks:,} brackets, braces and colons; allowed: {MOST_MARKS:,}; send less")
            async with turn, self.readers:
                yield content
        finally:
            self.held -= _counted(content)

    async def _receive(self, request: Request) -> bytes:
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > MAX_BODY_BYTES:
            raise _too_large()
        content = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    self.held -= _counted(content)
                    content += part
                    self.held += _counted(content)
                    if len(content) > MAX_BODY_BYTES:
                        raise _too_large()
                    if self.held > ALL_BYTES:
                        raise _no_room()
            return bytes(content)
        except BaseException as error:
            self.held -= _counted(content)
            if isinstance(error, TimeoutError):
                raise _too_slow() from error
            if isinstance(error, ClientDisconnect):
                raise Refusal("got a body that ends early; allowed: a whole one; send it again") from error
            raise


def _counted(content: bytes | bytearray) -> int:
    return max(0, len(content) - FREE_BYTES)


def _too_large() -> Refusal:
    return Refusal(f"got a body of more than {MAX_BODY_BYTES:,} bytes; allowed: at most as many; send less", status=413)


def _too_slow() -> Refusal:
    return Refusal(f"got no whole body in {BODY_SECONDS:g} seconds; allowed: within that time; send it faster", status=408)


def _no_room() -> Refusal:
    return Refusal(
        f"got a body while others fill the {ALL_BYTES:,} bytes that there are for them; allowed: when there is room; try again later",
        status=503,
        code="bodies_full",
    )
