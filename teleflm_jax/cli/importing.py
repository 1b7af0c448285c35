"""`import`: a Hugging Face folder as a run's folder, which `train.py` starts from, `eval.py` measures and `generate` samples."""

import argparse
import os
import pathlib
import shutil
import sys

import jax
from jax.experimental import multihost_utils

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import checkpoint, checksum, config, foreign, mup
from teleflm_jax.cli import options, run_folder
from teleflm_jax.distributed import processes
from teleflm_jax.errors import UserError
from teleflm_jax.huggingface import importing, tokenizer
from teleflm_jax.train.state import Counters, new_model, weights_of

HELP = "take over a model in safetensors (TeleFLM, Llama, TeleChat 7B or 12B) as a run's folder"
STEP = 0
"""Of the checkpoint that is made: no update of ours has been done."""
MARK = ".import"
"""In a folder that is being made; such a folder may be removed."""
NEEDS = ("data", "train")
"""Sections that an imported model's configuration leaves open."""


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    parser.epilog = f"example: {parser.prog} --from downloads/some-model --workdir runs/some-model"
    parser.add_argument(
        "--from", dest="source", required=True, type=options.path, metavar="FOLDER", help="config.json, safetensors, tokenizer.json"
    )
    parser.add_argument("--workdir", required=True, type=options.path, metavar="FOLDER", help="a folder that is not there yet")
    parser.add_argument("--tokenizer", type=options.path, metavar="FILE", help="a tokenizer.json, if the folder has none")
    options.add_process_arguments(parser)


def main(args: argparse.Namespace) -> int | None:
    """Make the folder, with the other processes, if there are any."""
    place = processes.find(os.environ, args.coordinator, args.num_processes, args.process_id)
    processes.join(place)
    if place is None:
        return _import(args)
    return options.run_process(lambda: _import(args), place)


def _import(args: argparse.Namespace) -> None:
    folder, source, first = pathlib.Path(args.workdir), pathlib.Path(args.source), jax.process_index() == 0
    partial = folder.with_name(f"{folder.name}.partial")
    _refuse_taken(folder, partial)
    found = importing.read(source)
    described = found.description
    settings = tokenizer.settings(source)
    text, notes = tokenizer.imported(pathlib.Path(args.tokenizer or source / tokenizer.FILE), settings, described.ids)
    layout = rules.layout(MeshConfig(zero=3), described.model.d_model)
    multihost_utils.sync_global_devices("nothing speaks against the import")
    try:
        if first:
            shutil.rmtree(partial, ignore_errors=True)
            _write(partial, described, text, settings.template)
        multihost_utils.sync_global_devices("the folder is begun")
        run_folder.load_tokenizer(partial, described.model.vocab_size)
        _save(partial, found, layout)
    except BaseException:  # an import begins anew, so that what is there is of no use
        if first:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    if first:
        (partial / MARK).unlink()
        os.rename(partial, folder)
        for note in (*found.notes, *settings.notes, *notes):
            print(f"note: {foreign.printable(note)}", file=sys.stderr)
        print(
            f"{folder}: step {STEP}; measure it: python eval.py --workdir {folder} --text NAME=FILE; train on from it: a run of its own "
            f"with --gin_file {folder / options.SAVED_CONFIG} and train.init_from = '{folder}@{STEP}'"
        )


def _refuse_taken(folder: pathlib.Path, partial: pathlib.Path) -> None:
    if folder.exists():
        raise UserError(f"got --workdir {folder}, which is there already; allowed: a name that is free; remove it or change --workdir")
    if partial.exists() and not (partial / MARK).is_file():
        raise UserError(f"got {partial}, which no import has left behind; allowed: a name that is free; remove it or change --workdir")


def _write(partial: pathlib.Path, described: importing.Description, text: str, template: str | None) -> None:
    """All but the weights."""
    partial.mkdir(parents=True)
    (partial / MARK).touch()
    given = {"model": described.model, "mup": described.mup}
    rest = {name: cls() for name, cls in options.SECTIONS.items() if name not in given and name not in NEEDS}
    (partial / options.SAVED_CONFIG).write_text(config.dump(given | rest), encoding="utf-8")
    (partial / run_folder.TOKENIZER).write_text(text, encoding="utf-8")
    if template is not None:
        (partial / tokenizer.TEMPLATE).write_text(template, encoding="utf-8")


def _save(partial: pathlib.Path, found: importing.ModelFolder, layout: rules.Layout) -> None:
    """The weights, as a checkpoint without an optimizer's state."""
    model = found.description.model
    shapes = jax.eval_shape(lambda: new_model(model, mup.at_width(found.description.mup, model.d_model), seed=0))
    arrays = {"model": importing.arrays(found, weights_of(layout.stored(shapes)))}
    sums, finite = checksum.of_tree(arrays)
    if not finite:
        raise UserError("got weights that are not all finite; allowed: finite ones; fetch the model again")
    record = checkpoint.Record(counters=vars(Counters()), identity=run_folder.identity(model, partial / run_folder.TOKENIZER))
    with checkpoint.writer(partial / checkpoint.FOLDER, checkpoint.Retention(last=1, every=0, best=0)) as writer:
        writer.save(STEP, arrays, record, sums)
