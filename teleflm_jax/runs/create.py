"""Creating a run: from weights in memory or in files, as a folder with one checkpoint; or from another run, as a configuration."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import checkpoint, checksum, mup
from teleflm_jax.errors import UserError
from teleflm_jax.runs import folder as run_folder
from teleflm_jax.runs.config import RunConfig, refuse_incomplete
from teleflm_jax.runs.load import choose_step, load_tokenizer
from teleflm_jax.train.state import Counters, new_model, weights_of

STEP = 0
"""Step of the checkpoint that is made."""
MARK = ".import"
"""File in a folder that is being made; such a folder may be removed."""
LISTED = 10
"""Differences that an error names."""
Weights = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""From nested dictionaries of `jax.ShapeDtypeStruct` with shardings, named as a checkpoint's model, to the same of float32 arrays."""
NO_FILES: Mapping[str, str] = {}


def from_run(config: RunConfig, parent: str | os.PathLike[str], step: int | None = None, *, optimizer: bool = False) -> RunConfig:
    """Return the configuration of a run that starts from another run's weights, by default the newest, and uses its tokenizer.

    With `optimizer` the run is a branch, which continues the other run's optimizer state, counters and data as well.

    Raises:
        UserError: the other run has no such checkpoint.
    """
    refuse_incomplete(config, "data", "train")
    folder = pathlib.Path(parent)
    train = dataclasses.replace(config.train, init_from=f"{folder}@{choose_step(folder, step)}", init_optimizer=optimizer)
    data = dataclasses.replace(config.data, tokenizer=str(folder / run_folder.TOKENIZER))
    return dataclasses.replace(config, train=train, data=data)


def from_weights(
    workdir: str | os.PathLike[str], config: RunConfig, weights: Weights, *, tokenizer: str, files: Mapping[str, str] = NO_FILES
) -> pathlib.Path:
    """Make a run's folder whose checkpoint holds given weights and no optimizer state; every process of a run calls this.

    Such a folder can be evaluated and sampled from, and other runs can start from it (`from_run`).

    Args:
        workdir: the folder, which must not exist.
        config: `model` and `mup` of the weights.
        weights: gives the arrays; for arrays in memory `lambda shapes: arrays`. A process may give only the parts that its devices hold.
        tokenizer: content of the model's tokenizer.json.
        files: name -> content of further files.

    Returns:
        The folder.

    Raises:
        UserError: the folder exists, or the weights or the tokenizer do not fit the model; nothing is left behind.
    """
    refuse_incomplete(config, "model")
    folder = run_folder.local(workdir)
    partial = refuse_taken(folder)
    first = jax.process_index() == 0
    multihost_utils.sync_global_devices("every process accepts the new folder")
    with _removed_on_failure(partial, first):
        if first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            (partial / MARK).touch()
            run_folder.write(partial, config, tokenizer.encode())
            for name, content in files.items():
                (partial / name).write_text(content, encoding="utf-8")
        multihost_utils.sync_global_devices("the folder is begun")
        load_tokenizer(partial, config.model.vocab_size)
        _save(partial, config, weights)
    if first:
        (partial / MARK).unlink()
        os.rename(partial, folder)
    return folder


def refuse_taken(folder: pathlib.Path) -> pathlib.Path:
    """Return the temporary name under which a folder is made; raise a `UserError` if that name or the folder's own is taken."""
    partial = folder.with_name(f"{folder.name}.partial")
    if folder.exists():
        raise UserError(f"got the folder {folder}, which exists already; allowed: an unused name; remove it or use another folder")
    if partial.exists() and not (partial / MARK).is_file():
        raise UserError(f"got {partial}, which no import left behind; allowed: an unused name; remove it or use another folder")
    return partial


@contextlib.contextmanager
def _removed_on_failure(partial: pathlib.Path, first: bool) -> Iterator[None]:
    try:
        yield
    except BaseException:  # the next attempt starts over, so the remains are useless
        if first:
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _save(partial: pathlib.Path, config: RunConfig, weights: Weights) -> None:
    """Save the weights as a checkpoint without optimizer state."""
    model, width = config.model, mup.at_width(config.mup, config.model.d_model)
    layout = rules.layout(MeshConfig(zero=3), model.d_model)
    shapes = weights_of(layout.stored(jax.eval_shape(lambda: new_model(model, width, seed=0))))
    given = weights(shapes)
    _refuse_unlike(shapes, given)
    arrays = {"model": jax.device_put(given, jax.tree.map(lambda like: like.sharding, shapes))}
    sums, finite = checksum.of_tree(arrays)
    if not finite:
        raise UserError("got weights that are not all finite; allowed: finite ones; fetch the model again")
    record = checkpoint.Record(counters=vars(Counters()), identity=run_folder.identity(model, partial / run_folder.TOKENIZER))
    with checkpoint.writer(partial / checkpoint.FOLDER, checkpoint.Retention(last=1, every=0, best=0)) as writer:
        writer.save(STEP, arrays, record, sums)


def _refuse_unlike(shapes: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise a `UserError` unless the arrays have the names, shapes and dtypes of the model's weights."""
    wanted, found = (
        {checksum.name(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in jax.tree.leaves_with_path(dict(tree))}
        for tree in (shapes, given)
    )
    wrong = [f"{name} is {found.get(name, 'missing')} and not {kind}" for name, kind in wanted.items() if found.get(name) != kind]
    wrong += [f"{name} is no weight of this model" for name in sorted(found.keys() - wanted.keys())]
    if wrong:
        more = f" and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
        raise UserError(f"got weights that are not the model's: {'; '.join(wrong[:LISTED])}{more}; allowed: exactly its own; change them")
