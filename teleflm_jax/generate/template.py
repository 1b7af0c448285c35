"""Chat templates, each compiled and rendered in a separate process (`rendering.py`), so that its time and memory are bounded."""

import dataclasses
import datetime
import importlib.util
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from teleflm_jax import foreign

SECONDS = 5.0
"""Wall time for compiling, and for all conversations of a request. A hundred messages take milliseconds, but the machine may be busy."""
START_SECONDS = 60.0
"""Wall time for starting Python and importing jinja2, perhaps from a slow disk, before the template is sent."""
MAX_BYTES = 64 << 20
"""Largest answer; more than `rendering.MAX_CHARACTERS` take as JSON."""
_RENDERING = pathlib.Path(__file__).with_name("rendering.py")


class Refused(Exception):
    """The template calls `raise_exception`."""


class Failed(Exception):
    """The template is invalid, raises an error, or needs too much time or memory."""


class Template:
    """A template whose process starts at the first request, and again after it was ended.

    Threads may share a template; they take turns. After a fork, the child's template starts its own process.
    """

    def __init__(self, source: str):
        self.source = source
        self._reset()

    def render(self, conversations: Sequence[Sequence[Mapping[str, str]]], variables: Mapping[str, Any]) -> list[str]:
        """Return the text of each conversation.

        Args:
            conversations: lists of messages as the template sees them.
            variables: further variables of the template, of JSON types.

        Raises:
            Refused: the template calls `raise_exception`.
            Failed: the template fails for any other reason.
        """
        now = datetime.datetime.now().isoformat()
        request = {"now": now, "conversations": conversations, "variables": variables}
        if self._owner != os.getpid():
            self._reset()
        with self._turn:
            try:
                process = self._process
                if process is None or process.popen.poll() is not None:
                    process = self._start()
                answer = process.ask(request, SECONDS)
            except TimeoutError as error:
                self._end()
                raise Failed(f"it takes more than {SECONDS:g} seconds") from error
            except (OSError, ValueError) as error:
                self._end()
                raise Failed(f"its process gives no answer: {error}") from error
            except BaseException:  # such as Ctrl-C between request and answer
                self._end()
                raise
        if "refused" in answer:
            raise Refused(answer["refused"])
        if "failed" in answer:
            raise Failed(answer["failed"])
        return [str(text) for text in answer["texts"]]

    def _reset(self) -> None:
        self._owner, self._turn, self._process, self._end = os.getpid(), threading.Lock(), None, lambda: None

    def _start(self) -> "_Process":
        self._end()
        process = self._process = _Process.start()
        self._end = weakref.finalize(self, process.kill)  # also when Python ends
        try:
            process.receive(START_SECONDS)
        except TimeoutError as error:
            raise ConnectionError(f"it has not started in {START_SECONDS:g} seconds") from error
        answer = process.ask({"source": self.source}, SECONDS)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return process


def _import_folder(package: str) -> str:
    """Return the folder that a package is imported from."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None  # it is among the requirements
    return str(pathlib.Path(spec.origin).parents[1])


@dataclasses.dataclass(frozen=True)
class _Process:
    """A process that runs `rendering.py`, and the socket to it; it exits when the other end of the socket is closed."""

    popen: subprocess.Popen
    channel: socket.socket
    owner: int
    """Id of the process that started it."""

    @classmethod
    def start(cls) -> "_Process":
        """Start a process in its own session, which Ctrl-C does not reach."""
        folders = [_import_folder(name) for name in ("jinja2", "markupsafe")]
        ours, theirs = socket.socketpair()
        with theirs:
            popen = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_RENDERING), *folders],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},  # Python itself may need it
                cwd="/",
                start_new_session=True,
            )
        return cls(popen, ours, os.getpid())

    def ask(self, message: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Send a message and return the answer.

        Raises:
            OSError: the process does not answer; TimeoutError: not in the given time.
            ValueError: the answer is invalid.
        """
        body = json.dumps({**message, "seconds": seconds}, ensure_ascii=False).encode()
        deadline = time.monotonic() + seconds
        self.channel.settimeout(seconds)
        self.channel.sendall(struct.pack(">I", len(body)) + body)
        return self.receive(deadline - time.monotonic())

    def receive(self, seconds: float) -> dict[str, Any]:
        """Return the next answer; raises as `ask` does."""
        deadline = time.monotonic() + seconds
        size = int.from_bytes(self._read(4, deadline))
        if size > MAX_BYTES:
            raise ValueError(f"it has {size:,} bytes")
        return foreign.parse_json(self._read(size, deadline))

    def _read(self, size: int, deadline: float) -> bytes:
        received = bytearray()
        while len(received) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.channel.settimeout(left)
            part = self.channel.recv(size - len(received))
            if not part:
                raise ConnectionError("it has ended")
            received += part
        return bytes(received)

    def kill(self) -> None:
        """Kill the process; in a fork of the owner, close only this end of the socket."""
        self.channel.close()
        if self.owner == os.getpid():
            self.popen.kill()
            self.popen.wait()
