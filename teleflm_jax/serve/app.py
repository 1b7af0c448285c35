"""HTTP routes, streams, and errors in OpenAI's format."""

import asyncio
import contextlib
import dataclasses
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp

from teleflm_jax.errors import UserError
from teleflm_jax.generate.request import TextDelta
from teleflm_jax.serve import access, openapi, protocol, responses
from teleflm_jax.serve.access import AccessPolicy
from teleflm_jax.serve.bodies import Bodies
from teleflm_jax.serve.engine_thread import EngineFailed, EngineJob, EngineThread, QueueFull, ServerStopping
from teleflm_jax.serve.metrics import CONTENT_TYPE, Metrics
from teleflm_jax.serve.protocol import ApiError, ParsedBody
from teleflm_jax.serve.responses import Vocabulary
from teleflm_jax.serve.served_model import ServedModel

RETRY_SECONDS = "1"
"""Retry-After header when the queue is full."""
CHATS = 1
"""Conversations that are encoded at a time; fewer than `bodies.PARSERS`, so that no completion waits for a template that hangs."""


class Parser(Protocol):
    """Parses a body of one route."""

    def __call__(self, body: Mapping[str, Any], served: ServedModel, *, max_choices: int) -> ParsedBody:
        """Return the parsed body; raise an `ApiError` if it is invalid."""
        ...


Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


@dataclasses.dataclass(kw_only=True)
class Service:
    """State shared by the routes."""

    served: ServedModel
    vocabulary: Vocabulary
    engine_thread: EngineThread
    metrics: Metrics
    access: AccessPolicy = AccessPolicy()
    bodies: Bodies = dataclasses.field(default_factory=Bodies)
    stopping: bool = False
    """True while new requests are refused because the server is stopping."""
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))
    chats: asyncio.Semaphore = dataclasses.field(default_factory=lambda: asyncio.Semaphore(CHATS))
    """Held while a conversation is encoded."""

    def models(self) -> list[dict[str, object]]:
        """Describe the model."""
        model: dict[str, object] = {"id": self.served.name, "object": "model", "created": self.created, "owned_by": "teleflm_jax"}
        return [model | {"max_model_len": self.served.context_length}]


def app(service: Service) -> ASGIApp:
    """Return the ASGI application."""

    async def completions(request: Request) -> Answer:
        return await _answer(service, request, protocol.parse_completion, contextlib.nullcontext())

    async def chat_completions(request: Request) -> Answer:
        return await _answer(service, request, protocol.parse_chat, service.chats)

    async def models(request: Request) -> Response:
        _admit(service, request)
        return _json({"object": "list", "data": service.models()})

    async def model(request: Request) -> Response:
        _admit(service, request)
        if request.path_params["name"] != service.served.name:
            raise ApiError(f"got an unknown model; allowed: {service.served.name!r}; change the path", status=404, code="model_not_found")
        return _json(service.models()[0])

    async def health(_) -> Response:
        return _health(service)

    async def metrics(_) -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    async def described(_) -> Response:
        return _json(description)

    description = openapi.describe(service.served, service.engine_thread.capacity)
    routes = [
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/openapi.json", described),
    ]
    handlers: dict[Any, Any] = {ApiError: _api_error, HTTPException: _http_error, Exception: _internal_error}
    inner = Starlette(routes=routes, exception_handlers=handlers)
    inner.router.redirect_slashes = False
    return _with_counts(service, routes, _with_cors(service, inner))


def _with_cors(service: Service, inner: ASGIApp) -> ASGIApp:
    """Add CORS for the allowed origins, if there are any."""
    if not service.access.origins:
        return inner
    return CORSMiddleware(
        inner, allow_origins=service.access.origins, allow_methods=["GET", "POST"], allow_headers=["*"], expose_headers=["Retry-After"]
    )


def _with_counts(service: Service, routes: list[Route], inner: ASGIApp) -> ASGIApp:
    """Check Host and Origin, and count all requests."""

    async def application(scope, receive, send) -> None:
        connection, state = scope["state"]["connection"], scope["state"]
        state["outcome"] = "disconnected"

        async def sent(message) -> None:
            if message["type"] == "http.response.start":
                state["outcome"] = message["status"]
            await send(message)

        connection.request_started()
        try:
            access.check_host_and_origin(service.access, access.headers(scope))
            await inner(scope, receive, sent)
        except ApiError as refusal:
            await _response(refusal)(scope, receive, sent)
        finally:
            connection.request_ended()
            service.metrics.requests.labels(_route(routes, scope), state["outcome"]).inc()

    return application


def _route(routes: list[Route], scope: MutableMapping[str, Any]) -> str:
    """Return the route of a request rather than its path, since there are few routes."""
    return next((route.path_format for route in routes if route.matches(scope)[0] != Match.NONE), "other")


