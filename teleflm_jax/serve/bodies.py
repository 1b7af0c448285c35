"""Bodies of requests, limited in time and in bytes, each and all together."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from teleflm_jax.serve.config import BODY_SECONDS, MAX_BODY_BYTES
from teleflm_jax.serve.protocol import ApiError

MAX_TOTAL_BYTES = 64 << 20
"""Most bytes of all bodies that have arrived, wholly or in part, and are not parsed yet."""
UNCOUNTED_BYTES = 64 << 10
"""Bytes of each body that do not count, so that unfinished large bodies keep no small one out."""
PARSERS = 2
"""Bodies that are parsed and encoded at one time; a parsed body may take 25 times its bytes."""
MAX_DELIMITERS = 1 << 18
"""Maximum brackets, braces and colons in a body. Parsing holds the interpreter's lock: 0.4 s for this many, 2 s for a body full of them."""


@dataclasses.dataclass(kw_only=True)
class Bodies:
    """Limits on the memory and time that bodies take."""

    held: int = 0
    """Bytes that count towards MAX_TOTAL_BYTES."""
    parsers: asyncio.Semaphore = dataclasses.field(default_factory=lambda: asyncio.Semaphore(PARSERS))

    @contextlib.asynccontextmanager
    async def body(self, request: Request, turn: contextlib.AbstractAsyncContextManager[object]) -> AsyncIterator[bytes]:
        """Receive a request's body, and yield it once it has its turn and one of the parsers.

        Raises:
            ApiError: the body is too large, too slow, incomplete, finds no room, or has too many values.
        """
        connection = request.scope["state"]["connection"]
        connection.receiving = True
        try:
            content = await self._receive(request)
        finally:
            connection.receiving = False
        try:
            if (delimiters := sum(map(content.count, b"[{:"))) > MAX_DELIMITERS:
                raise ApiError(f"got a body with {delimiters:,} brackets, braces and colons; allowed: {MAX_DELIMITERS:,}; send less")
            async with turn, self.parsers:
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
                    if self.held > MAX_TOTAL_BYTES:
                        raise _no_room()
            return bytes(content)
        except BaseException as error:
            self.held -= _counted(content)
            if isinstance(error, TimeoutError):
                raise _too_slow() from error
            if isinstance(error, ClientDisconnect):
                raise ApiError("got a body that ends early; allowed: a complete one; send it again") from error
            raise


def _counted(content: bytes | bytearray) -> int:
    return max(0, len(content) - UNCOUNTED_BYTES)


def _too_large() -> ApiError:
    return ApiError(f"got a body of more than {MAX_BODY_BYTES:,} bytes; allowed: at most this size; send less", status=413)


def _too_slow() -> ApiError:
    return ApiError(f"got no complete body in {BODY_SECONDS:g} seconds; allowed: within that time; send it faster", status=408)


def _no_room() -> ApiError:
    return ApiError(
        f"got a body while others fill the {MAX_TOTAL_BYTES:,} bytes for bodies; allowed: when there is room; try again later",
        status=503,
        code="bodies_full",
    )
