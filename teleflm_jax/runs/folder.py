"""The folder of a run: its files, its lock, and the comparison of a configuration with the one that the run was trained with."""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils

from teleflm_jax import atomic_write, checkpoint, config
from teleflm_jax.errors import UserError
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.runs.config import SAVED_CONFIG, SECTIONS, RunConfig, saved_config, without_paths
from teleflm_jax.tokenizer import load

TOKENIZER = "tokenizer.json"
LOCK = ".lock"
FREE = {
    "model": ("remat", "attention", "loss_chunk_tokens"),
    "data": ("tokenizer", "packed", "sources", "max_epochs", "proportions", "change_proportions"),
    "train": ("steps", "microbatch_size", "eval_every", "suite_every", "eval_bytes")
    + ("checkpoint_every", "keep_last", "keep_every", "keep_best"),
}
"""Fields that may change when a run resumes: of the tokenizer its path but not its content, and the proportions if
`data.change_proportions` allows it. A run resumes with its own copy of the tokenizer."""
BRANCH_FREE = {
    **FREE,
    "optimizer": tuple(field.name for field in dataclasses.fields(OptimizerConfig)),
    "mup": ("learning_rate", "matrix_learning_rate", "minimum_learning_rate", "matrix_minimum_learning_rate"),
    "train": (*FREE["train"], "init_from", "init_optimizer", "seed"),
}
"""Fields in which a branch (`train.init_optimizer`) may differ from its parent; the seed made the parent's initial weights."""
NEW_RUN = (
    "start a new run in another folder (train.init_from takes over the weights; with train.init_optimizer = True it is a branch, which "
    "may have other optimizer.* settings)"
)
"""Remedy for a setting that may not change in a run's own folder."""
NO_BRANCH = "remove train.init_optimizer to start with a new optimizer"
"""Remedy for a setting that may not change in a branch."""


def local(place: str | os.PathLike[str]) -> pathlib.Path:
    """Return the folder as a path; raise a `UserError` if it is not on a disk, since object stores cannot append to logs."""
    if "://" in os.fspath(place):
        raise UserError(f"got the run folder {place}; allowed: one on a local or shared disk; mount the store or use another folder")
    return pathlib.Path(place)


def identity(model: ModelConfig, tokenizer: pathlib.Path) -> dict[str, Any]:
    """Return what a checkpoint's arrays belong to: settings of the model that no shape shows, and the tokenizer's checksum."""
    shape = {f"model.{field.name}": getattr(model, field.name) for field in dataclasses.fields(model) if field.name not in FREE["model"]}
    return shape | {"tokenizer": load.sha256(str(tokenizer))}


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Make the folder and lock it, so that two trainings cannot write into it; the lock ends with the process at the latest."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():  # a link could redirect what is written here, and opening a FIFO blocks
        if not path.is_dir() and (path.is_symlink() or not path.is_file()):
            raise UserError(f"got {path}, which is not a plain file; allowed: a run's folder of plain files and folders; remove it")
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"got the run folder {folder}, which another process is using; allowed: one process at a time; wait for it, or use another "
                "folder"
            ) from error
        yield


@contextlib.contextmanager
def naming(folder: pathlib.Path) -> Iterator[None]:
    """Add the folder's name to a disk error that names no file, such as a failed write to an open file."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(folder)) from error
        raise


def write(folder: pathlib.Path, run: RunConfig, tokenizer: bytes) -> None:
    """Write the configuration and the tokenizer."""
    atomic_write.write(folder / SAVED_CONFIG, config.dump(run.sections()).encode())
    atomic_write.write(folder / TOKENIZER, tokenizer)


def write_shared(folder: pathlib.Path, run: RunConfig, tokenizer: bytes) -> None:
    """Write the folder on process 0 and check on every process that it is there.

    Raises:
        UserError: a process sees a different folder from process 0, because it is on another disk.
    """
    if jax.process_index() == 0:
        write(folder, run, tokenizer)
    multihost_utils.sync_global_devices("the run's folder is written")
    saved = folder / SAVED_CONFIG
    if not saved.is_file() or without_paths(config.parse([str(saved)], [], SECTIONS)) != without_paths(run.sections()):
        raise UserError(
            f"got the run folder {folder}, in which process {jax.process_index()} does not see the files of process 0; allowed: a folder "
            "that all processes share; use one on a shared disk"
        )


def refuse_changes(folder: pathlib.Path, run: RunConfig) -> None:
    """Raise a `UserError` if the folder has checkpoints of an imported model, or of a run whose numbers this configuration would change."""
    numbered = checkpoint.numbered(folder / checkpoint.FOLDER)
    if not numbered:
        return
    _refuse_imported(folder, numbered[-1])
    refuse_change(folder, run.sections())
    given = pathlib.Path(run.data.tokenizer)
    if given.is_file() and given.read_bytes() != (folder / TOKENIZER).read_bytes():
        raise UserError(
            f"got data.tokenizer={run.data.tokenizer!r}, where the run in {folder} was trained with another; allowed: the same; "
            "change it back, or start a new run in another folder"
        )


def refuse_change(
    folder: pathlib.Path, sections: Mapping[str, Any], free: Mapping[str, Sequence[str]] = FREE, otherwise: str = NEW_RUN
) -> None:
    """Compare sections of a configuration with those that the run was trained with.

    Args:
        folder: the run's folder, with its saved configuration.
        sections: by name; sections that do not affect the numbers, such as `mesh`, are not compared.
        free: fields that may differ, by section.
        otherwise: what to do instead of changing the field back, for the error.

    Raises:
        UserError: a field differs that is not in `free`.
    """
    saved = saved_config(folder)
    for section in sections.keys() & {"model", "mup", "optimizer", "data", "train"}:
        for field in dataclasses.fields(sections[section]):
            old, new = getattr(getattr(saved, section), field.name), getattr(sections[section], field.name)
            if _compared(field.name, old) != _compared(field.name, new) and field.name not in free.get(section, ()):
                raise UserError(
                    f"got {section}.{field.name}={new!r}, where the run in {folder} has {old!r}; allowed: the same as it was trained with; "
                    f"change it back, or {otherwise}"
                )


def _compared(field: str, value: Any) -> Any:
    """Return the part of a field that must not change.

    The parent in `train.init_from` is not read again and may have moved, so only its name and step are compared.
    """
    return pathlib.PurePath(value).name if field == "init_from" and value else value


def _refuse_imported(folder: pathlib.Path, newest: int) -> None:
    """Raise a `UserError` if the folder holds an imported model, which has no optimizer state and no data of its own to resume with."""
    with contextlib.suppress(checkpoint.Damaged):
        record = checkpoint.read(folder / checkpoint.FOLDER, newest)
        if not any(name.startswith("optimizer/") for name in record.arrays):
            raise UserError(
                f"got the run folder {folder}, which holds an imported model; allowed: a folder of the run's own; use another folder, and "
                f"start from the model with train.init_from = '{folder}@{newest}'"
            )
