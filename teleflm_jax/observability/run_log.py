"""Logs of a run: metrics.jsonl, evals.jsonl, events.jsonl and TensorBoard files.

`metrics.jsonl` has one row a step, and `events.jsonl` records how the time was spent. On resume, rows after the restored step and a line
cut off by a kill are dropped, so that the files read as if the run had never stopped.
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
"""Bytes of the longest line that is a row."""
BLOCK = 1 << 16
"""Bytes read at a time from the end of a file."""

Publish = Callable[[Mapping[str, Any]], None]
"""Called with each row of metrics.jsonl and evals.jsonl: numbers by name, `step` among them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunLog:
    """Open files of one run's folder; from `open_log`."""

    folder: pathlib.Path
    began: float
    """Start of the process by the monotonic clock, since wall clocks jump."""
    dropped: tuple[Mapping[str, Any], ...]
    """Rows of metrics.jsonl after the restored step, whose steps are repeated."""
    evaluated: bool
    """True if evals.jsonl has a row of the restored step."""
    tensorboard: EventsWriter | None
    """None if another process writes the logs. It writes in our thread, since tensorboardX's own background writer blocks the run for ever
    and silently when the disk is full."""
    publish: Publish
    """Takes the rows for the sinks."""

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Write the row of a training step, with the seconds since the process started."""
        self._write(METRICS, row, elapsed=round(time.monotonic() - self.began, 3))

    def evaluation(self, row: Mapping[str, Any]) -> None:
        """Write the row of an evaluation."""
        self._write(EVALS, row)

    def event(self, name: str, **fields: Any) -> None:
        """Write an event; docs/reliability.md lists the names. `elapsed`: seconds since the process started."""
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
    """Open a run's logs to continue after `step` updates; a quiet process writes and publishes nothing."""
    if quiet:
        return RunLog(folder=folder, began=began, dropped=(), evaluated=False, tensorboard=None, publish=publish)
    dropped = keep_until(folder / METRICS, step)
    keep_until(folder / EVALS, step)
    evaluated = any(row.get("step") == step for row in rows(folder / EVALS))
    repair(folder / EVENTS)
    (folder / "tensorboard").mkdir(exist_ok=True)
    tensorboard = EventsWriter(str(folder / "tensorboard" / f"events-{time.time_ns()}"))
    # tells TensorBoard to drop what was written after this step
    tensorboard.write_event(Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START)))
    return RunLog(folder=folder, began=began, dropped=tuple(dropped), evaluated=evaluated, tensorboard=tensorboard, publish=publish)


def tag(name: str) -> str:
    """Return a figure's name among those of steps and evaluations: `loss/english` is held-out loss, `train/loss` is not."""
    return name if "/" in name else f"train/{name}"


def append(path: pathlib.Path, row: Mapping[str, Any]) -> None:
    """Append one JSON object as a line, in one write, so that a kill cuts off at most the last line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def note(folder: pathlib.Path, event: str, began: float, **fields: Any) -> None:
    """Append an event to a run's ledger without an open `RunLog`."""
    when = {"time": round(time.time(), 3), "elapsed": round(time.monotonic() - began, 3)}
    append(folder / EVENTS, {"event": event, **when, **fields})


def rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a file of JSON objects; none if there is no file."""
    for _, row in read_on(path, 0):
        yield row


def read_on(path: pathlib.Path, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows from a byte of the file on, at which a row starts, each with the byte at which it ends.

    Raises:
        UserError: a line is not a row, or the file is not a plain file.
    """
    if not path.exists():
        return
    with foreign.open_plain(path) as file:
        file.seek(start)
        while (line := file.readline(LONGEST_ROW)).endswith(b"\n") or len(line) == LONGEST_ROW:
            yield (start := start + len(line)), _row(path, line, start)


def last(path: pathlib.Path, count: int) -> list[dict[str, Any]]:
    """Return the last `count` rows in their order, without reading the rest of the file."""
    found = [_row(path, line, end) for end, line in itertools.islice(_backwards(path), count)]
    return found[::-1]


def bits_per_byte(folder: pathlib.Path) -> dict[int, float]:
    """Return step -> weighted bits per byte of those evaluations of a run that have measured it."""
    measured = {row["step"]: row.get("bpb") for row in rows(folder / EVALS) if "step" in row}
    return {step: float(bpb) for step, bpb in measured.items() if isinstance(bpb, int | float) and abs(bpb) < math.inf}


def keep_until(path: pathlib.Path, step: int) -> list[dict[str, Any]]:
    """Drop an incomplete last line and every row after `step`, which are at the end because steps grow; return those rows."""
    dropped, kept = [], 0
    for end, line in _backwards(path):
        row = _row(path, line, end)
        if row.get("step", 0) <= step:
            kept = end
            break
        dropped.append(row)
    if path.exists():
        os.truncate(path, kept)  # atomic: a kill leaves the file as it was or as it should be
    return dropped[::-1]


def repair(path: pathlib.Path) -> None:
    """Drop an incomplete last line."""
    if path.exists():
        os.truncate(path, next((end for end, _ in _backwards(path)), 0))


def _row(path: pathlib.Path, line: bytes, end: int) -> dict[str, Any]:
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or type(row.get("step", 0)) is not int:
        with foreign.open_plain(path) as file:
            before = sum(file.read(min(BLOCK, end - 1 - start)).count(b"\n") for start in range(0, end - 1, BLOCK))
        raise UserError(
            f"got {path}, line {before + 1}, which is not a row of this log; allowed: what the run wrote; restore the file or move it away"
        )
    return row


def _backwards(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """Yield the complete lines of a file from last to first, each with the byte at which it ends; none if there is no file."""
    if not path.exists():
        return
    with foreign.open_plain(path) as file:
        position, rest = file.seek(0, os.SEEK_END), b""
        torn = True  # the part after the last end of a line
        while position:
            size = min(BLOCK, position)
            position -= size
            file.seek(position)
            first, *lines = (file.read(size) + rest).split(b"\n")
            end = position + len(first) + sum(len(line) + 1 for line in lines)
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
