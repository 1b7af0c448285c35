"""Progress of a run for people: a bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_SECONDS = 10.0

Report = Callable[[Mapping[str, Any]], None]
"""Called with each row of metrics.jsonl."""


def duration(seconds: float) -> str:
    """Format seconds as `1:02:03`."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


@contextlib.contextmanager
def shown(total: int, *, quiet: bool = False) -> Iterator[tuple[Report, Callable[[str], None]]]:
    """Show progress towards `total` updates; yield a function for rows and one for messages. Quiet processes show nothing."""
    if quiet:
        yield (lambda row: None), (lambda message: None)
        return
    console = Console(stderr=True)
    if console.is_terminal:
        text = TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]:,.0f} tokens/s ({task.fields[count]:.1%} count)")
        with Progress(TextColumn("training"), BarColumn(), MofNCompleteColumn(), text, TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task("", total=total, loss=float("nan"), speed=0.0, count=1.0)
            yield (
                lambda row: bar.update(
                    task,
                    completed=row["step"],
                    loss=row["loss"],
                    speed=row["tokens_per_second"],
                    count=row["targets"] / row["positions"],
                ),
                lambda message: bar.console.print(message, markup=False),
            )
    else:
        yield _lines(total), lambda message: print(message, file=sys.stderr, flush=True)


def _lines(total: int) -> Report:
    last = {"time": -LINE_EVERY_SECONDS}

    def report(row: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if now - last["time"] < LINE_EVERY_SECONDS and row["step"] < total:
            return
        last["time"] = now
        left = duration((total - row["step"]) * row["step_seconds"])
        print(
            f"step {row['step']}/{total}  loss {row['loss']:.4f}  grad norm {row['grad_norm']:.3f}  "
            f"{row['tokens_per_second']:,.0f} tokens/s ({row['targets'] / row['positions']:.1%} count)  MFU {row['mfu']:.1%}  left {left}",
            file=sys.stderr,
            flush=True,
        )

    return report
