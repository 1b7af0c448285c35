"""Counters of the server in Prometheus's format."""

import dataclasses

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from teleflm_jax.serve.engine_thread import EngineThread

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics:
    """Counters of one server."""

    registry: CollectorRegistry
    requests: Counter
    closed: Counter
    prompt_tokens: Counter
    new_tokens: Counter
    first_token_seconds: Histogram
    request_seconds: Histogram

    def text(self) -> bytes:
        """Return all counters in Prometheus's format."""
        return prometheus_client.generate_latest(self.registry)


def create(engine_thread: EngineThread) -> Metrics:
    """Return counters at zero and gauges that read the engine thread."""
    registry = CollectorRegistry()
    for name, help_, read in (
        ("teleflm_texts_in_progress", "sequences running or waiting", lambda: engine_thread.load),
        ("teleflm_texts_waiting", "sequences without a slot", lambda: engine_thread.waiting),
        ("teleflm_engine_failures", "exceptions of the engine since the start", lambda: engine_thread.failures),
    ):
        Gauge(name, help_, registry=registry).set_function(read)
    return Metrics(
        registry=registry,
        requests=Counter("teleflm_requests", "requests by route and status", ["route", "status"], registry=registry),
        closed=Counter(
            "teleflm_connections_closed", "connections closed by the server or in the middle of a request", ["reason"], registry=registry
        ),
        prompt_tokens=Counter("teleflm_prompt_tokens", "tokens of accepted prompts", registry=registry),
        new_tokens=Counter("teleflm_new_tokens", "generated tokens", registry=registry),
        first_token_seconds=Histogram(
            "teleflm_first_token_seconds", "from a request to its first token", buckets=SECONDS, registry=registry
        ),
        request_seconds=Histogram("teleflm_request_seconds", "from a request to its last token", buckets=SECONDS, registry=registry),
    )
