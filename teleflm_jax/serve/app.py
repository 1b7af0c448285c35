"""The HTTP side: routes, streams, and OpenAI's shape for every error."""

import asyncio
import contextlib
import dataclasses
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp

from teleflm_jax.errors import UserError
from teleflm_jax.generate.request import Piece
from teleflm_jax.serve import answers, gate, openapi, protocol
from teleflm_jax.serve.answers import Vocabulary
from teleflm_jax.serve.bodies import Bodies
from teleflm_jax.serve.gate import Gate
from teleflm_jax.serve.metrics import CONTENT_TYPE, Metrics
from teleflm_jax.serve.protocol import Call, Refusal, Served
from teleflm_jax.serve.worker import Failed, Full, Job, Stopped, Worker

RETRY_SECONDS = "1"
"""What a client is told to wait where the queue is full."""
CHATS = 1
"""Conversations that are encoded at a time, fewer than bodies (`bodies.READERS`): for a template that hangs no completion waits."""
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


@dataclasses.dataclass(kw_only=True)
class Service:
    """What the routes share."""

    served: Served
    vocabulary: Vocabulary
    worker: Worker
    metrics: Metrics
    gate: Gate = Gate()
    bodies: Bodies = dataclasses.field(default_factory=Bodies)
    stopping: bool = False
    """Whether new requests are refused."""
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))
    chats: asyncio.Semaphore = dataclasses.field(default_factory=lambda: asyncio.Semaphore(CHATS))
    """Held while a conversation is encoded."""

    def models(self) -> list[dict[str, object]]:
        """The one there is."""
        about = {"id": self.served.name, "object": "model", "created": self.created, "owned_by": "teleflm_jax"}
        return [about | {"max_model_len": self.served.context_length}]


def app(service: Service) -> ASGIApp:
    """The ASGI application."""

    async def completions(request: Request) -> Answer:
        return await _answer(service, request, protocol.completion, contextlib.nullcontext())

    async def chat_completions(request: Request) -> Answer:
        return await _answer(service, request, protocol.conversation, service.chats)

    async def models(request: Request) -> Response:
        _admit(service, request)
        return _json({"object": "list", "data": service.models()})

    async def model(request: Request) -> Response:
        _admit(service, request)
        if request.path_params["name"] != service.served.name:
            raise Refusal(f"got an unknown model; allowed: {service.served.name!r}; change the path", status=404, code="model_not_found")
        return _json(service.models()[0])

    async def health(_) -> Response:
        return _health(service)

    async def metrics(_) -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    async def described(_) -> Response:
        return _json(description)

    description = openapi.describe(service.served, service.worker.capacity)
    routes = [
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/openapi.json", described),
    ]
    inner = Starlette(routes=routes, exception_handlers={Refusal: _refused, HTTPException: _no_route, Exception: _bug})
    inner.router.redirect_slashes = False
    return _counted(service, routes, _shared(service, inner))


def _shared(service: Service, inner: ASGIApp) -> ASGIApp:
    """The application for pages of the origins that are allowed, if there are any."""
    if not service.gate.origins:
        return inner
    return CORSMiddleware(
        inner, allow_origins=service.gate.origins, allow_methods=["GET", "POST"], allow_headers=["*"], expose_headers=["Retry-After"]
    )


def _counted(service: Service, routes: list[Route], inner: ASGIApp) -> ASGIApp:
    """The application for whoever is no stranger; all requests are counted."""

    async def application(scope, receive, send) -> None:
        connection, state = scope["state"]["connection"], scope["state"]
        state["outcome"] = "disconnected"

        async def sent(message) -> None:
            if message["type"] == "http.response.start":
                state["outcome"] = message["status"]
            await send(message)

        connection.begin()
        try:
            gate.refuse_stranger(service.gate, gate.headers(scope))
            await inner(scope, receive, sent)
        except Refusal as refusal:
            await _response(refusal)(scope, receive, sent)
        finally:
            connection.answered()
            service.metrics.requests.labels(_route(routes, scope), state["outcome"]).inc()

    return application


