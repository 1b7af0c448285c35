"""`import`: a Hugging Face folder as a run's folder, which `train.py` starts from, `eval.py` measures and `generate` samples."""

import argparse
import functools
import os
import pathlib
import sys

import jax

from teleflm_jax import foreign, invocation
from teleflm_jax.cli import options
from teleflm_jax.distributed import processes
from teleflm_jax.huggingface import importing, tokenizer
from teleflm_jax.runs import create
from teleflm_jax.runs.config import SAVED_CONFIG, RunConfig

HELP = "import a model in safetensors (TeleFLM, Llama, TeleChat 7B or 12B) as a run's folder"


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    parser.epilog = f"example: {parser.prog} --from downloads/some-model --workdir runs/some-model"
    parser.add_argument(
        "--from", dest="source", required=True, type=options.path, metavar="FOLDER", help="config.json, safetensors, tokenizer.json"
    )
    parser.add_argument("--workdir", required=True, type=options.path, metavar="FOLDER", help="a folder that does not exist yet")
    parser.add_argument("--tokenizer", type=options.path, metavar="FILE", help="a tokenizer.json, if the folder has none")
    options.add_process_arguments(parser)


def main(args: argparse.Namespace) -> int | None:
    """Make the folder, together with the other processes if there are any."""
    process = processes.find(os.environ, args.coordinator, args.num_processes, args.process_id)
    processes.join(process)
    if process is None:
        return _import(args)
    return options.run_process(lambda: _import(args), process)


def _import(args: argparse.Namespace) -> None:
    folder, source = pathlib.Path(args.workdir), pathlib.Path(args.source)
    create.refuse_taken(folder)
    found = importing.read(source)
    described = found.description
    settings = tokenizer.settings(source)
    text, notes = tokenizer.imported(pathlib.Path(args.tokenizer or source / tokenizer.FILE), settings, described.ids)
    create.from_weights(
        folder,
        RunConfig(model=described.model, mup=described.mup),
        functools.partial(importing.arrays, found),
        tokenizer=text,
        files={} if settings.template is None else {tokenizer.TEMPLATE: settings.template},
    )
    if jax.process_index() == 0:
        for note in (*found.notes, *settings.notes, *notes):
            print(f"note: {foreign.printable(note)}", file=sys.stderr)
        measure = f"{invocation.command('eval')} --workdir {folder} --text NAME=FILE"
        print(
            f"{folder}: step {create.STEP}; measure it: {measure}; train on from it: a run of its own with --gin_file "
            f"{folder / SAVED_CONFIG} and train.init_from = '{folder}@{create.STEP}'"
        )
