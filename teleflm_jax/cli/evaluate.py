"""The body of `eval.py`: bits per byte of a run's checkpoint, on its packed held-out sets or on any text."""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import rich.box
import rich.console
import rich.markup
import rich.progress
import rich.table
import tokenizers

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax.cli import options, run_folder
from teleflm_jax.corpus import shards
from teleflm_jax.errors import UserError
from teleflm_jax.evaluate import bpb, documents, weights, windows
from teleflm_jax.records import HeldOut
from teleflm_jax.tokenizer import specials
from teleflm_jax.tokenizer.pieces import piece_bytes

HELP = "measure a trained model in bits per byte, by domain, on its run's held-out sets or on any UTF-8 text"


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    options.add_arguments(parser)
    parser.epilog = f"example: {parser.prog} --workdir runs/quickstart --text readme=README.md"
    parser.add_argument("--step", type=int, help="of the checkpoint; default: the newest")
    parser.add_argument("--text", action="append", default=[], metavar="NAME=FILE", help="measure a file as one document; repeatable")
    parser.add_argument("--packed", action="store_true", help="measure the packed held-out sets also where --text is given")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(args: argparse.Namespace):
    """Measure and print."""
    texts = read_texts(args.text)
    use_packed = args.packed or not texts
    run = options.load(args, optional=("train",) if use_packed else ("data", "train"))
    folder = options.workdir(args)
    step = run_folder.choose_step(folder, args.step)
    tokenizer = run_folder.load_tokenizer(folder, run.model.vocab_size)
    measured = packed_documents(folder, run, tokenizer) if use_packed else {}
    both = sorted(measured.keys() & texts.keys())
    if both:
        raise UserError(f"got --text {both[0]}=…, which is also a packed domain; allowed: another name; change --text")
    measured |= {name: [encode(tokenizer, content)] for name, content in texts.items()}
    layout = rules.layout(MeshConfig(zero=3), run.model.d_model)  # split over all of this machine, whatever the run was trained on
    model = layout.physical(run_folder.load_model(folder, run, step, layout.stored))
    bos = specials.of(tokenizer).bos
    scores = bpb.measure(model, measured, batch_size=run.evaluation.batch_size, layout=layout, bos=bos, watch=_progress)
    report = describe(step, scores, run.data.proportions if run.data else {})
    if args.json:
        print(json.dumps(report))
    else:
        _print(folder, report)


def entry(argv: Sequence[str]) -> int:
    """What `eval.py` calls."""

    def command():
        parser = options.make_parser("python eval.py", HELP)
        arguments(parser)
        main(parser.parse_args(argv))

    return options.run_command(command)


def describe(step: int, scores: dict[str, bpb.Score], proportions: dict[str, float]) -> dict:
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
            texts[name] = pathlib.Path(path).read_bytes().decode()
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


def _progress(batches: Sequence[windows.Batch]) -> Iterable[windows.Batch]:
    """A bar on stderr, where that is a terminal."""
    console = rich.console.Console(stderr=True)
    return rich.progress.track(batches, "measuring", console=console, transient=True, disable=not console.is_terminal)


def _print(folder: pathlib.Path, report: dict) -> None:
    console = rich.console.Console(width=None if rich.console.Console().is_terminal else 120, highlight=False)
    table = rich.table.Table(
        title=f"{rich.markup.escape(str(folder))}, step {report['step']:,}",
        title_justify="left",
        title_style="bold",
        box=rich.box.SIMPLE_HEAD,
    )
    for column in ("domain", "bits/byte", "nats/token", "tokens", "bytes"):
        table.add_column(column, justify="left" if column == "domain" else "right", overflow="fold")
    for name, row in report["domains"].items():
        table.add_row(rich.markup.escape(name), f"{row['bpb']:.4f}", f"{row['loss']:.4f}", f"{row['tokens']:,}", f"{row['bytes']:,}")
    table.add_section()
    for name, row in report["weighted"].items():
        table.add_row(f"mean: {name}", f"{row['bpb']:.4f}", f"{row['loss']:.4f}", "", "")
    console.print(table)
