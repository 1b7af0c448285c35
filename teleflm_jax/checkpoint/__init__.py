"""Checkpoints: Orbax behind one small face, with a comparison that is really strict and checksums of our own.

A checkpoint holds two trees of arrays, `model` and `optimizer`, which load apart, and a record: counters, mixture history, what the arrays
belong to, and the shape, dtype and checksum of every array, all under a seal. Saving is asynchronous and atomic: a folder `<step>` either
is whole or does not exist under that name. What the disk does to it afterwards is found on restoring: Orbax alone would load a flipped bit.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from teleflm_jax import checksum
from teleflm_jax.checkpoint import failures
from teleflm_jax.checkpoint.paths import plain
from teleflm_jax.checkpoint.record import MARKER, Damaged, Record, is_history, quiet, read, seal, signature, why
from teleflm_jax.checkpoint.verify import opened, probe, verify
from teleflm_jax.errors import UserError

__all__ = ["MARKER", "Damaged", "Record", "is_history", "opened", "plain", "probe", "read", "verify"]

FOLDER = "checkpoints"
"""Where they lie in a run's folder."""
PARTS = ("model", "optimizer")
ASIDE = ".damaged"
"""In the names of checkpoints that were found damaged."""
STEP = re.compile("0|[1-9][0-9]{0,9}")
"""Name of a checkpoint's folder."""
LAYERS = "blocks"
"""Name of the parts of a tree whose arrays are stacked along a leading dimension, one entry a layer."""
CHUNK_BYTES = 64 << 20
"""What a reader decodes at once, at most, save for what one device holds of a layer's weight."""
LISTED = 10
"""Differences that an error names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retention:
    """Which checkpoints outlive newer ones; a checkpoint that any rule names is kept."""

    last: int
    every: int
    """Multiples of this step; 0: none."""
    best: int

    def kept(self, bpbs: Mapping[int, float | None]) -> set[int]:
        """Steps to keep of those that are there, each with its bits per byte where these were measured."""
        by_bpb = sorted((bpb, step) for step, bpb in bpbs.items() if bpb is not None)
        multiples = {step for step in bpbs if self.every and step % self.every == 0}
        return {*sorted(bpbs)[-self.last :], *multiples, *(step for _, step in by_bpb[: self.best])}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Keep:
    """The same in Orbax's terms."""

    retention: Retention
    bpbs: dict[int, float]
    """Weighted bits per byte of steps, as far as they were measured; a step is saved before."""

    def should_preserve(self, checkpoints: Sequence, *, context: Any) -> list[bool]:
        kept = self.retention.kept({found.step: self.bpbs.get(found.step) for found in checkpoints})
        return [found.step in kept for found in checkpoints]


