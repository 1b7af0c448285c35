"""The part of `eval.py` that asks benchmark tasks (`suite.*`)."""

import dataclasses
import pathlib
import sys
from collections.abc import Iterable, Sequence

import rich.console
import rich.progress

from teleflm_jax.cli import run_folder
from teleflm_jax.cli.checkpoint_arguments import Chosen, table
from teleflm_jax.cli.tables import Table
from teleflm_jax.evaluate import suite
from teleflm_jax.evaluate.config import SuiteConfig
from teleflm_jax.evaluate.model import Model
from teleflm_jax.generate import chat
from teleflm_jax.generate.decoder import Decoder


def measure(chosen: Sequence[Chosen]) -> list[dict]:
    """Ask every checkpoint the tasks of the first one's configuration; returns plain values."""
    work = suite.load(chosen[0].run.suite)
    for remark in work.remarks:
        print(remark, file=sys.stderr)
    return [describe(one, _asked(work, one)) for one in chosen]


def describe(one: Chosen, scores: dict[str, suite.TaskScore]) -> dict:
    """What a checkpoint scored, as plain values."""
    tasks = {name: dataclasses.asdict(score) for name, score in scores.items()}
    return {"run": str(one.folder), "step": one.step, "tokens": one.tokens, "tasks": tasks}


def tables(rows: Sequence[dict]) -> list[Table]:
    """For one checkpoint a row a task; for several a row each."""
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


def model(name: str, decoder: Decoder, tokenizer, config: SuiteConfig, folder: pathlib.Path) -> Model:
    """A model as the suite asks it."""
    return Model(
        name=name,
        decoder=decoder,
        tokenizer=tokenizer,
        format=chat.load(folder, tokenizer) if config.chat else None,
        bos=config.bos,
        batch_size=config.batch_size,
        max_tokens=config.max_tokens,
        seed=config.seed,
    )


def progress(batches: Sequence) -> Iterable:
    """A bar on stderr, where that is a terminal."""
    console = rich.console.Console(stderr=True)
    return rich.progress.track(batches, "measuring", console=console, transient=True, disable=not console.is_terminal)


def _asked(work: suite.Suite, one: Chosen) -> dict[str, suite.TaskScore]:
    scores = suite.measure(work, _model(one), progress)
    for remark in suite.remarks(scores):
        print(f"{one.name}: {remark}", file=sys.stderr)
    return scores


def _model(one: Chosen) -> Model:
    decoder = run_folder.load_decoder(one.folder, one.run, one.step)
    return model(one.name, decoder, one.tokenizer(), one.run.suite, one.folder)
