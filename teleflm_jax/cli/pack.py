"""`python -m teleflm_jax pack`: documents to packed records, ready to train on."""

import argparse
import signal
import sys
import time
from collections.abc import Callable

from teleflm_jax.cli import options
from teleflm_jax.runs import prepare

HELP = "tokenize and pack each domain's documents into records for training and evaluation"
STOPPED = 75
"""Exit code: stopped by a signal; what was done is kept."""
LINE_SECONDS = 10.0
"""Between two lines of progress where there is no terminal to draw a bar on."""


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    options.add_arguments(parser)
    parser.add_argument("--domain", action="append", default=[], metavar="NAME", help="pack this domain only; repeatable; default: all")
    parser.add_argument("--force", action="store_true", help="pack afresh, whatever stands there; the old data set stays until then")


def main(args: argparse.Namespace) -> int:
    """Pack every domain that data.sources names; what is packed already stays as it is."""
    run = options.load(args, optional=("train",))
    show, close = bar() if sys.stderr.isatty() else lines()
    packed: list[str] = []  # a bar and lines must not be drawn at the same time
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        prepare.pack(run, domains=args.domain, force=args.force, log=packed.append, progress=show)
    except KeyboardInterrupt:
        packed.append("pack: stopped; run the same command again to go on")
        return STOPPED
    finally:
        close()
        for line in packed:
            print(line, flush=True)
    return 0


def bar(unit: str = "bytes") -> tuple[Callable[[str, int, int], None], Callable[[], None]]:
    """Bars on a terminal, one a step: what shows how far it is, and what takes them away; `unit` is `bytes`, or what else is counted."""
    from rich import console, progress

    amount = (progress.DownloadColumn(), progress.TransferSpeedColumn()) if unit == "bytes" else (progress.MofNCompleteColumn(),)
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), *amount, progress.TimeRemainingColumn())
    bars = progress.Progress(*columns, console=console.Console(stderr=True))
    bars.start()
    tasks: dict[str, progress.TaskID] = {}

    def show(step: str, done: int, total: int):
        if step not in tasks:
            tasks[step] = bars.add_task(step)
        bars.update(tasks[step], completed=done, total=total)

    return show, bars.stop


def lines(unit: str = "bytes") -> tuple[Callable[[str, int, int], None], Callable[[], None]]:
    """The same as a line now and then, where there is no terminal."""
    began = shown = time.monotonic()

    def show(step: str, done: int, total: int):
        nonlocal shown
        now = time.monotonic()
        if now - shown >= LINE_SECONDS:
            shown = now
            amount = f"{done / 1e6:,.1f} of {total / 1e6:,.1f} MB" if unit == "bytes" else f"{done:,} of {total:,} {unit}"
            print(f"{step}: {amount} after {now - began:,.0f} s", file=sys.stderr, flush=True)

    return show, lambda: None
