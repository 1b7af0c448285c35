"""The HTTP side: routes, streams, and OpenAI's shape for every error."""

import asyncio
import contextlib
import dataclasses
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from teleflm_jax.errors import UserError
from teleflm_jax.generate.request import Piece
from teleflm_jax.serve import answers, protocol
from teleflm_jax.serve.answers import Vocabulary
from teleflm_jax.serve.config import BODY_SECONDS, MAX_BODY_BYTES
from teleflm_jax.serve.metrics import CONTENT_TYPE, Metrics
from teleflm_jax.serve.protocol import Call, Refusal, Served
from teleflm_jax.serve.worker import Failed, Full, Job, Stopped, Worker

RETRY_SECONDS = "1"
"""What a client is told to wait where the queue is full."""
CHATS = 2
"""Conversations that are encoded at a time: a template may need seconds, and the threads that encode are completions' too."""
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


@dataclasses.dataclass(kw_only=True)
class Service:
    """What the routes share."""

    served: Served
    vocabulary: Vocabulary
    worker: Worker
    metrics: Metrics
    key: str | None = None
    """That requests to /v1 must bear."""
    stopping: bool = False
    """Whether new requests are refused."""
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))
    chats: asyncio.Semaphore = dataclasses.field(default_factory=lambda: asyncio.Semaphore(CHATS))
    """Held while a conversation is encoded."""

    def models(self) -> list[dict[str, object]]:
        """The one there is."""
        about = {"id": self.served.name, "object": "model", "created": self.created, "owned_by": "teleflm_jax"}
        return [about | {"max_model_len": self.served.context_length}]


def app(service: Service) -> Starlette:
    """The ASGI application."""

    async def completions(request: Request) -> Answer:
        return await _answer(service, request, protocol.completion)

    async def chat_completions(request: Request) -> Answer:
        return await _answer(service, request, protocol.conversation)

    async def models(request: Request) -> Response:
        _admit(service, request)
        return JSONResponse({"object": "list", "data": service.models()})

    async def model(request: Request) -> Response:
        _admit(service, request)
        if request.path_params["name"] != service.served.name:
            raise Refusal(f"got an unknown model; allowed: {service.served.name!r}; change the path", status=404, code="model_not_found")
        return JSONResponse(service.models()[0])

    async def health(_) -> Response:
        return _health(service)

    async def metrics(_) -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return Starlette(
        routes=[
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/health", health),
            Route("/metrics", metrics),
        ],
        exception_handlers={Refusal: _refused, HTTPException: _no_route, Exception: _bug},
    )


