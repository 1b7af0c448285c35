"""Servers on free ports, run by a thread of the test's own process; and an engine that does what a test says, when it says it."""

import asyncio
import contextlib
import dataclasses
import pathlib
import queue
import threading
import time
from collections.abc import Callable, Iterator

import openai

from teleflm_jax.generate import decoder
from teleflm_jax.generate.request import Request, TextDelta, Token
from teleflm_jax.serve import metrics, served_model, server
from teleflm_jax.serve.access import AccessPolicy
from teleflm_jax.serve.app import Service
from teleflm_jax.serve.engine_thread import EngineThread
from teleflm_jax.serve.responses import vocabulary
from teleflm_jax.serve.served_model import ServedModel
from teleflm_jax.tokenizer import load, train
from tests import tiny

SECONDS = 60
"""A test that waits longer has failed."""


VOCABULARY = 390
CONTEXT = 32


def tiny_served(folder: pathlib.Path, *, context_length: int = CONTEXT) -> ServedModel:
    """A model's name, tokenizer and format."""
    path = folder / "tokenizer.json"
    path.write_text(train.train(iter(["the time of the house", "a time of times"] * 9), VOCABULARY), encoding="utf-8")
    return served_model.load("tiny", folder, load.load(path), context_length=context_length, vocab_size=VOCABULARY)


def tiny_weights(*, context_length: int = CONTEXT) -> decoder.Decoder:
    """Its weights."""
    return tiny.decoder(tiny.config(vocab_size=VOCABULARY, context_length=context_length, num_layers=1))


@dataclasses.dataclass(kw_only=True)
class Running:
    """A server, and what tests want of it."""

    url: str
    service: Service
    stop: Callable[[], None]
    thread: threading.Thread

    def client(self, **settings) -> openai.OpenAI:
        """OpenAI's own, which does not try again; nor does it read certificates, which take longer than most requests."""
        plain = openai.DefaultHttpxClient(verify=False)
        given = {"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, "timeout": SECONDS, "http_client": plain}
        return openai.OpenAI(**given | settings)


@contextlib.contextmanager
def running(served: ServedModel, make_engine: Callable, *, slots: int, queue: int = 64, grace: float = 5, **access) -> Iterator[Running]:
    """Run a server until the block ends."""
    engine_thread = EngineThread(make_engine, capacity=slots + queue)
    counted = metrics.create(engine_thread)
    service = Service(
        served=served, vocabulary=vocabulary(served.tokenizer), engine_thread=engine_thread, metrics=counted, access=AccessPolicy(**access)
    )
    listening, ready, stops = server.listen("127.0.0.1", 0), threading.Event(), []
    url = server.address(listening)

    def tell(stop):
        stops.append(stop)
        ready.set()

    engine_thread.start()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(service, listening, grace=grace, ready=tell)))
    thread.start()
    assert ready.wait(SECONDS)
    try:
        yield Running(url=url, service=service, stop=stops[0], thread=thread)
    finally:
        with contextlib.suppress(RuntimeError):  # it may have ended
            stops[0]()
        thread.join(SECONDS)
    assert not thread.is_alive()


class ByHand:
    """An engine without a model: each order in `orders` is a step, which gives every text under way one token, or an exception.

    Without an order a step gives nothing, so that the engine thread can accept requests.
    """

    def __init__(self, *, slots: int = 2, context_length: int = 64):
        self.slots, self.context_length = slots, context_length
        self.orders: queue.SimpleQueue = queue.SimpleQueue()
        self.dropped: queue.SimpleQueue = queue.SimpleQueue()
        self.sequences: dict[int, tuple[Request, int]] = {}
        self.tickets = 0
        self.padding = ""

    @property
    def idle(self) -> bool:
        return not self.sequences

    @property
    def waiting(self) -> int:
        return max(0, len(self.sequences) - self.slots)

    def validate(self, request: Request) -> None:
        request.validate(context_length=self.context_length, vocab_size=1000)

    def add(self, request: Request) -> int:
        self.tickets += 1
        self.sequences[self.tickets] = (request, 0)
        return self.tickets

    def resume(self, sequences: dict[int, tuple[Request, int]]) -> None:
        self.sequences |= sequences
        self.tickets = max(self.sequences, default=0)

    def drop(self, ticket: int) -> None:
        self.sequences.pop(ticket, None)
        self.dropped.put(ticket)

    def step(self) -> dict[int, TextDelta]:
        try:
            order = self.orders.get(timeout=0.01)
        except queue.Empty:
            return {}
        if isinstance(order, Exception):
            raise order
        pieces = {}
        for ticket, (request, count) in list(self.sequences.items())[: self.slots]:
            finish = "length" if count + 1 == request.max_tokens else None
            pieces[ticket] = TextDelta(text=f"{count} {self.padding}", tokens=(Token(id=4),), finish_reason=finish)
            self.sequences[ticket] = (request, count + 1)
            if finish:
                del self.sequences[ticket]
        return pieces


def until(condition):
    """Wait for another thread; fails where it never comes."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)
