"""Tables of benchmark scores, and the progress bar of measurements."""

from collections.abc import Iterable, Sequence

import rich.console
import rich.progress

from teleflm_jax.cli.checkpoint_arguments import table
from teleflm_jax.observability.page import Table


def tables(rows: Sequence[dict]) -> list[Table]:
    """Return a table with one row for each task, or, of several checkpoints, one row for each checkpoint."""
    if len(rows) == 1:
        body = [
            (name, f"{score['value']:.4f}", "-" if score["error"] is None else f"{score['error']:.4f}", score["metric"])
            + (f"{score['shots']}", f"{score['items']:,}")
            for name, score in rows[0]["tasks"].items()
        ]
        title = f"{rows[0]['run']}, step {rows[0]['step']:,}"
        return [Table(title, ("task", "score", "std. error", "figure", "shots", "items"), body)]
    columns = list(rows[0]["tasks"])
    return [table("Benchmark scores", rows, columns, lambda row, name: row["tasks"][name]["value"], 4)]


def progress(batches: Sequence) -> Iterable:
    """Show a bar on stderr if that is a terminal."""
    console = rich.console.Console(stderr=True)
    return rich.progress.track(batches, "measuring", console=console, transient=True, disable=not console.is_terminal)
