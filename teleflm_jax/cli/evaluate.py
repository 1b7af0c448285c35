"""The body of `eval.py`: bits per byte of checkpoints, on packed held-out sets or on any text, and benchmark tasks."""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np
import rich.box
import rich.console
import rich.markup
import rich.table
import tokenizers

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import foreign
from teleflm_jax.cli import benchmarks, checkpoint_arguments, options, run_folder, tables
from teleflm_jax.errors import UserError
from teleflm_jax.evaluate import bpb, documents, weights
from teleflm_jax.packing import shards
from teleflm_jax.packing.records import HeldOut
from teleflm_jax.tokenizer import specials
from teleflm_jax.tokenizer.pieces import piece_bytes

HELP = "measure trained models in bits per byte, by domain, on a run's held-out sets or on any UTF-8 text; or on benchmark tasks"


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    options.add_arguments(parser)
    parser.epilog = f"example: {parser.prog} --workdir runs/quickstart --text readme=README.md"
    checkpoint_arguments.add_arguments(parser)
    parser.add_argument("--text", action="append", default=[], metavar="NAME=FILE", help="measure a file as one document; repeatable")
    parser.add_argument("--packed", action="store_true", help="measure the packed held-out sets, also where --text or suite.tasks is given")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(args: argparse.Namespace):
    """Measure and print."""
    texts = read_texts(args.text)
    saved = str(options.workdir(args) / options.SAVED_CONFIG)
    run, folder = options.load_trained(args, before=[saved])  # so that a file of a few settings will do
    if not (texts or args.packed):
        options.refuse_withheld(run, "suite")
    if run.suite.tasks and not (texts or args.packed):
        rows = benchmarks.measure(checkpoint_arguments.choose(args, run, folder))
        tables_ = benchmarks.tables(rows)
    else:
        rows = _bits_per_byte(args, run, folder, texts)
        tables_ = None if len(rows) == 1 else _comparison(rows)
    if args.json:
        single = {key: value for key, value in rows[0].items() if key not in ("run", "tokens")}
        print(json.dumps(single if len(rows) == 1 else {"models": rows}))
    elif tables_ is None:
        _print(folder, rows[0])
    else:
        for table in tables_:
            tables.show(tables.make_console(), table)


def _bits_per_byte(args: argparse.Namespace, run: options.Run, folder: pathlib.Path, texts: dict[str, str]) -> list[dict]:
    """Every checkpoint on the same text, each in its own tokens."""
    use_packed = args.packed or not texts
    if use_packed and run.data is None:
        raise UserError(
            f"got {folder}, which names no packed text (data.*), as an imported model does not; allowed: --text NAME=FILE, or a gin file "
            "with data.*; add one, such as --text readme=README.md"
        )
    chosen = checkpoint_arguments.choose(args, run, folder)
    tokenizer = chosen[0].tokenizer()
    packed = packed_documents(folder, run, tokenizer) if use_packed else {}
    both = sorted(packed.keys() & texts.keys())
    if both:
        raise UserError(f"got --text {both[0]}=…, which is also a packed domain; allowed: another name; change --text")
    return [_measure_one(one, packed, texts, tokenizer) for one in chosen]


def _measure_one(one: checkpoint_arguments.Chosen, packed: bpb.Documents, texts: dict[str, str], first: tokenizers.Tokenizer) -> dict:
    own = one.tokenizer()
    if own.to_str() != first.to_str():
        again = {name: [first.decode(document.tokens.tolist()) for document in held_out] for name, held_out in packed.items()}
        packed = {name: [encode(own, content) for content in contents] for name, contents in again.items()}
    documents_ = packed | {name: [encode(own, content)] for name, content in texts.items()}
    layout = rules.layout(MeshConfig(zero=3), one.run.model.d_model)  # split over all of this machine, whatever it was trained on
    model = layout.physical(run_folder.load_model(one.folder, one.run, one.step, layout.stored))
    bos = specials.of(own).bos
    scores = bpb.measure(model, documents_, batch_size=one.run.evaluation.batch_size, layout=layout, bos=bos, watch=benchmarks.progress)
    found = describe(one.step, scores, one.run.data.proportions if one.run.data else {})
    return {"run": str(one.folder), "tokens": one.tokens} | found


def _comparison(rows: list[dict]) -> list[tables.Table]:
    """Bits per byte and loss of several checkpoints: domains, then weighted means, as tables 5 and 6 of the report."""

    def cell(figure):
        return lambda row, column: (row["domains"] | row["weighted"]).get(column, {}).get(figure)

    columns = [*rows[0]["domains"], *rows[0]["weighted"]]
    titles = (("Bits per byte", "bpb"), ("Loss, nats per token of each model's own", "loss"))
    return [checkpoint_arguments.table(title, rows, columns, cell(figure), 4) for title, figure in titles]


def entry(argv: Sequence[str]) -> int:
    """What `eval.py` calls."""

    def command():
        parser = options.make_parser("python eval.py", HELP)
        arguments(parser)
        main(parser.parse_args(argv))

    return options.run_command(command)


def describe(step: int, scores: dict[str, bpb.BitsPerByte], proportions: dict[str, float]) -> dict:
    """All that is measured, as plain values."""
    domains = {
        name: {"bpb": score.bpb, "loss": score.loss, "tokens": score.tokens, "bytes": score.num_bytes} for name, score in scores.items()
    }
    return {"step": step, "domains": domains, "weighted": weights.aggregates(domains, proportions)}


def packed_documents(folder: pathlib.Path, run: options.Run, tokenizer: tokenizers.Tokenizer) -> dict[str, list[HeldOut]]:
    """The run's held-out sets, which must have been packed with the tokenizer of its folder."""
    data = dataclasses.replace(run.data, tokenizer=str(folder / run_folder.TOKENIZER))
    return documents.heldout(
        data,
        run.evaluation.domains,
        vocab_size=run.model.vocab_size,
        max_bytes=run.evaluation.max_bytes,
        pieces=piece_bytes(tokenizer),
    )


def read_texts(arguments: Sequence[str]) -> dict[str, str]:
    """`NAME=FILE` arguments to name -> content.

    Raises:
        UserError: no name, the same name twice, a file that is missing, empty or not UTF-8.
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


def encode(tokenizer: tokenizers.Tokenizer, content: str) -> HeldOut:
    """A text as one document, with the tokens that packing it would give."""
    tokens = np.concatenate(list(shards.encode(tokenizer, shards.cut(content))))
    return HeldOut(tokens=tokens, num_bytes=len(content.encode()))


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
