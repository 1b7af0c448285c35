"""Checkpoints: Orbax behind a small interface, with a strict comparison and checksums of our own.

A checkpoint holds two trees of arrays, `model` and `optimizer`, which can be loaded separately, and a sealed record: counters, mixture
history, identity, and the shape, dtype and checksum of every array. Saving is asynchronous and atomic: a folder `<step>` is either complete
or does not exist under that name. Later damage by the disk is detected on restoring; Orbax alone would load a flipped bit.
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
"""Folder of the checkpoints in a run's folder."""
PARTS = ("model", "optimizer")
ASIDE = ".damaged"
"""Suffix in the names of damaged checkpoints."""
STEP = re.compile("0|[1-9][0-9]{0,9}")
"""Name of a checkpoint's folder."""
LAYERS = "blocks"
"""Name of the subtrees whose arrays are stacked along a leading dimension, one entry a layer."""
CHUNK_BYTES = 64 << 20
"""Largest number of bytes that a reader decodes at once, unless one device holds more of a layer's weight."""
LISTED = 10
"""Differences listed in an error."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retention:
    """Rules for keeping checkpoints; a checkpoint is kept if any rule names it."""

    last: int
    every: int
    """Multiples of this step are kept; 0: none."""
    best: int

    def kept(self, bpbs: Mapping[int, float | None]) -> set[int]:
        """Return the steps to keep of the given ones, which have their bits per byte if those were measured."""
        by_bpb = sorted((bpb, step) for step, bpb in bpbs.items() if bpb is not None)
        multiples = {step for step in bpbs if self.every and step % self.every == 0}
        return {*sorted(bpbs)[-self.last :], *multiples, *(step for _, step in by_bpb[: self.best])}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Keep:
    """Retention as Orbax's preservation policy."""

    retention: Retention
    bpbs: dict[int, float]
    """Step -> weighted bits per byte, if measured; a step is saved before it is measured."""

    def should_preserve(self, checkpoints: Sequence, *, context: Any) -> list[bool]:
        kept = self.retention.kept({found.step: self.bpbs.get(found.step) for found in checkpoints})
        return [found.step in kept for found in checkpoints]


