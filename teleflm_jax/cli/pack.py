"""`python -m teleflm_jax pack`: documents to packed records, ready to train on."""

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator

from teleflm_jax.cli import options
from teleflm_jax.runs import prepare

HELP = "tokenize and pack each domain's documents into records for training and evaluation"
STOPPED = 75
"""Exit code of a command that a signal stopped; finished work is kept."""
LINE_SECONDS = 10.0
"""Seconds between two lines of progress, which replace the bars where there is no terminal."""
Progress = Callable[[str, int, int], None]
"""Function of the step, the amount done and the total."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_arguments(parser)
    parser.add_argument("--domain", action="append", default=[], metavar="NAME", help="pack this domain only; repeatable; default: all")
    parser.add_argument(
        "--force", action="store_true", help="pack again even if a data set exists; the old one stays until the new one is finished"
    )


def main(args: argparse.Namespace) -> int:
    """Pack every domain of data.sources that is not packed yet."""
    run = options.load(args, optional=("train",))
    packed: list[str] = []  # printed at the end, because lines would break the bars
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with progress_display() as show:
            prepare.pack(run, domains=args.domain, force=args.force, log=packed.append, progress=show)
    except KeyboardInterrupt:
        packed.append("pack: stopped; run the same command again to continue")
        return STOPPED
    finally:
        for line in packed:
            print(line, flush=True)
    return 0


@contextlib.contextmanager
def progress_display(unit: str = "bytes") -> Iterator[Progress]:
    """Show progress while the context is open: bars on a terminal, otherwise occasional lines.

    Args:
        unit: `bytes`, or the name of the unit that is counted.

    Yields:
        A function of the step, the amount done and the total.
    """
    show, close = _bars(unit) if sys.stderr.isatty() else (_lines(unit), lambda: None)
    try:
        yield show
    finally:
        close()


def _bars(unit: str) -> tuple[Progress, Callable[[], None]]:
    """Return a function that shows one bar per step, and a function that removes the bars."""
    from rich import console, progress

    amount = (progress.DownloadColumn(), progress.TransferSpeedColumn()) if unit == "bytes" else (progress.MofNCompleteColumn(),)
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), *amount, progress.TimeRemainingColumn())
    bars = progress.Progress(*columns, console=console.Console(stderr=True))
    bars.start()
    tasks: dict[str, progress.TaskID] = {}

    def show(step: str, done: int, total: int) -> None:
        if step not in tasks:
            tasks[step] = bars.add_task(step)
        bars.update(tasks[step], completed=done, total=total)

    return show, bars.stop


def _lines(unit: str) -> Progress:
    """Return a function that prints a line of progress every LINE_SECONDS."""
    began = shown = time.monotonic()

    def show(step: str, done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= LINE_SECONDS:
            shown = now
            amount = f"{done / 1e6:,.1f} of {total / 1e6:,.1f} MB" if unit == "bytes" else f"{done:,} of {total:,} {unit}"
            print(f"{step}: {amount} after {now - began:,.0f} s", file=sys.stderr, flush=True)

    return show