def _route(routes: list[Route], scope: MutableMapping[str, Any]) -> str:
    """The template of a request's path, so that there are few."""
    return next((route.path_format for route in routes if route.matches(scope)[0] != Match.NONE), "other")


@dataclasses.dataclass(kw_only=True)
class Answer:
    """An ASGI response that is written while the engine writes; however it ends, the engine drops what is unfinished."""

    service: Service
    call: Call
    job: Job
    leave: contextlib.AsyncExitStack
    """Ends the job."""
    begun: float
    state: dict[str, Any]
    """State of the ASGI scope, whose `outcome` is counted."""
    head: dict[str, object]

    async def __call__(self, scope, receive, send) -> None:
        """Send it, or stop when the client has gone."""
        async with self.leave:
            if self.call.stream:
                response = StreamingResponse(self._stream(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
            else:
                response = await _unless_gone(self._whole(), receive)
                if response is None:
                    return
            await response(scope, receive, send)

    async def _whole(self) -> Response:
        parts: list[list[Piece]] = [[] for _ in self.call.requests]
        try:
            async for number, piece in self._pieces():
                parts[number].append(piece)
        except (Failed, Stopped) as error:
            return _response(_of_worker(error))
        choices = answers.choices(self.call, self.service.vocabulary)
        return _json(answers.whole(self.call, self.head, choices, parts))

    async def _stream(self) -> AsyncIterator[bytes]:
        choices, outcome = answers.choices(self.call, self.service.vocabulary), "disconnected"
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
            outcome = 200
        except (Failed, Stopped) as error:
            outcome = _of_worker(error).status
            yield answers.event(_of_worker(error).body())
        finally:
            self.state["outcome"] = outcome

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        metrics, first = self.service.metrics, True
        async for number, piece in self.job.pieces():
            if first:
                metrics.first_seconds.observe(time.perf_counter() - self.begun)
                first = False
            metrics.new_tokens.inc(len(piece.tokens))
            yield number, piece
        metrics.whole_seconds.observe(time.perf_counter() - self.begun)


async def _answer(service: Service, request: Request, read: Callable[..., Call], turn: contextlib.AbstractAsyncContextManager) -> Answer:
    """Begin to answer a request, whose body is read in its turn; what is wrong with it is raised as a `Refusal`."""
    begun = time.perf_counter()
    _admit(service, request)
    gate.refuse_type(gate.headers(request.scope))
    async with service.bodies.body(request, turn) as content:
        call = await asyncio.to_thread(lambda: read(protocol.parse(content), service.served, most=service.worker.capacity))  # takes a while
    async with contextlib.AsyncExitStack() as stack:
        job = await _job(service, call, stack)
        leave = stack.pop_all()
    service.metrics.prompt_tokens.inc(call.prompt_tokens)
    name = f"{'chatcmpl' if call.chat else 'cmpl'}-{secrets.token_hex(12)}"
    head = {"id": name, "created": int(time.time()), "model": service.served.name}
    return Answer(service=service, call=call, job=job, leave=leave, begun=begun, state=request.scope["state"], head=head)


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
    gate.refuse_keyless(service.gate, gate.headers(request.scope))
    if service.stopping:
        raise _of_worker(Stopped())


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
    return _json(told, 200 if state == "ok" else 503)


async def _refused(_, refusal: Refusal) -> Response:
    return _response(refusal)


async def _no_route(request: Request, error: HTTPException) -> Response:
    allowed = "POST to /v1/completions and /v1/chat/completions, GET of /v1/models, /health, /metrics and /openapi.json"
    refusal = Refusal(f"got {request.method} {request.scope['path'][:99]}; allowed: {allowed}; change it", status=error.status_code)
    return _response(refusal, dict(error.headers or {}))


async def _bug(*_) -> Response:
    return _response(
        Refusal("the server failed at this request; its log says where; other requests go on", status=500, code="internal_error")
    )


def _response(refusal: Refusal, headers: dict[str, str] | None = None) -> Response:
    wait = {"Retry-After": RETRY_SECONDS} if refusal.status in (429, 503) else {}
    challenge = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
    return _json(refusal.body(), refusal.status, (headers or {}) | wait | challenge)


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(answers.to_json(value), status_code=status, media_type="application/json", headers=headers)
