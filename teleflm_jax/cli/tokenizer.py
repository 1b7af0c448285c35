"""`python -m teleflm_jax tokenizer train | report`."""

import argparse
import json
import sys
import time
from collections.abc import Iterator

from teleflm_jax.cli import options
from teleflm_jax.cli.pack import progress_display
from teleflm_jax.data.config import DataConfig
from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Statistics
from teleflm_jax.errors import UserError
from teleflm_jax.runs import prepare
from teleflm_jax.runs.config import RunConfig
from teleflm_jax.tokenizer import load

HELP = "train the tokenizer on the run's text, or compare its tokens per byte with other tokenizers"
_OPTIONAL = ("model", "train")
"""Sections that a tokenizer does not depend on."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands and their options."""
    parser.epilog = f"example: {parser.prog} train --gin_file configs/runs/quickstart.gin"
    commands = parser.add_subparsers(dest="subcommand", metavar="{train,report}", required=True)
    train = _sub_command(commands, "train", "train on data.sources and write data.tokenizer", "--gin_file configs/runs/quickstart.gin")
    train.add_argument("--force", action="store_true", help="replace a tokenizer that was trained on another sample")
    example = "--gin_file configs/runs/quickstart.gin --text english=book.txt --beside other/tokenizer.json --published"
    report = _sub_command(commands, "report", "tokens per UTF-8 byte by domain, compared with other tokenizers", example)
    report.add_argument("--text", action="append", default=[], metavar="DOMAIN=FILE", help="text to measure on; repeatable")
    report.add_argument(
        "--beside", action="append", default=[], type=options.path, metavar="FILE", help="tokenizer.json, *.tiktoken or *.model; repeatable"
    )
    report.add_argument("--published", action="store_true", help="also print table 3 of the technical report, for reference")
    report.add_argument("--json", action="store_true", help="print one JSON object")


def _sub_command(commands: argparse._SubParsersAction, name: str, description: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=description, description=description, allow_abbrev=False)
    parser.epilog = f"example: {parser.prog} {example}"
    options.add_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the sub-command."""
    run = options.load(args, optional=_OPTIONAL)
    if args.subcommand == "train":
        _train(run, force=args.force)
    else:
        _report(run.data, args)


def _train(run: RunConfig, *, force: bool) -> None:
    target, began = run.data.tokenizer, time.monotonic()
    with progress_display("pieces") as show:
        trained = prepare.train_tokenizer(run, force=force, log=_log, progress=show)
    if trained:
        print(f"{target}: {run.tokenizer.vocab_size:,} ids in {time.monotonic() - began:,.0f} s")
    else:
        print(f"{target} exists already, trained on the same sample")


def _report(data: DataConfig, args: argparse.Namespace) -> None:
    from teleflm_jax.tokenizer import report  # imports tiktoken, which training does not need

    if not args.text:
        raise UserError("got no text to measure on; allowed: --text DOMAIN=FILE, repeatable; add one")
    texts = dict(_domain_and_path(text) for text in args.text)
    counters = {data.tokenizer: report.counter(load.load(data.tokenizer))} | dict(map(report.other, args.beside))
    ratios, num_bytes = report.ratios({domain: _documents(source) for domain, source in texts.items()}, counters)
    weights, origin = report.weights(texts, data.proportions)
    found = {name: ratio | {"weighted": report.weighted(ratio, weights)} for name, ratio in ratios.items()}
    if args.json:
        published = {name: dict(zip((*report.DOMAINS, "weighted"), row, strict=True)) for name, row in report.PUBLISHED.items()}
        shown = {"tokens_per_byte": found, "bytes": num_bytes, "weights": weights, "weights_from": origin}
        print(json.dumps(shown | ({"published": published} if args.published else {})))
        return
    print("tokens per UTF-8 byte; lower is better")
    print(_table(["tokenizer", *texts, "weighted"], [[name, *row.values()] for name, row in found.items()]))
    print(
        f"weighted by {origin}: "
        + ", ".join(f"{domain} {weight:.1%} of weight, {num_bytes[domain]:,} bytes" for domain, weight in weights.items())
    )
    if args.published:
        print("\ntechnical report, table 3, on other texts")
        print(_table(["tokenizer", *report.DOMAINS, "weighted"], [[name, *row] for name, row in report.PUBLISHED.items()]))


def _domain_and_path(text: str) -> tuple[str, str]:
    domain, _, path = text.partition("=")
    if not domain or not path:
        raise UserError(f"got --text {text}; allowed: DOMAIN=FILE; change --text")
    return domain, options.path(path)


def _documents(source: str) -> Iterator[str]:
    malformed = Statistics()
    for unit in work_units.split_source(source, prepare.UNIT_BYTES):
        for document in work_units.read(unit, malformed):
            yield document.text
    prepare.log_malformed(source, malformed, _log)


def _table(header: list[str], rows: list[list]) -> str:
    cells = [header, *([cell if isinstance(cell, str) else f"{cell:.3f}" for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]) for row in cells
    )


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
