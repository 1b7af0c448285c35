"""`export`: a trained model as a folder that transformers loads, or as a file for llama.cpp."""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

import rich.console
import rich.progress
import tokenizers

from teleflm_jax import checkpoint
from teleflm_jax.cli import options
from teleflm_jax.errors import UserError
from teleflm_jax.huggingface import config, gguf_file, gguf_vocabulary, tokenizer
from teleflm_jax.huggingface import export as exports
from teleflm_jax.runs.folder import refuse_change
from teleflm_jax.runs.load import choose_step, load_tokenizer, read_record
from teleflm_jax.tokenizer import specials

HELP = "write a trained model as a Hugging Face folder, for transformers, or as a GGUF file, for llama.cpp"
SHARD_BYTES = 5_000_000_000
T = TypeVar("T")


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    options.add_arguments(parser)
    parser.epilog = f"example: {parser.prog} --workdir runs/quickstart --format llama --out exports/quickstart"
    parser.add_argument("--step", type=int, help="step of the checkpoint; default: the newest")
    parser.add_argument(
        "--format",
        choices=config.FORMATS,
        default=config.LLAMA,
        help="llama: multipliers are multiplied into embedding and head, so that any Llama code runs it; teleflm: they are separate, as in "
        "the released models; gguf: one file for llama.cpp, multiplied as llama's (%(default)s)",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=options.path,
        metavar="PATH",
        help="a folder that does not exist yet; with --format gguf, a file FILE.gguf",
    )
    parser.add_argument(
        "--dtype", default="bfloat16", choices=exports.DTYPES, help="dtype of weights; float16 only with gguf (%(default)s)"
    )
    parser.add_argument("--shard_bytes", type=int, help=f"largest file of a folder ({SHARD_BYTES})")


def main(args: argparse.Namespace) -> None:
    """Write the folder, or the file."""
    if args.format == config.GGUF and args.shard_bytes is not None:
        raise UserError(f"got --shard_bytes {args.shard_bytes} with --format gguf; allowed: one file; remove --shard_bytes")
    (run, folder), out = options.load_trained(args), pathlib.Path(args.out)
    step = choose_step(folder, args.step)
    refuse_change(folder, {"model": run.model, "mup": run.mup})
    loaded = load_tokenizer(folder, run.model.vocab_size)
    job = exports.ExportJob(
        checkpoint=(folder / checkpoint.FOLDER / str(step)).resolve(),
        record=read_record(folder, run, step),
        model=run.model,
        mup=run.mup,
        form=args.format,
        dtype=args.dtype,
        shard_bytes=SHARD_BYTES if args.shard_bytes is None else args.shard_bytes,
    )
    if args.format == config.GGUF:
        _write_gguf(job, folder, loaded, out)
        print(f"{out}: step {step:,} of {folder}, {args.format}, {args.dtype}")
        return
    around = specials.of(loaded)
    texts = {
        config.FILE: json.dumps(config.exported(run.model, run.mup, args.format, args.dtype, around.ids("config")), indent=1),
        config.GENERATION: json.dumps(around.ids("generation_config"), indent=1),
        **tokenizer.exported(folder, around, run.model.context_length),
    }
    for note in job.notes():
        print(f"note: {note}", file=sys.stderr)
    exports.export(job, out, texts, _progress)
    print(f"{out}: step {step:,} of {folder}, {args.format}, {args.dtype}")


def _write_gguf(job: exports.ExportJob, folder: pathlib.Path, loaded: tokenizers.Tokenizer, out: pathlib.Path) -> None:
    vocabulary, ids = gguf_vocabulary.read(json.loads(loaded.to_str()), job.model.vocab_size), specials.of(loaded)
    gguf_file.refuse_wrapping(ids)
    template = tokenizer.exported(folder, ids, job.model.context_length).get(tokenizer.TEMPLATE)
    for note in (*job.notes(), *vocabulary.notes, *gguf_file.notes_of_ends(ids)):
        print(f"note: {note}", file=sys.stderr)
    gguf_file.write(job, out, gguf_file.GGUFText(vocabulary=vocabulary, ids=ids, template=template), _progress)


def _progress(files: Sequence[T]) -> Iterable[T]:
    """Show a bar on stderr if that is a terminal."""
    console = rich.console.Console(stderr=True)
    return rich.progress.track(files, "writing", console=console, transient=True, disable=not console.is_terminal)
