"""`eval.py`: bits per byte of checkpoints on packed held-out sets or on any text, and benchmark tasks."""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence

import rich.box
import rich.console
import rich.markup
import rich.table

from teleflm_jax import foreign
from teleflm_jax.cli import benchmarks, checkpoint_arguments, options, tables
from teleflm_jax.errors import UserError
from teleflm_jax.observability.page import Table
from teleflm_jax.runs import evaluate
from teleflm_jax.runs.config import SAVED_CONFIG, refuse_withheld

HELP = "evaluate trained models in bits per byte, by domain, on a run's held-out sets or on any UTF-8 text; or on benchmark tasks"


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    options.add_arguments(parser)
    parser.epilog = f"example: {parser.prog} --workdir runs/quickstart --text readme=README.md"
    checkpoint_arguments.add_arguments(parser)
    parser.add_argument("--text", action="append", default=[], metavar="NAME=FILE", help="measure a file as one document; repeatable")
    parser.add_argument("--packed", action="store_true", help="measure the packed held-out sets, even if --text or suite.tasks is given")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(args: argparse.Namespace):
    """Measure and print."""
    texts = read_texts(args.text)
    saved = str(options.workdir(args) / SAVED_CONFIG)
    run, folder = options.load_trained(args, before=[saved])  # so that a gin file with a few settings is enough
    if not (texts or args.packed):
        refuse_withheld(run, "suite")
    if run.suite.tasks and not (texts or args.packed):
        chosen = checkpoint_arguments.choose(args, run, folder)
        rows = evaluate.benchmarks(chosen, watch=benchmarks.progress, log=lambda message: print(message, file=sys.stderr))
        results = benchmarks.tables(rows)
    else:
        chosen = checkpoint_arguments.choose(args, run, folder)
        rows = evaluate.compare(chosen, texts, packed=args.packed, watch=benchmarks.progress)
        results = None if len(rows) == 1 else _comparison(rows)
    if args.json:
        single = {key: value for key, value in rows[0].items() if key not in ("run", "tokens")}
        print(json.dumps(single if len(rows) == 1 else {"models": rows}))
    elif results is None:
        _print(folder, rows[0])
    else:
        for table in results:
            tables.show(tables.make_console(), table)


def _comparison(rows: list[dict]) -> list[Table]:
    """Return tables of bits per byte and loss: domains, then weighted means, as in tables 5 and 6 of the report."""

    def cell(figure):
        return lambda row, column: (row["domains"] | row["weighted"]).get(column, {}).get(figure)

    columns = [*rows[0]["domains"], *rows[0]["weighted"]]
    titles = (("Bits per byte", "bpb"), ("Loss, nats per token of each model's own", "loss"))
    return [checkpoint_arguments.table(title, rows, columns, cell(figure), 4) for title, figure in titles]


def read_texts(arguments: Sequence[str]) -> dict[str, str]:
    """Turn `NAME=FILE` arguments into name -> content.

    Raises:
        UserError: a name is missing or given twice, or a file is empty or not UTF-8.
    """
    texts = {}
    for argument in arguments:
        name, _, path = argument.partition("=")
        if not (name and path):
            raise UserError(f"got --text {argument!r}; allowed: NAME=FILE; change it to, for instance, --text readme=README.md")
        if name in texts:
            raise UserError(f"got --text {name}=… twice; allowed: each name once; change one of the two names")
        try:
            texts[name] = pathlib.Path(options.path(path)).read_bytes().decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"got {path}, which is not UTF-8 (byte {error.start:,}); allowed: UTF-8 text; change --text {name}=…"
            ) from error
        if not texts[name]:
            raise UserError(f"got {path}, which is empty; allowed: at least one character; change --text {name}=…")
    return texts


def _print(folder: pathlib.Path, report: dict) -> None:
    console = rich.console.Console(width=None if rich.console.Console().is_terminal else 120, highlight=False)
    table = rich.table.Table(
        title=f"{rich.markup.escape(foreign.printable(str(folder)))}, step {report['step']:,}",
        title_justify="left",
        title_style="bold",
        box=rich.box.SIMPLE_HEAD,
    )
    for column in ("domain", "bits/byte", "nats/token", "tokens", "bytes"):
        table.add_column(column, justify="left" if column == "domain" else "right", overflow="fold")
    for name, row in report["domains"].items():
        table.add_row(
            rich.markup.escape(foreign.printable(name)),
            f"{row['bpb']:.4f}",
            f"{row['loss']:.4f}",
            f"{row['tokens']:,}",
            f"{row['bytes']:,}",
        )
    table.add_section()
    for name, row in report["weighted"].items():
        table.add_row(f"mean: {name}", f"{row['bpb']:.4f}", f"{row['loss']:.4f}", "", "")
    console.print(table)
