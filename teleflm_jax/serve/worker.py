"""The thread that runs the engine, and the way to it from the event loop.

The engine is called by this thread alone. The event loop leaves orders, which are carried out between two steps, and gets events; a job's
requests begin together and end each in its own time.
"""

import asyncio
import contextlib
import dataclasses
import gc
import logging
import queue
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence

from teleflm_jax.errors import UserError
from teleflm_jax.generate.engine import Engine
from teleflm_jax.generate.request import Piece, Request

LOG = logging.getLogger(__name__)
END_SECONDS = 10.0
"""For the step under way when the thread is asked to end."""
PAUSE_SECONDS = 5.0
"""After an engine failed that had replaced a failed one, before the next is tried."""


class Full(Exception):
    """No more can wait."""


class Failed(Exception):
    """The engine failed at this job; the message says how."""


class Stopped(Exception):
    """The server ends."""


Event = tuple[int, Piece] | Exception | None
"""The number of a job's request and what is new of it; why the job ended early; or that its requests were taken on."""


@dataclasses.dataclass(kw_only=True, eq=False)
class Job:
    """Requests that are answered together."""

    requests: Sequence[Request]
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[Event] = dataclasses.field(default_factory=asyncio.Queue)

    def tell(self, event: Event) -> None:
        """Called by the worker's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and whoever waited with it
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """What is new, as it comes, until all requests have ended.

        Raises:
            Failed: the engine failed.
            Stopped: the server ended before.
        """
        unfinished = len(self.requests)
        while unfinished:
            event = await self.events.get()
            if isinstance(event, Exception):
                raise event
            unfinished -= event[1].finish is not None
            yield event


class Worker:
    """One engine at a time; another takes its place when it failed.

    The new engine goes on with the texts of the old one. If it fails before it has written anything, they are answered with an error, and
    after a pause the next request has another engine made.
    """

    def __init__(self, make_engine: Callable[[], Engine], *, capacity: int):
        """Make the engine; `start` begins to run it.

        Args:
            make_engine: called here, and in the thread after a failure.
            capacity: requests that may be under way or wait.
        """
        self.capacity = capacity
        self.failures = 0
        self.last_failure = ""
        self.empty = asyncio.Event()
        self.empty.set()
        self._make_engine = make_engine
        self._engine: Engine | None = make_engine()
        """None: it failed, and the next request has one made."""
        self._resting_until = 0.0
        """On the monotonic clock."""
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._jobs: set[Job] = set()
        """That somebody waits for; the event loop's, as `empty` is."""
        self._tickets: dict[int, tuple[Job, int]] = {}
        """The thread's, as all below."""
        self._suspect = False
        """Whether the engine replaces a failed one, and has written nothing yet."""
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def load(self) -> int:
        """Requests under way or waiting."""
        return sum(len(job.requests) for job in self._jobs)

    @property
    def alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive() and time.monotonic() >= self._resting_until

    @property
    def ended(self) -> bool:
        """Whether the thread is gone, which a step that hangs prevents."""
        return not self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests without a slot."""
        engine = self._engine
        return engine.waiting if engine else 0

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    async def end(self) -> None:
        """End the thread after the step under way; jobs that are left get `Stopped` at once."""
        for job in self._jobs:
            job.events.put_nowait(Stopped())
        self._orders.put(self._end)
        await asyncio.to_thread(self._thread.join, END_SECONDS)

    @contextlib.asynccontextmanager
    async def job(self, requests: Sequence[Request]) -> AsyncIterator[Job]:
        """Take requests on together; however this is left, what is unfinished is dropped and its slots are free.

        Raises:
            Full: they would be more than may wait.
            UserError: one of them can never be served; none is begun.
            Failed: the engine does not work.
        """
        if self.load + len(requests) > self.capacity:
            raise Full
        if not self.alive:
            raise Failed(self.last_failure)
        job = Job(requests=requests, loop=asyncio.get_running_loop())
        self._jobs.add(job)
        self.empty.clear()
        self._orders.put(lambda: self._begin(job))
        try:
            if (refusal := await job.events.get()) is not None:
                raise refusal
            yield job
        finally:
            self._jobs.remove(job)
            if not self._jobs:
                self.empty.set()
            self._orders.put(lambda: self._drop(job))

    def _run(self) -> None:
        while not self._ended:
            self._obey()
            if not (self._ended or self._at_rest):
                self._step()

    @property
    def _at_rest(self) -> bool:
        return self._engine is None or self._engine.idle

    def _obey(self) -> None:
        """Carry out the orders that are there; with nothing else to do, wait for one."""
        with contextlib.suppress(queue.Empty):
            order = self._orders.get(block=self._at_rest)
            while not self._ended:
                order()
                order = self._orders.get_nowait()

    def _begin(self, job: Job) -> None:
        if not self.alive:
            job.tell(Failed(self.last_failure))
            return
        try:
            if self._engine is None:
                self._engine = self._make_engine()
            for request in job.requests:
                self._engine.refuse(request)
            for number, request in enumerate(job.requests):
                self._tickets[self._engine.add(request)] = (job, number)
            job.tell(None)
        except UserError as error:
            job.tell(error)
        except Exception as error:
            self._fail(error)
            job.tell(Failed(self.last_failure))

    def _drop(self, job: Job) -> None:
        for ticket in [ticket for ticket, (owner, _) in self._tickets.items() if owner is job]:
            del self._tickets[ticket]
            self._engine.drop(ticket)

    def _step(self) -> None:
        try:
            pieces = self._engine.step()
        except Exception as error:
            self._fail(error)
            return
        self._suspect = self._suspect and not pieces
        for ticket, piece in pieces.items():
            if ticket in self._tickets:
                job, number = self._tickets[ticket]
                if piece.finish:
                    del self._tickets[ticket]
                job.tell((number, piece))

    def _fail(self, error: Exception) -> None:
        """Go on with a new engine and the texts of this one, unless this one was new itself; then end all jobs and rest."""
        LOG.error("the engine failed", exc_info=error)
        self.failures += 1
        self.last_failure = " ".join(f"{type(error).__name__}: {error}".split())
        texts = self._engine.texts if self._engine else []
        self._engine = None
        _release(error)
        if not self._suspect:
            self._suspect = True
            try:
                self._engine = self._make_engine()
                self._engine.resume(texts)
                return
            except Exception as again:
                LOG.error("no new engine could be made", exc_info=again)
                self._engine = None
                _release(again)
        LOG.error("its requests are answered with 500; the next engine is made in %g seconds or later", PAUSE_SECONDS)
        self._resting_until = time.monotonic() + PAUSE_SECONDS
        for job in dict.fromkeys(job for job, _ in self._tickets.values()):
            job.tell(Failed(self.last_failure))
        self._tickets.clear()

    def _end(self) -> None:
        self._ended = True


def _release(error: BaseException | None) -> None:
    """Let go of the memory that the frames of an exception hold, so that a new engine finds it free."""
    while error:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__, error = None, error.__cause__ or error.__context__
    gc.collect()