@dataclasses.dataclass(kw_only=True)
class Writer:
    """A run's checkpoints, open for saving; from `writer`."""

    orbax: ocp.training.Checkpointer
    folder: pathlib.Path
    keep: _Keep
    first: int | None = None
    """The step that was saved first."""
    looked: bool = False
    """That step has been read back."""
    begun: list = dataclasses.field(default_factory=list)
    """Orbax's answer to the last `save`, at most one: it holds a thread and three files until it is asked for its result."""

    def save(self, step: int, arrays: Mapping[str, Any], record: Record, sums: Mapping[str, int]) -> None:
        """Begin to save; returns when the arrays may be changed again, and goes on writing in the background.

        Args:
            step: optimizer updates done.
            arrays: a tree under each name of `PARTS`.
            record: all but `arrays`, which is filled in here.
            sums: of `checksum.of_tree(arrays)`.
        """
        if self.first is None:
            self.first = step
        else:
            self.wait()  # as Orbax would do now
        described = {path: {"is": kind, "checksum": sums[path]} for path, kind in signature(arrays).items()}
        sealed = seal(dataclasses.asdict(dataclasses.replace(record, arrays=described)))
        with failures.disk_errors(self.folder):
            self.begun.append(self.orbax.save_checkpointables_async(step, dict(arrays), force=True, custom_metadata=sealed))

    def holds(self, step: int) -> bool:
        """Whether there is a checkpoint of this step, or one on its way."""
        return any(found.step == step for found in self.orbax.checkpoints)

    def measured(self, step: int, bpb: float) -> bool:
        """Take note of a step's bits per byte; says whether its checkpoint is, or would be, one of the best that are kept."""
        there = {found.step for found in self.orbax.checkpoints} - {step}
        better = [kept for other, kept in self.keep.bpbs.items() if other in there and kept <= bpb]
        self.keep.bpbs[step] = bpb
        return len(better) < self.keep.retention.best

    def prune(self) -> None:
        """Delete the checkpoints that no rule names any more since the last save; all processes call it together."""
        there = [found.step for found in self.orbax.checkpoints]
        kept = self.keep.retention.kept({step: self.keep.bpbs.get(step) for step in there})
        stays = multihost_utils.broadcast_one_to_all(np.array([step in kept for step in there], bool))
        with failures.disk_errors(self.folder):
            for step in (step for step, stay in zip(there, stays, strict=True) if not stay):
                self.orbax.delete(step)

    def wait(self) -> None:
        """Return when nothing is being written any more; raises what the writing met, and as `read_back`."""
        with failures.disk_errors(self.folder):
            while self.begun:
                self.begun.pop().result()
            self.orbax.wait()
        self.read_back()

    def is_due(self) -> bool:
        """Tell if the first checkpoint is finished and has not been read back."""
        return jax.process_index() == 0 and self.first is not None and not self.looked and (self.folder / str(self.first) / MARKER).exists()

    def read_back(self) -> None:
        """Read a little of the first checkpoint, unless that has been done; the first process does it.

        Raises:
            UserError: it cannot be restored, and later ones could not either.
        """
        if self.looked or self.first is None or jax.process_index() > 0:
            return
        self.looked = True
        first = self.first
        _, failure = failures.attempted(lambda: probe(self.folder, first))
        if failure is None:
            return
        if not failures.is_damage(failure):
            raise failure
        reason = failure.reason if isinstance(failure, Damaged) else why(failure)
        raise UserError(
            f"got the checkpoint of step {self.first} in {self.folder}, which cannot be read back ({reason}); allowed: a folder that "
            "keeps what is written; look at its disk, or change --workdir to another one with a plain name"
        ) from failure


@contextlib.contextmanager
def writer(folder: pathlib.Path, retention: Retention, bpbs: Mapping[int, float] | None = None) -> Iterator[Writer]:
    """Open a run's checkpoints for saving; on leaving, unfinished saves are waited for. Remains of a killed save are removed.

    Args:
        folder: a run's `checkpoints`.
        retention: which of them are kept.
        bpbs: step -> weighted bits per byte of the evaluations so far.

    Raises:
        UserError: what was saved first cannot be read back, or the folder's path is none that could be.
        OSError: the disk is full or fails, also where a save in the background met it; finished checkpoints are unharmed.
    """
    quiet()
    keep = _Keep(retention=retention, bpbs=dict(bpbs or {}))
    every_call = ocp.training.save_decision_policies.FixedIntervalPolicy(1)
    options = {"save_decision_policy": every_call, "preservation_policy": keep, "cleanup_tmp_directories": True}
    with failures.disk_errors(folder), contextlib.ExitStack() as stack:
        folder.mkdir(exist_ok=True)
        place = stack.enter_context(plain(folder))
        checkpointer = stack.enter_context(ocp.training.Checkpointer(str(place), context=_context(), **options))
        _do_not_wait_after_a_failure(checkpointer)
        made = Writer(orbax=checkpointer, folder=folder, keep=keep)
        try:
            yield made
            made.wait()
        except OSError:
            if jax.process_count() > 1:
                stack.pop_all()  # closing would wait for the others, who wait for what this process could not write
            raise