@dataclasses.dataclass(kw_only=True)
class Writer:
    """Checkpoints of a run, open for saving; from `writer`."""

    orbax: ocp.training.Checkpointer
    folder: pathlib.Path
    keep: _Keep
    first: int | None = None
    """First step that was saved."""
    looked: bool = False
    """True once that step has been read back."""
    begun: list = dataclasses.field(default_factory=list)
    """Orbax's response to the last `save`, at most one: it holds a thread and three files until its result is requested."""

    def save(self, step: int, arrays: Mapping[str, Any], record: Record, sums: Mapping[str, int]) -> None:
        """Start to save; return when the arrays may be changed again, and continue to write in the background.

        Args:
            step: optimizer updates done.
            arrays: a tree under each name of `PARTS`.
            record: everything but `arrays`, which is added here.
            sums: from `checksum.of_tree(arrays)`.
        """
        if self.first is None:
            self.first = step
        else:
            self.wait()  # Orbax would wait here as well
        described = {path: {"is": kind, "checksum": sums[path]} for path, kind in signature(arrays).items()}
        sealed = seal(dataclasses.asdict(dataclasses.replace(record, arrays=described)))
        with failures.disk_errors(self.folder):
            self.begun.append(self.orbax.save_checkpointables_async(step, dict(arrays), force=True, custom_metadata=sealed))

    def holds(self, step: int) -> bool:
        """Return whether there is a checkpoint of this step, or one is being written."""
        return any(found.step == step for found in self.orbax.checkpoints)

    def measured(self, step: int, bpb: float) -> bool:
        """Record a step's bits per byte; return whether its checkpoint is, or would be, one of the best that are kept."""
        there = {found.step for found in self.orbax.checkpoints} - {step}
        better = [kept for other, kept in self.keep.bpbs.items() if other in there and kept <= bpb]
        self.keep.bpbs[step] = bpb
        return len(better) < self.keep.retention.best

    def prune(self) -> None:
        """Delete the checkpoints that no rule names any more; all processes call it together."""
        there = [found.step for found in self.orbax.checkpoints]
        kept = self.keep.retention.kept({step: self.keep.bpbs.get(step) for step in there})
        stays = multihost_utils.broadcast_one_to_all(np.array([step in kept for step in there], bool))
        with failures.disk_errors(self.folder):
            for step in (step for step, stay in zip(there, stays, strict=True) if not stay):
                self.orbax.delete(step)

    def wait(self) -> None:
        """Wait until nothing is being written; raise errors of the writing, and those of `read_back`."""
        with failures.disk_errors(self.folder):
            while self.begun:
                self.begun.pop().result()
            self.orbax.wait()
        self.read_back()

    def release(self) -> None:
        """Wait for the save under way and drop its result, which holds a thread and files; the run has failed for another reason."""
        while self.begun:
            with contextlib.suppress(Exception):
                self.begun.pop().result()

    def is_due(self) -> bool:
        """Return whether the first checkpoint is finished and has not been read back."""
        return jax.process_index() == 0 and self.first is not None and not self.looked and (self.folder / str(self.first) / MARKER).exists()

    def read_back(self) -> None:
        """Read a small part of the first checkpoint, once and on the first process.

        Raises:
            UserError: it cannot be restored, so that later ones could not be either.
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
            "keeps what is written; check its disk, or use another folder with a plain name"
        ) from failure


@contextlib.contextmanager
def writer(folder: pathlib.Path, retention: Retention, bpbs: Mapping[int, float] | None = None) -> Iterator[Writer]:
    """Open a run's checkpoints for saving; the exit waits for unfinished saves. Remains of a killed save are removed.

    Args:
        folder: a run's `checkpoints`.
        retention: rules for keeping them.
        bpbs: step -> weighted bits per byte of the evaluations so far.

    Raises:
        UserError: the first checkpoint cannot be read back, or the folder's path makes that impossible.
        OSError: the disk is full or fails, also during a save in the background; finished checkpoints are intact.
    """
    quiet()
    keep = _Keep(retention=retention, bpbs=dict(bpbs or {}))
    every_call = ocp.training.save_decision_policies.FixedIntervalPolicy(1)
    options = {"save_decision_policy": every_call, "preservation_policy": keep, "cleanup_tmp_directories": True}
    with failures.disk_errors(folder), contextlib.ExitStack() as stack:
        folder.mkdir(exist_ok=True)
        readable = stack.enter_context(plain(folder))
        checkpointer = stack.enter_context(ocp.training.Checkpointer(str(readable), context=_context(), **options))
        _do_not_wait_after_a_failure(checkpointer)
        made = Writer(orbax=checkpointer, folder=folder, keep=keep)
        try:
            yield made
            made.wait()
        except BaseException as error:
            if isinstance(error, OSError) and jax.process_count() > 1:
                stack.pop_all()  # closing would wait for the others, which wait for what this process could not write
            else:
                made.release()
            raise


def _context() -> ocp.Context:
    """Return Orbax's settings for writing arrays.

    Without compression, which takes about as much processor time as everything else beside the steps and saves 8 % of float32's bytes.
    Without a file of shardings, which nothing reads, and with the only handler that our trees need, since Orbax would make one of each kind
    at every save; both happen while the devices wait.
    """
    context = ocp.Context()
    context.array.saving.scoped_storage_options_creator = _chunks
    context.array.saving.use_compression = False
    context.array.saving.enable_write_sharding_file = False
    context.checkpointables.registry = ocp.handlers.local_registry(include_global_registry=False)
    context.checkpointables.registry.add(ocp.handlers.PyTreeHandler)
    return context


def _do_not_wait_after_a_failure(checkpointer: ocp.training.Checkpointer) -> None:
    """End a background save that failed on this process at once.

    Orbax would first wait for all processes to end theirs, which wait for what this one could not write: twenty minutes.
    """
    tracker = checkpointer._manager._save_progress_tracker
    sync = tracker.set

    def sync_unless_failing(value: bool) -> None:
        if sys.exception() is None:
            sync(value)

    tracker.set = sync_unless_failing


def steps(folder: pathlib.Path) -> list[int]:
    """Return the steps of the finished checkpoints, ascending; none if there is no folder."""
    return [step for step in numbered(folder) if (folder / str(step) / MARKER).exists()]


def numbered(folder: pathlib.Path) -> list[int]:
    """Return the steps that have a folder, ascending: finished ones, and remains of damage or of a killed deletion."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if STEP.fullmatch(path.name))


