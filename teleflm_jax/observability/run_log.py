"""What a run writes about itself: metrics.jsonl, evals.jsonl, events.jsonl and TensorBoard files.

`metrics.jsonl` has one row a step and `events.jsonl` is the ledger of where the time went. On resume, rows past the restored step and a
line torn by a kill are dropped, so that the files read as if the run had never stopped.
"""

import dataclasses
import itertools
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from teleflm_jax import foreign
from teleflm_jax.errors import UserError

METRICS, EVALS, EVENTS = "metrics.jsonl", "evals.jsonl", "events.jsonl"
LONGEST_ROW = 1 << 20
"""Bytes of a line; a longer one is no row."""
BLOCK = 1 << 16
"""Bytes that are read at a time from a file's end."""

Publish = Callable[[Mapping[str, Any]], None]
"""Called with each row of metrics.jsonl and evals.jsonl: numbers by name, `step` among them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunLog:
    """Open files of one run's folder; from `open_log`."""

    folder: pathlib.Path
    began: float
    """When the process began, by the monotonic clock: wall clocks jump."""
    dropped: tuple[Mapping[str, Any], ...]
    """Rows of metrics.jsonl past the step that the run goes on from: steps to be done again."""
    evaluated: bool
    """Whether evals.jsonl has a row of the step that the run goes on from."""
    tensorboard: EventsWriter | None
    """None: this process leaves writing to another. Writes in our thread: tensorboardX's own background writer, when its disk is full,
    blocks the run for ever without a word."""
    publish: Publish
    """Where rows go beside the folder."""

    def metrics(self, row: Mapping[str, Any]) -> None:
        """One training step; its line also says when that was, in seconds since the process began."""
        self._write(METRICS, row, elapsed=round(time.monotonic() - self.began, 3))

    def evaluation(self, row: Mapping[str, Any]) -> None:
        """One evaluation."""
        self._write(EVALS, row)

    def event(self, name: str, **fields: Any) -> None:
        """Something that happened; docs/reliability.md lists the names. `elapsed`: seconds since the process began."""
        if self.tensorboard:
            note(self.folder, name, self.began, **fields)

    def close(self) -> None:
        """Flush TensorBoard's files; the others are flushed line by line."""
        if self.tensorboard:
            self.tensorboard.close()

    def _write(self, file: str, row: Mapping[str, Any], **more: float) -> None:
        if not self.tensorboard:
            return
        append(self.folder / file, {**row, **more})
        for name, value in row.items():
            if name != "step":
                self.tensorboard.write_event(Event(wall_time=time.time(), step=row["step"], summary=scalar(tag(name), value)))
        self.tensorboard.flush()
        self.publish(row)


def open_log(folder: pathlib.Path, step: int, *, began: float, quiet: bool = False, publish: Publish = lambda row: None) -> RunLog:
    """Open a run's logs to go on after `step` updates; a quiet process's writes nothing, and publishes nothing."""
    if quiet:
        return RunLog(folder=folder, began=began, dropped=(), evaluated=False, tensorboard=None, publish=publish)
    dropped = keep_until(folder / METRICS, step)
    keep_until(folder / EVALS, step)
    evaluated = any(row.get("step") == step for row in rows(folder / EVALS))
    repair(folder / EVENTS)
    (folder / "tensorboard").mkdir(exist_ok=True)
    tensorboard = EventsWriter(str(folder / "tensorboard" / f"events-{time.time_ns()}"))
    # tells TensorBoard to forget what an abandoned future wrote
    tensorboard.write_event(Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START)))
    return RunLog(folder=folder, began=began, dropped=tuple(dropped), evaluated=evaluated, tensorboard=tensorboard, publish=publish)


def tag(name: str) -> str:
    """The name of a figure where those of steps and of evaluations stand together: `loss/english` is held out, `train/loss` is not."""
    return name if "/" in name else f"train/{name}"


def append(path: pathlib.Path, row: Mapping[str, Any]) -> None:
    """Add one JSON object as a line, in one write, so that a kill tears at most the last line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def note(folder: pathlib.Path, event: str, began: float, **fields: Any) -> None:
    """Add an event to a run's ledger; for whoever has no `RunLog` at hand."""
    when = {"time": round(time.time(), 3), "elapsed": round(time.monotonic() - began, 3)}
    append(folder / EVENTS, {"event": event, **when, **fields})


def rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file of JSON objects; nothing where there is no file."""
    for _, row in read_on(path, 0):
        yield row


def read_on(path: pathlib.Path, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows from a byte of the file on, where one begins, each with the byte where it ends.

    Raises:
        UserError: a line is no row, or it is no plain file.
    """
    if not path.exists():
        return
    with foreign.open_plain(path) as file:
        file.seek(start)
        while (line := file.readline(LONGEST_ROW)).endswith(b"\n") or len(line) == LONGEST_ROW:
            yield (start := start + len(line)), _row(path, line, start)


def last(path: pathlib.Path, count: int) -> list[dict[str, Any]]:
    """The last so many rows, in their order; the rest of the file is not read."""
    found = [_row(path, line, end) for end, line in itertools.islice(_backwards(path), count)]
    return found[::-1]


def bits_per_byte(folder: pathlib.Path) -> dict[int, float]:
    """Step -> weighted bits per byte of a run's evaluations, as far as these have measured any."""
    measured = {row["step"]: row.get("bpb") for row in rows(folder / EVALS) if "step" in row}
    return {step: float(bpb) for step, bpb in measured.items() if isinstance(bpb, int | float) and abs(bpb) < math.inf}


def keep_until(path: pathlib.Path, step: int) -> list[dict[str, Any]]:
    """Drop a torn last line and every row past `step`, which stand at the end, since steps grow; returns those rows."""
    dropped, kept = [], 0
    for end, line in _backwards(path):
        row = _row(path, line, end)
        if row.get("step", 0) <= step:
            kept = end
            break
        dropped.append(row)
    if path.exists():
        os.truncate(path, kept)  # atomic: a kill leaves the file as it was or as it is to be
    return dropped[::-1]


def repair(path: pathlib.Path) -> None:
    """Drop a torn last line."""
    if path.exists():
        os.truncate(path, next((end for end, _ in _backwards(path)), 0))


def _row(path: pathlib.Path, line: bytes, end: int) -> dict[str, Any]:
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or type(row.get("step", 0)) is not int:
        with foreign.open_plain(path) as file:
            before = sum(file.read(min(BLOCK, end - 1 - place)).count(b"\n") for place in range(0, end - 1, BLOCK))
        raise UserError(
            f"got {path}, line {before + 1}, which is not a row of this log; allowed: what the run wrote; restore the file or move it away"
        )
    return row


def _backwards(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """The whole lines of a file from its last to its first, each with the byte where it ends; nothing where there is no file."""
    if not path.exists():
        return
    with foreign.open_plain(path) as file:
        place, rest = file.seek(0, os.SEEK_END), b""
        torn = True  # what stands behind the last end of a line
        while place:
            size = min(BLOCK, place)
            place -= size
            file.seek(place)
            first, *lines = (file.read(size) + rest).split(b"\n")
            end = place + len(first) + sum(len(line) + 1 for line in lines)
            for line in reversed(lines):
                if not torn:
                    yield end + 1, line + b"\n"
                torn = False
                end -= len(line) + 1
            rest = first
            if len(rest) > LONGEST_ROW:
                yield end + 1, rest
                return
        if not torn:
            yield len(rest) + 1, rest + b"\n"