def _context() -> ocp.Context:
    """How arrays are written.

    Without compression: it takes about as much of the processor as all the rest, beside the steps, and spares 8 % of float32's bytes.
    Without a file of shardings, which nobody reads, and by the one handler that our trees need, where Orbax would make one of each kind at
    every save: both while the devices wait.
    """
    context = ocp.Context()
    context.array.saving.scoped_storage_options_creator = _chunks
    context.array.saving.use_compression = False
    context.array.saving.enable_write_sharding_file = False
    context.checkpointables.registry = ocp.handlers.local_registry(include_global_registry=False)
    context.checkpointables.registry.add(ocp.handlers.PyTreeHandler)
    return context


def _do_not_wait_after_a_failure(checkpointer: ocp.training.Checkpointer) -> None:
    """Let a background save that failed on this process end at once.

    Orbax's would first wait for all processes to end theirs, which wait for what this one could not write: twenty minutes.
    """
    tracker = checkpointer._manager._save_progress_tracker
    sync = tracker.set

    def sync_unless_failing(value: bool) -> None:
        if sys.exception() is None:
            sync(value)

    tracker.set = sync_unless_failing


def steps(folder: pathlib.Path) -> list[int]:
    """Steps of the finished checkpoints, ascending; empty where there is no folder."""
    return [step for step in numbered(folder) if (folder / str(step) / MARKER).exists()]


def numbered(folder: pathlib.Path) -> list[int]:
    """Steps that have a folder, ascending: finished ones, and what damage or a killed deletion has left of others."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if STEP.fullmatch(path.name))


def choose(folder: pathlib.Path, step: int | None = None) -> int:
    """The given step, or the newest.

    Raises:
        UserError: there is none, or not that one.
    """
    found = steps(folder)
    if not found:
        raise UserError(
            f"got {folder} without a finished checkpoint; allowed: the folder of a run that has saved one; train first or change --workdir"
        )
    if step is not None and step not in found:
        raise UserError(f"got step {step}; allowed: {', '.join(map(str, found))}; change the step")
    return found[-1] if step is None else step


def restore(folder: pathlib.Path, step: int, shapes: Mapping[str, Any], identity: Mapping[str, Any]) -> tuple[dict[str, Any], Record]:
    """Load parts of a checkpoint, which must be exactly the given ones; every process of a run calls it and learns the same.

    Args:
        folder: a run's `checkpoints`.
        step: one of `numbered(folder)`.
        shapes: for each wanted part, its tree of `jax.ShapeDtypeStruct` with the shardings to load into.
        identity: what the record's must agree with, in every name that both have.

    Returns:
        The arrays by part, and the record.

    Raises:
        UserError: a tree, shape, dtype or an entry of the identity differs; names the first ten. Orbax itself would load what matches.
        Damaged: a file is missing, is not what its format says, or gives other values than were saved.
        OSError: some process's disk refuses to be read, which says nothing of the checkpoint.
    """
    path = folder / str(step)
    record = _together(path, lambda: read(folder, step))
    _refuse_unlike(path, record, shapes, identity)
    with plain(folder) as place:
        arrays = _together(path, lambda: _load(path, place / str(step), shapes))
    found, _ = checksum.of_tree(arrays)
    if wrong := [name for name, value in found.items() if value != record.arrays[name]["checksum"]]:
        raise Damaged(path, f"{len(wrong)} array(s) are not as they were saved: {', '.join(wrong[:LISTED])}")
    return arrays, record


def set_aside(folder: pathlib.Path, step: int) -> pathlib.Path:
    """Rename a damaged checkpoint, so that its step is free; nothing is deleted. Returns where it lies now."""
    path, number = folder / f"{step}{ASIDE}", 1
    while path.exists():
        path, number = folder / f"{step}{ASIDE}-{number + 1}", number + 1
    os.rename(folder / str(step), path)
    return path


def _load(path: pathlib.Path, place: pathlib.Path, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """This process's shards of the checkpoint `path`, which libraries find at `place`.

    One array after the other: beside what is loaded one array exists a second time.

    TensorStore reads them, as for `verify`: Orbax would hold all of them twice, and its barriers would keep the others waiting where one
    process fails.
    """
    return jax.tree_util.tree_map_with_path(lambda name, like: _load_array(path, place, checksum.name(name), like), dict(shapes))


def _load_array(path: pathlib.Path, place: pathlib.Path, name: str, like: jax.ShapeDtypeStruct) -> jax.Array:
    parts = {}

    def part(index: Any) -> np.ndarray:  # slices, one a dimension
        key = str(index)  # devices that hold the same share one reading
        if key not in parts:
            parts[key] = np.asarray(store[index].read().result())
        return parts[key]

    try:
        store = opened(place, name, f"{like.dtype}{list(like.shape)}")
        # waited for: what was read is let go only when the devices have it
        return jax.block_until_ready(jax.make_array_from_callback(like.shape, like.sharding, part))
    except ValueError as error:  # TensorStore's
        if not failures.is_damage(error):
            raise
        raise Damaged(path, f"{name} cannot be read: {why(error)}") from error


def _together(path: pathlib.Path, read: Callable[[], Any]) -> Any:
    """Read with every process's disk; where any fails, all raise: what speaks of damage before what speaks of the disk or the mount."""
    found, failure = failures.attempted(read)
    kinds = [failures.is_damage, lambda error: error is not None and not failures.is_damage(error)]
    damaged, refused = (
        np.flatnonzero(multihost_utils.process_allgather(np.int32(failure is not None and kind(failure)))) for kind in kinds
    )
    if damaged.size:
        if isinstance(failure, Damaged):
            raise failure
        raise Damaged(path, why(failure) if failure else f"process {_names(damaged)} could not read it") from failure
    if refused.size:
        if isinstance(failure, OSError) and failure.errno:
            raise failure
        reason = why(failure) if failure else "another process could not read it"
        raise OSError(errno.EIO, f"process {_names(refused)} cannot read it ({reason})", str(path)) from failure
    return found