@dataclasses.dataclass(kw_only=True)
class Answer:
    """An ASGI response that is written while the engine writes; however it ends, the engine drops what is unfinished."""

    service: Service
    call: Call
    job: Job
    leave: contextlib.AsyncExitStack
    """Ends the job."""
    begun: float
    path: str
    head: dict[str, object]

    async def __call__(self, scope, receive, send) -> None:
        """Send it, or stop when the client has gone."""
        async with self.leave:
            if self.call.stream:
                response = StreamingResponse(self._stream(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
            else:
                response = await _unless_gone(self._whole(), receive)
                if response is None:
                    self._count("disconnected")
                    return
            await response(scope, receive, send)

    async def _whole(self) -> Response:
        parts: list[list[Piece]] = [[] for _ in self.call.requests]
        try:
            async for number, piece in self._pieces():
                parts[number].append(piece)
        except (Failed, Stopped) as error:
            refusal = _of_worker(error)
            self._count(refusal.status)
            return _response(refusal)
        self._count(200)
        choices = answers.choices(self.call, self.service.vocabulary)
        return Response(answers.to_json(answers.whole(self.call, self.head, choices, parts)), media_type="application/json")

    async def _stream(self) -> AsyncIterator[bytes]:
        choices, status = answers.choices(self.call, self.service.vocabulary), "disconnected"
        try:
            for choice in choices:
                if first := answers.opening(self.call, self.head, choice):
                    yield answers.event(first)
            async for number, piece in self._pieces():
                if found := answers.chunk(self.call, self.head, choices[number], piece):
                    yield answers.event(found)
            if self.call.usage:
                yield answers.event(answers.closing(self.call, self.head, choices))
            yield answers.DONE
            status = 200
        except (Failed, Stopped) as error:
            status = _of_worker(error).status
            yield answers.event(_of_worker(error).body())
        finally:
            self._count(status)

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        metrics, first = self.service.metrics, True
        async for number, piece in self.job.pieces():
            if first:
                metrics.first_seconds.observe(time.perf_counter() - self.begun)
                first = False
            metrics.new_tokens.inc(len(piece.tokens))
            yield number, piece
        metrics.whole_seconds.observe(time.perf_counter() - self.begun)

    def _count(self, status: int | str) -> None:
        self.service.metrics.requests.labels(self.path, status).inc()


async def _answer(service: Service, request: Request, read: Callable[..., Call]) -> Answer:
    """Begin to answer a request; what is wrong with it is raised as a `Refusal`."""
    begun, path = time.perf_counter(), request.url.path
    try:
        _admit(service, request)
        body = protocol.parse(await _body(request))
        async with service.chats if read is protocol.conversation else contextlib.nullcontext():
            call = await asyncio.to_thread(read, body, service.served, most=service.worker.capacity)  # long texts take a while to encode
        async with contextlib.AsyncExitStack() as stack:
            job = await _job(service, call, stack)
            leave = stack.pop_all()
    except Refusal as refusal:
        service.metrics.requests.labels(path, refusal.status).inc()
        raise
    service.metrics.prompt_tokens.inc(call.prompt_tokens)
    name = f"{'chatcmpl' if call.chat else 'cmpl'}-{secrets.token_hex(12)}"
    head = {"id": name, "created": int(time.time()), "model": service.served.name}
    return Answer(service=service, call=call, job=job, leave=leave, begun=begun, path=path, head=head)


async def _job(service: Service, call: Call, stack: contextlib.AsyncExitStack) -> Job:
    try:
        return await stack.enter_async_context(service.worker.job(call.requests))
    except Full as error:
        raise Refusal(
            f"got a request while {service.worker.load} texts are under way or wait; allowed: {service.worker.capacity}; try again later",
            status=429,
            code="queue_full",
        ) from error
    except (Failed, Stopped) as error:
        raise _of_worker(error) from error
    except UserError as error:
        raise Refusal(str(error)) from error


def _admit(service: Service, request: Request) -> None:
    """Refuse whoever has no key, and everyone while the server stops."""
    given = dict(request.scope["headers"]).get(b"authorization", b"")
    if service.key is not None and not hmac.compare_digest(given, f"Bearer {service.key}".encode()):
        raise Refusal(
            "got no valid key; allowed: the server's, as `Authorization: Bearer KEY`; change it", status=401, code="invalid_api_key"
        )
    if service.stopping:
        raise _of_worker(Stopped())


async def _body(request: Request) -> bytes:
    """All of it, as far as it is allowed."""
    too_large = Refusal(f"got a body of more than {MAX_BODY_BYTES:,} bytes; allowed: at most as many; send less", status=413)
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > MAX_BODY_BYTES:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError as error:
        raise Refusal(f"got no whole body in {BODY_SECONDS:g} seconds; allowed: within that time; send it faster", status=408) from error
    except ClientDisconnect as error:
        raise Refusal("got a body that ends early; allowed: a whole one; send it again") from error
    return b"".join(parts)


async def _unless_gone(work: Awaitable[Response], receive: Receive) -> Response | None:
    """The result of some work, which is given up when the client goes; None then."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _of_worker(error: Exception) -> Refusal:
    if isinstance(error, Stopped):
        return Refusal(
            "got a request that the server's end came before; allowed: requests that it has time for; try again later",
            status=503,
            code="stopping",
        )
    return Refusal(f"the engine failed ({error}); the server's log says where; try again", status=500, code="engine_failed")


def _health(service: Service) -> Response:
    worker = service.worker
    state = "stopping" if service.stopping else "ok" if worker.alive else "broken"
    told = {"status": state, "texts": worker.load, "engine_failures": worker.failures, "last_failure": worker.last_failure or None}
    return JSONResponse(told, status_code=200 if state == "ok" else 503)


async def _refused(_, refusal: Refusal) -> Response:
    return _response(refusal)


async def _no_route(request: Request, error: HTTPException) -> Response:
    allowed = "POST to /v1/completions and /v1/chat/completions, GET of /v1/models, /health and /metrics"
    refusal = Refusal(f"got {request.method} {request.url.path[:99]}; allowed: {allowed}; change it", status=error.status_code)
    return _response(refusal, dict(error.headers or {}))


async def _bug(*_) -> Response:
    return _response(
        Refusal("the server failed at this request; its log says where; other requests go on", status=500, code="internal_error")
    )


def _response(refusal: Refusal, headers: dict[str, str] | None = None) -> Response:
    wait = {"Retry-After": RETRY_SECONDS} if refusal.status in (429, 503) else {}
    challenge = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
    return Response(
        answers.to_json(refusal.body()),
        status_code=refusal.status,
        media_type="application/json",
        headers=(headers or {}) | wait | challenge,
    )