@dataclasses.dataclass(kw_only=True)
class Answer:
    """An ASGI response that is sent as the engine produces it; however it ends, the engine drops unfinished requests."""

    service: Service
    body: ParsedBody
    job: EngineJob
    stack: contextlib.AsyncExitStack
    """Ends the job on exit."""
    started: float
    state: dict[str, Any]
    """State of the ASGI scope, whose `outcome` is counted."""
    head: dict[str, object]
    """`id`, `created` and `model`."""

    async def __call__(self, scope, receive, send) -> None:
        """Send the response, or stop when the client has disconnected."""
        async with self.stack:
            if self.body.stream:
                response = StreamingResponse(self._stream(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
            else:
                response = await _unless_gone(self._whole(), receive)
                if response is None:
                    return
            await response(scope, receive, send)

    async def _whole(self) -> Response:
        parts: list[list[TextDelta]] = [[] for _ in self.body.requests]
        try:
            async for number, piece in self._pieces():
                parts[number].append(piece)
        except (EngineFailed, ServerStopping) as error:
            return _response(_engine_error(error))
        choices = responses.choices(self.body, self.service.vocabulary)
        return _json(responses.complete(self.body, self.head, choices, parts))

    async def _stream(self) -> AsyncIterator[bytes]:
        choices, outcome = responses.choices(self.body, self.service.vocabulary), "disconnected"
        try:
            for choice in choices:
                if first := responses.first_chunk(self.body, self.head, choice):
                    yield responses.event(first)
            async for number, piece in self._pieces():
                if chunk := responses.chunk(self.body, self.head, choices[number], piece):
                    yield responses.event(chunk)
            if self.body.usage:
                yield responses.event(responses.usage_chunk(self.body, self.head, choices))
            yield responses.DONE
            outcome = 200
        except (EngineFailed, ServerStopping) as error:
            outcome = _engine_error(error).status
            yield responses.event(_engine_error(error).body())
        finally:
            self.state["outcome"] = outcome

    async def _pieces(self) -> AsyncIterator[tuple[int, TextDelta]]:
        metrics, first = self.service.metrics, True
        async for number, piece in self.job.pieces():
            if first:
                metrics.first_token_seconds.observe(time.perf_counter() - self.started)
                first = False
            metrics.new_tokens.inc(len(piece.tokens))
            yield number, piece
        metrics.request_seconds.observe(time.perf_counter() - self.started)


async def _answer(service: Service, request: Request, parse: Parser, turn: contextlib.AbstractAsyncContextManager[object]) -> Answer:
    """Begin to answer a request, whose body is parsed in its turn; raise an `ApiError` if the request is invalid."""
    started = time.perf_counter()
    _admit(service, request)
    access.check_content_type(access.headers(request.scope))
    async with service.bodies.body(request, turn) as content:
        body = await asyncio.to_thread(_parsed, service, parse, content)  # slow
    async with contextlib.AsyncExitStack() as stack:
        job = await _job(service, body, stack)
        kept = stack.pop_all()
    service.metrics.prompt_tokens.inc(body.prompt_tokens)
    name = f"{'chatcmpl' if body.chat else 'cmpl'}-{secrets.token_hex(12)}"
    head = {"id": name, "created": int(time.time()), "model": service.served.name}
    return Answer(service=service, body=body, job=job, stack=kept, started=started, state=request.scope["state"], head=head)


def _parsed(service: Service, parse: Parser, content: bytes) -> ParsedBody:
    return parse(protocol.parse_json(content), service.served, max_choices=service.engine_thread.capacity)


async def _job(service: Service, body: ParsedBody, stack: contextlib.AsyncExitStack) -> EngineJob:
    try:
        return await stack.enter_async_context(service.engine_thread.job(body.requests))
    except QueueFull as error:
        load, capacity = service.engine_thread.load, service.engine_thread.capacity
        raise ApiError(
            f"got a request while {load} texts run or wait; allowed: {capacity}; try again later",
            status=429,
            code="queue_full",
        ) from error
    except (EngineFailed, ServerStopping) as error:
        raise _engine_error(error) from error
    except UserError as error:
        raise ApiError(str(error)) from error


def _admit(service: Service, request: Request) -> None:
    """Refuse requests without the key, and all requests while the server is stopping."""
    access.check_key(service.access, access.headers(request.scope))
    if service.stopping:
        raise _engine_error(ServerStopping())


async def _unless_gone(work: Awaitable[Response], receive: Receive) -> Response | None:
    """Return a response, or None if the client disconnects first; the work is cancelled then."""

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


def _engine_error(error: Exception) -> ApiError:
    if isinstance(error, ServerStopping):
        return ApiError(
            "got a request that the server cannot finish before it stops; allowed: requests before that; try again later",
            status=503,
            code="stopping",
        )
    return ApiError(f"the engine failed ({error}); see the server's log; try again", status=500, code="engine_failed")


def _health(service: Service) -> Response:
    engine_thread = service.engine_thread
    state = "stopping" if service.stopping else "ok" if engine_thread.alive else "broken"
    body = {
        "status": state,
        "texts": engine_thread.load,
        "engine_failures": engine_thread.failures,
        "last_failure": engine_thread.last_failure or None,
    }
    return _json(body, 200 if state == "ok" else 503)


async def _api_error(_, refusal: ApiError) -> Response:
    return _response(refusal)


async def _http_error(request: Request, error: HTTPException) -> Response:
    allowed = "POST to /v1/completions and /v1/chat/completions, GET of /v1/models, /health, /metrics and /openapi.json"
    refusal = ApiError(f"got {request.method} {request.scope['path'][:99]}; allowed: {allowed}; change it", status=error.status_code)
    return _response(refusal, dict(error.headers or {}))


async def _internal_error(*_) -> Response:
    return _response(ApiError("the server failed at this request; see its log; other requests continue", status=500, code="internal_error"))


def _response(refusal: ApiError, headers: dict[str, str] | None = None) -> Response:
    wait = {"Retry-After": RETRY_SECONDS} if refusal.status in (429, 503) else {}
    challenge = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
    return _json(refusal.body(), refusal.status, (headers or {}) | wait | challenge)


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(responses.to_json(value), status_code=status, media_type="application/json", headers=headers)
