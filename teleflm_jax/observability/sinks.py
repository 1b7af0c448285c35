"""Sinks of a run's figures beside its folder: Weights & Biases, and a port for Prometheus.

Neither may cost the run anything. Each sink has a thread of its own, from the import of its library to its end, so that no failure and
no unresponsive server affects the loop; a failure is one message and ends that sink.
"""

import collections
import contextlib
import dataclasses
import pathlib
import queue
import re
import secrets
import threading
from collections.abc import Callable, Iterator

from teleflm_jax import atomic_write, invocation
from teleflm_jax.observability.config import TelemetryConfig
from teleflm_jax.observability.run_log import Publish, tag

RUN_ID = "wandb_run_id"
"""File in a run's folder with its id at wandb, which a resumed run uses again."""

MAX_WAITING = 10_000
"""Rows that may wait for a sink."""
INIT_SECONDS = 30.0
UPLOAD_SECONDS = 10.0
END_SECONDS = 15.0
"""Time for the last rows: more than an upload may take, and less than clusters give a process that is to exit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sink:
    name: str
    open: Callable[[], contextlib.AbstractContextManager[Publish]]
    remedy: str


@contextlib.contextmanager
def opened(config: TelemetryConfig, folder: pathlib.Path, log: Callable[[str], None], quiet: bool) -> Iterator[Publish]:
    """Yield a function that passes a row to every configured sink; it never waits and never raises.

    Args:
        config: the sinks; by default none.
        folder: the run's, whose name is also the name at wandb.
        log: takes a message; called from other threads too.
        quiet: another process of the run publishes.
    """
    sinks = []
    project = config.wandb_project
    if project and not quiet:
        remedy = "run `wandb login`, repair the network, or set WANDB_MODE=offline and run `wandb sync` later"
        sinks.append(_Sink(name="wandb", open=lambda: _wandb(project, folder), remedy=remedy))
    if config.prometheus_port and not quiet:
        remedy = "change telemetry.prometheus_port or telemetry.prometheus_address"
        sinks.append(_Sink(name="prometheus", open=lambda: _prometheus(config.prometheus_port, config.prometheus_address), remedy=remedy))
    with contextlib.ExitStack() as stack:
        accept = [stack.enter_context(_running(sink, log)) for sink in sinks]

        def publish(row):
            for accept_row in accept:
                accept_row(row)

        yield publish


@contextlib.contextmanager
def _running(sink: _Sink, log: Callable[[str], None]) -> Iterator[Publish]:
    """Run a sink in its own thread; yield a function that queues a row for it."""
    waiting, ended = queue.Queue(MAX_WAITING), threading.Event()
    counts = collections.Counter()

    def off(reason: str, remedy: str) -> None:
        if not ended.is_set():
            log(f"{sink.name} is off: {reason}; to change it: {remedy}; the run continues")

    def work():
        try:
            with sink.open() as publish:
                for row in iter(waiting.get, None):
                    publish(row)
                    counts["published"] += 1
        except ModuleNotFoundError as error:
            off(f"there is no module {error.name}", invocation.install("telemetry"))
        except Exception as error:
            off(" ".join(f"{type(error).__name__}: {error}".split()), sink.remedy)

    def accept(row):
        if thread.is_alive():
            counts["accepted"] += 1
            try:
                waiting.put_nowait(row)
            except queue.Full:
                counts["left out"] += 1

    thread = threading.Thread(target=work, name=sink.name, daemon=True)
    thread.start()
    try:
        yield accept
    finally:
        if thread.is_alive():
            with contextlib.suppress(queue.Full):
                waiting.put(None, timeout=END_SECONDS)
        thread.join(END_SECONDS)
        ended.set()
        if thread.is_alive() or counts["left out"]:
            log(f"{sink.name} did not keep up: {counts['accepted'] - counts['published']} row(s) are in the run's folder only")


@contextlib.contextmanager
def _wandb(project: str, folder: pathlib.Path) -> Iterator[Publish]:
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))  # otherwise it asks for a missing login on the terminal
    settings = wandb.Settings(
        silent=True,
        init_timeout=INIT_SECONDS,
        finish_timeout=UPLOAD_SECONDS,
        console="off",  # the run's output and its source stay here
        disable_git=True,
        save_code=False,
    )
    known = {"project": project, "name": folder.resolve().name, "id": _run_id(folder), "resume": "allow"}
    with wandb.init(**known, dir=str(folder), settings=settings) as run:
        # a step of our own: wandb's may not decrease, but steps that a kill undid are repeated
        run.define_metric("*", step_metric=tag("step"))
        yield lambda row: run.log({tag(figure): value for figure, value in row.items()})


def _run_id(folder: pathlib.Path) -> str:
    """Return the run's id at wandb, which is made once and, unlike the folder's name, is unique."""
    path = folder / RUN_ID
    known = path.read_text(encoding="utf-8") if path.exists() else ""
    if not known:
        known = f"{re.sub('[^A-Za-z0-9_-]', '-', folder.resolve().name)[:48]}-{secrets.token_hex(4)}"
        atomic_write.write(path, known.encode())
    return known


@contextlib.contextmanager
def _prometheus(port: int, address: str) -> Iterator[Publish]:
    import prometheus_client

    registry, gauges = prometheus_client.CollectorRegistry(), {}

    def publish(row):
        for figure, value in row.items():
            kind, _, domain = figure.rpartition("/")
            name = f"teleflm_{re.sub('[^a-zA-Z0-9_]', '_', kind or tag(figure))}"
            if name not in gauges:
                gauges[name] = prometheus_client.Gauge(name, figure, ["domain"] if kind else [], registry=registry)
            (gauges[name].labels(domain) if kind else gauges[name]).set(value)

    server, thread = prometheus_client.start_http_server(port, address, registry)
    try:
        yield publish
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
