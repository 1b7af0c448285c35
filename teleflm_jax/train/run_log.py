"""What a run writes about itself: metrics.jsonl, evals.jsonl, events.jsonl and TensorBoard files.

`metrics.jsonl` has one row a step and `events.jsonl` is the ledger of where the time went. On resume, rows past the restored step and a
line torn by a kill are dropped, so that the files read as if the run had never stopped.
"""

import dataclasses
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

from teleflm_jax.errors import UserError

METRICS, EVALS, EVENTS = "metrics.jsonl", "evals.jsonl", "events.jsonl"

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
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise _damaged(path, number) from error
            if not isinstance(row, dict) or not isinstance(row.get("step", 0), int):
                raise _damaged(path, number)
            yield row


def bits_per_byte(folder: pathlib.Path) -> dict[int, float]:
    """Step -> weighted bits per byte of a run's evaluations, as far as these have measured any."""
    measured = {row["step"]: row.get("bpb") for row in rows(folder / EVALS) if "step" in row}
    return {step: float(bpb) for step, bpb in measured.items() if isinstance(bpb, int | float) and abs(bpb) < math.inf}


def keep_until(path: pathlib.Path, step: int) -> list[dict[str, Any]]:
    """Drop a torn last line and every row past `step`; returns those rows."""
    found = list(rows(path))
    _rewrite(path, [row for row in found if row.get("step", 0) <= step])
    return [row for row in found if row.get("step", 0) > step]


def repair(path: pathlib.Path) -> None:
    """Drop a torn last line."""
    _rewrite(path, list(rows(path)))


def _damaged(path: pathlib.Path, number: int) -> UserError:
    return UserError(
        f"got {path}, line {number}, which is not a row of this log; allowed: what the run wrote; restore the file or move it away"
    )


def _rewrite(path: pathlib.Path, kept: list[dict[str, Any]]) -> None:
    if not path.exists():
        return
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
    os.replace(temporary, path)
