"""`export`: a trained model as a folder that transformers, vLLM and others load."""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterable, Sequence

import rich.console
import rich.progress

from teleflm_jax import checkpoint
from teleflm_jax.cli import options, run_folder
from teleflm_jax.huggingface import config, tokenizer
from teleflm_jax.huggingface import export as exports
from teleflm_jax.tokenizer import specials

HELP = "write a trained model as a Hugging Face folder, for transformers, vLLM, SGLang or llama.cpp"
SHARD_BYTES = 5_000_000_000


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    options.add_arguments(parser)
    parser.epilog = f"example: {parser.prog} --workdir runs/quickstart --format llama --out exports/quickstart"
    parser.add_argument("--step", type=int, help="of the checkpoint; default: the newest")
    parser.add_argument(
        "--format",
        choices=config.FORMATS,
        default=config.LLAMA,
        help="llama: multipliers are multiplied into embedding and head, so that any Llama code serves it; teleflm: they stay apart, as in "
        "the released models (%(default)s)",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a folder that is not there yet")
    parser.add_argument("--dtype", default="bfloat16", choices=(*exports.DTYPES, "float16"), help="of the weights (%(default)s)")
    parser.add_argument("--shard_bytes", type=int, default=SHARD_BYTES, help="largest file (%(default)s)")


def main(args: argparse.Namespace) -> None:
    """Write the folder."""
    (run, folder), out = options.load_trained(args), pathlib.Path(args.out)
    step = run_folder.choose_step(folder, args.step)
    run_folder.refuse_change(folder, {"model": run.model, "mup": run.mup})
    loaded = run_folder.load_tokenizer(folder, run.model.vocab_size)
    job = exports.Job(
        checkpoint=(folder / checkpoint.FOLDER / str(step)).resolve(),
        record=run_folder.read_record(folder, run, step),
        model=run.model,
        mup=run.mup,
        form=args.format,
        dtype=args.dtype,
        shard_bytes=args.shard_bytes,
    )
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


def _progress(files: Sequence[exports.File]) -> Iterable[exports.File]:
    """A bar on stderr, where that is a terminal."""
    console = rich.console.Console(stderr=True)
    return rich.progress.track(files, "writing", console=console, transient=True, disable=not console.is_terminal)
