"""What the server counts, for Prometheus."""

import dataclasses

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from teleflm_jax.serve.worker import Worker

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics:
    """One server's."""

    registry: CollectorRegistry
    requests: Counter
    closed: Counter
    prompt_tokens: Counter
    new_tokens: Counter
    first_seconds: Histogram
    whole_seconds: Histogram

    def text(self) -> bytes:
        """In Prometheus's format."""
        return prometheus_client.generate_latest(self.registry)


def metrics(worker: Worker) -> Metrics:
    """Counters at zero, and gauges that read the worker."""
    registry = CollectorRegistry()
    for name, help_, read in (
        ("teleflm_texts_in_progress", "texts under way or waiting", lambda: worker.load),
        ("teleflm_texts_waiting", "texts without a slot", lambda: worker.waiting),
        ("teleflm_engine_failures", "exceptions of the engine since the start", lambda: worker.failures),
    ):
        Gauge(name, help_, registry=registry).set_function(read)
    return Metrics(
        registry=registry,
        requests=Counter("teleflm_requests", "requests by route and status", ["route", "status"], registry=registry),
        closed=Counter(
            "teleflm_connections_closed", "connections that the server closed, or that closed in mid-request", ["reason"], registry=registry
        ),
        prompt_tokens=Counter("teleflm_prompt_tokens", "tokens of prompts that were taken on", registry=registry),
        new_tokens=Counter("teleflm_new_tokens", "tokens that were written", registry=registry),
        first_seconds=Histogram("teleflm_first_token_seconds", "from a request to its first token", buckets=SECONDS, registry=registry),
        whole_seconds=Histogram("teleflm_request_seconds", "from a request to its last token", buckets=SECONDS, registry=registry),
    )