def choose(folder: pathlib.Path, step: int | None = None) -> int:
    """Return the given step, or the newest.

    Raises:
        UserError: there is no checkpoint, or none of that step.
    """
    found = steps(folder)
    if not found:
        raise UserError(
            f"got {folder} without a finished checkpoint; allowed: a folder whose run has saved one; train first or use another folder"
        )
    if step is not None and step not in found:
        raise UserError(f"got step {step}; allowed: {', '.join(map(str, found))}; change the step")
    return found[-1] if step is None else step


def restore(folder: pathlib.Path, step: int, shapes: Mapping[str, Any], identity: Mapping[str, Any]) -> tuple[dict[str, Any], Record]:
    """Load parts of a checkpoint, which must match exactly; every process of a run calls it and gets the same result.

    Args:
        folder: a run's `checkpoints`.
        step: one of `numbered(folder)`.
        shapes: for each part to load, its tree of `jax.ShapeDtypeStruct` with the shardings to load into.
        identity: entries that must equal the record's, if it has them.

    Returns:
        The arrays by part, and the record.

    Raises:
        UserError: a tree, shape, dtype or an entry of the identity differs; names the first ten. Orbax alone would load what matches.
        Damaged: a file is missing or malformed, or has other values than were saved.
        OSError: a process's disk cannot be read, which says nothing about the checkpoint.
    """
    path = folder / str(step)
    record = _together(path, lambda: read(folder, step))
    _refuse_unlike(path, record, shapes, identity)
    with plain(folder) as readable:
        arrays = _together(path, lambda: _load(path, readable / str(step), shapes))
    found, _ = checksum.of_tree(arrays)
    if wrong := [name for name, value in found.items() if value != record.arrays[name]["checksum"]]:
        raise Damaged(path, f"{len(wrong)} array(s) are not as they were saved: {', '.join(wrong[:LISTED])}")
    return arrays, record


def set_aside(folder: pathlib.Path, step: int) -> pathlib.Path:
    """Rename a damaged checkpoint so that its step is free, without deleting anything; return its new path."""
    path, number = folder / f"{step}{ASIDE}", 1
    while path.exists():
        path, number = folder / f"{step}{ASIDE}-{number + 1}", number + 1
    os.rename(folder / str(step), path)
    return path


def _load(path: pathlib.Path, readable: pathlib.Path, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Load this process's shards of the checkpoint `path`, which libraries find at `readable`.

    Arrays are loaded one by one, so that only one exists twice at a time.

    TensorStore reads them, as in `verify`: Orbax would hold all of them twice, and its barriers would block the others if one process
    fails.
    """
    return jax.tree_util.tree_map_with_path(lambda name, like: _load_array(path, readable, checksum.name(name), like), dict(shapes))


def _load_array(path: pathlib.Path, readable: pathlib.Path, name: str, like: jax.ShapeDtypeStruct) -> jax.Array:
    parts = {}

    def part(index: Any) -> np.ndarray:  # slices, one a dimension
        key = str(index)  # devices with the same slice share one read
        if key not in parts:
            parts[key] = np.asarray(store[index].read().result())
        return parts[key]

    try:
        store = opened(readable, name, f"{like.dtype}{list(like.shape)}")
        # wait: the data read are released only when the devices have them
        return jax.block_until_ready(jax.make_array_from_callback(like.shape, like.sharding, part))
    except ValueError as error:  # TensorStore's
        if not failures.is_damage(error):
            raise
        raise Damaged(path, f"{name} cannot be read: {why(error)}") from error


def _together(path: pathlib.Path, read: Callable[[], Any]) -> Any:
    """Read with every process's disk; if any fails, all raise: damage takes precedence over errors of the disk or the mount."""
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
            "allowed: exactly the arrays, tokenizer and data of this configuration; change the configuration or the checkpoint"
        )


def _chunks(key: tuple, value: Any) -> ocp.options.ArrayOptions.Saving.StorageOptions:
    """Store an array in chunks, stacked ones layer by layer, so that a part can be read without decoding all of it."""
    stacked = LAYERS in checksum.name(key).split("/") and value.ndim > 1
    return ocp.options.ArrayOptions.Saving.StorageOptions(chunk_byte_size=CHUNK_BYTES, shard_axes=(0,) if stacked else ())
