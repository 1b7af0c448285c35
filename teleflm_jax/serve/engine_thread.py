"""The thread that runs the engine, and its interface to the event loop.

Only this thread calls the engine. The event loop sends commands, which are executed between two steps, and receives events. The requests of
a job begin together and end one by one.
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
from teleflm_jax.generate.request import Request, TextDelta

LOG = logging.getLogger(__name__)
JOIN_SECONDS = 10.0
"""Time for the current step to finish when the thread is asked to end."""
RETRY_SECONDS = 5.0
"""Pause before another engine is created if the replacement of a failed one fails too."""


class QueueFull(Exception):
    """No more requests can wait."""


class EngineFailed(Exception):
    """The engine failed during a job; the message is the engine's."""


class ServerStopping(Exception):
    """The server is stopping."""


Event = tuple[int, TextDelta] | Exception | None
"""Index of a request in its job and its new piece; or why the job ended early; or None: its requests were accepted."""


@dataclasses.dataclass(kw_only=True, eq=False)
class EngineJob:
    """Requests that are answered together."""

    requests: Sequence[Request]
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[Event] = dataclasses.field(default_factory=asyncio.Queue)

    def send(self, event: Event) -> None:
        """Send an event from the engine's thread to the event loop."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits any more
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)

    async def pieces(self) -> AsyncIterator[tuple[int, TextDelta]]:
        """Yield new pieces until all requests have ended.

        Raises:
            EngineFailed: the engine failed.
            ServerStopping: the server stopped earlier.
        """
        unfinished = len(self.requests)
        while unfinished:
            event = await self.events.get()
            if isinstance(event, Exception):
                raise event
            unfinished -= event[1].finish_reason is not None
            yield event


class EngineThread:
    """Runs one engine at a time, and replaces it if it fails.

    The replacement continues the sequences of the failed engine. If it fails before it has produced anything, their requests get an error,
    and after a pause the next request has another engine created.
    """

    def __init__(self, make_engine: Callable[[], Engine], *, capacity: int):
        """Create the engine; `start` runs it.

        Args:
            make_engine: called here, and in the thread after a failure.
            capacity: requests that may run or wait.
        """
        self.capacity = capacity
        self.failures = 0
        self.last_failure = ""
        self.empty = asyncio.Event()
        self.empty.set()
        self._make_engine = make_engine
        self._engine: Engine | None = make_engine()
        """None: it failed, and the next request has one created."""
        self._retry_at = 0.0
        """Time on the monotonic clock."""
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._jobs: set[EngineJob] = set()
        """Jobs that a client waits for; used by the event loop alone, as `empty` is."""
        self._tickets: dict[int, tuple[EngineJob, int]] = {}
        """EngineJob and index of each request; used by the thread alone, as all below."""
        self._unproven = False
        """True if the engine replaces a failed one and has produced nothing yet."""
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def load(self) -> int:
        """Number of requests that run or wait."""
        return sum(len(job.requests) for job in self._jobs)

    @property
    def alive(self) -> bool:
        """True while requests are answered."""
        return self._thread.is_alive() and time.monotonic() >= self._retry_at

    @property
    def ended(self) -> bool:
        """True if the thread has ended, which a hung step prevents."""
        return not self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Number of requests without a slot."""
        engine = self._engine
        return engine.waiting if engine else 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def end(self) -> None:
        """End the thread after the current step; remaining jobs get `ServerStopping` at once."""
        for job in self._jobs:
            job.events.put_nowait(ServerStopping())
        self._commands.put(self._end)
        await asyncio.to_thread(self._thread.join, JOIN_SECONDS)

    @contextlib.asynccontextmanager
    async def job(self, requests: Sequence[Request]) -> AsyncIterator[EngineJob]:
        """Accept requests together; on exit, unfinished ones are dropped and their slots are free.

        Raises:
            QueueFull: there would be more requests than may wait.
            UserError: one of the requests can never be served; none has begun.
            EngineFailed: the engine does not work.
        """
        if self.load + len(requests) > self.capacity:
            raise QueueFull
        if not self.alive:
            raise EngineFailed(self.last_failure)
        job = EngineJob(requests=requests, loop=asyncio.get_running_loop())
        self._jobs.add(job)
        self.empty.clear()
        self._commands.put(lambda: self._begin(job))
        try:
            if (refusal := await job.events.get()) is not None:
                raise refusal
            yield job
        finally:
            self._jobs.remove(job)
            if not self._jobs:
                self.empty.set()
            self._commands.put(lambda: self._drop(job))

    def _run(self) -> None:
        while not self._ending:
            self._execute_commands()
            if not (self._ending or self._idle):
                self._step()

    @property
    def _idle(self) -> bool:
        return self._engine is None or self._engine.idle

    def _execute_commands(self) -> None:
        """Execute all pending commands; if the engine is idle, wait for one."""
        with contextlib.suppress(queue.Empty):
            command = self._commands.get(block=self._idle)
            while not self._ending:
                command()
                command = self._commands.get_nowait()

    def _begin(self, job: EngineJob) -> None:
        if not self.alive:
            job.send(EngineFailed(self.last_failure))
            return
        try:
            if self._engine is None:
                self._engine = self._make_engine()
            for request in job.requests:
                self._engine.validate(request)
            for index, request in enumerate(job.requests):
                self._tickets[self._engine.add(request)] = (job, index)
            job.send(None)
        except UserError as error:
            job.send(error)
        except Exception as error:
            self._fail(error)
            job.send(EngineFailed(self.last_failure))

    def _drop(self, job: EngineJob) -> None:
        for ticket in [ticket for ticket, (owner, _) in self._tickets.items() if owner is job]:
            del self._tickets[ticket]
            self._engine.drop(ticket)

    def _step(self) -> None:
        try:
            pieces = self._engine.step()
        except Exception as error:
            self._fail(error)
            return
        self._unproven = self._unproven and not pieces
        for ticket, piece in pieces.items():
            if ticket in self._tickets:
                job, index = self._tickets[ticket]
                if piece.finish_reason:
                    del self._tickets[ticket]
                job.send((index, piece))

    def _fail(self, error: Exception) -> None:
        """Continue the sequences with a new engine, unless this one was new itself; then end all jobs and pause."""
        LOG.error("the engine failed", exc_info=error)
        self.failures += 1
        self.last_failure = " ".join(f"{type(error).__name__}: {error}".split())
        sequences = self._engine.sequences if self._engine else []
        self._engine = None
        _release(error)
        if not self._unproven:
            self._unproven = True
            try:
                self._engine = self._make_engine()
                self._engine.resume(sequences)
                return
            except Exception as again:
                LOG.error("no new engine could be created", exc_info=again)
                self._engine = None
                _release(again)
        LOG.error("its requests are answered with 500; another engine is created in %g seconds or later", RETRY_SECONDS)
        self._retry_at = time.monotonic() + RETRY_SECONDS
        for job in dict.fromkeys(job for job, _ in self._tickets.values()):
            job.send(EngineFailed(self.last_failure))
        self._tickets.clear()

    def _end(self) -> None:
        self._ending = True


def _release(error: BaseException | None) -> None:
    """Free the memory that the frames of an exception hold, so that a new engine can use it."""
    while error:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__, error = None, error.__cause__ or error.__context__
    gc.collect()