def _names(processes: np.ndarray) -> str:
    return ", ".join(map(str, processes[:LISTED])) + (", …" if len(processes) > LISTED else "")


def _refuse_unlike(path: pathlib.Path, record: Record, shapes: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    saved = {name: kept["is"] for name, kept in record.arrays.items() if name.partition("/")[0] in shapes}
    wanted = signature(shapes)
    common = record.identity.keys() & identity.keys()
    saved |= {name: record.identity[name] for name in common}
    wanted |= json.loads(json.dumps({name: identity[name] for name in common}))
    different = [
        f"{p} is {saved.get(p, 'absent')} there and {wanted.get(p, 'absent')} here"
        for p in sorted({*saved, *wanted}, key=lambda name: (name not in identity, name))
        if saved.get(p) != wanted.get(p)
    ]
    if different:
        more = f" and {len(different) - LISTED} more" if len(different) > LISTED else ""
        raise UserError(
            f"got the checkpoint {path} of another run: {'; '.join(different[:LISTED])}{more}; "
            "allowed: the very arrays, tokenizer and data of this configuration; change the configuration or the checkpoint"
        )


def _chunks(key: tuple, value: Any) -> ocp.options.ArrayOptions.Saving.StorageOptions:
    """Store an array in chunks, stacked ones layer by layer: who exports or loads a part of it need not decode all of it."""
    stacked = LAYERS in checksum.name(key).split("/") and value.ndim > 1
    return ocp.options.ArrayOptions.Saving.StorageOptions(chunk_byte_size=CHUNK_BYTES, shard_axes=(0,) if stacked else ())
