"""Checkpoints: Orbax behind one small face, with a comparison of trees that is really strict.

A checkpoint holds two trees of arrays, `model` and `optimizer`, which load apart, and a JSON object of counters. Saving is asynchronous and
atomic: a folder `<step>` either is whole or does not exist under that name.
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from teleflm_jax.errors import UserError

FOLDER = "checkpoints"
"""Where they lie in a run's folder."""
PARTS = ("model", "optimizer")
MARKER = "_CHECKPOINT_METADATA"
"""What Orbax writes last into a finished checkpoint."""
METRIC = "bpb"
"""Name of the metric by which the best checkpoints are kept; lower is better."""

_policies = ocp.training.preservation_policies


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retention:
    """Which checkpoints outlive newer ones; a checkpoint that any rule names is kept."""

    last: int
    every: int
    """Multiples of this step; 0: none."""
    best: int

    def policy(self):
        """The same in Orbax's terms."""
        rules = [_policies.LatestN(self.last)]
        if self.every:
            rules.append(_policies.EveryNSteps(self.every))
        if self.best:
            rules.append(
                _policies.BestN(get_metric_fn=lambda m: m[METRIC], reverse=True, n=self.best, keep_checkpoints_without_metrics=False)
            )
        return _policies.AnyPreservationPolicy(rules)


@contextlib.contextmanager
def writer(folder: pathlib.Path, retention: Retention) -> Iterator[ocp.training.Checkpointer]:
    """Open a run's checkpoints for saving; on leaving, unfinished saves are waited for. Remains of a killed save are removed.

    Raises:
        OSError: the disk is full or fails, also where a save in the background met it; finished checkpoints are unharmed.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax reports each of its phases there, and errors that it raises as well
    every_call = ocp.training.save_decision_policies.FixedIntervalPolicy(1)
    options = {"save_decision_policy": every_call, "preservation_policy": retention.policy()}
    try:
        with ocp.training.Checkpointer(folder.resolve(), cleanup_tmp_directories=True, **options) as checkpointer:
            yield checkpointer
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's form of an OSError
        if not code:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(folder)) from error


def save(
    checkpointer: ocp.training.Checkpointer, step: int, arrays: Mapping[str, Any], counters: Mapping[str, Any], bpb: float | None
) -> None:
    """Begin to save; returns when the arrays may be changed again, and goes on writing in the background.

    Args:
        checkpointer: from `writer`.
        step: optimizer updates done.
        arrays: a tree under each name of `PARTS`.
        counters: a JSON object stored with the checkpoint.
        bpb: weighted bits per byte at this step, where it was measured.
    """
    metrics = None if bpb is None else {METRIC: bpb}
    checkpointer.save_checkpointables_async(step, dict(arrays), force=True, custom_metadata=dict(counters), metrics=metrics)


def metrics(checkpointer: ocp.training.Checkpointer) -> list[float]:
    """Weighted bits per byte of the checkpoints that are there, of those saved with it."""
    return [found.metrics[METRIC] for found in checkpointer.checkpoints if found.metrics]


def steps(folder: pathlib.Path) -> list[int]:
    """Steps of the finished checkpoints, ascending; empty where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in _numbered(folder) if (path / MARKER).exists())


def refuse_damaged(folder: pathlib.Path) -> None:
    """Refuse a checkpoint that lost its marker, newer than every whole one; older ones are what a killed deletion left.

    Raises:
        UserError: names the folder; to go on from an older checkpoint is for a person to decide.
    """
    newest = max(steps(folder), default=-1)
    for path in _numbered(folder) if folder.is_dir() else ():
        if int(path.name) > newest:
            raise UserError(
                f"got the checkpoint {path} without {MARKER}; allowed: a whole one; restore it, or remove it to go on from an older one"
            )


def _numbered(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in folder.iterdir() if path.name.isdecimal() and str(int(path.name)) == path.name]


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


def restore(folder: pathlib.Path, step: int, shapes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load parts of a checkpoint, which must have exactly the given trees.

    Args:
        folder: a run's `checkpoints`.
        step: one of `steps(folder)`.
        shapes: for each wanted part, its tree of `jax.ShapeDtypeStruct` with the shardings to load into.

    Returns:
        The arrays by part, and the counters.

    Raises:
        UserError: the checkpoint's tree, a shape or a dtype differs; names the first ten. Orbax itself would load what matches.
    """
    path = (folder / str(step)).resolve()
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax reports there what it raises as well
    try:
        saved = ocp.checkpointables_metadata(path)
        for part, wanted in shapes.items():
            _compare(f"{path} ({part})", _signature(saved.metadata[part]), _signature(wanted))
        return ocp.load_checkpointables(path, dict(shapes)), dict(saved.custom_metadata or {})
    except UserError:
        raise
    except Exception as error:  # Orbax and TensorStore have no common class for what a damaged file makes them raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(
            f"got the checkpoint {path}, which cannot be read ({reason}); "
            "allowed: a whole one; restore it, or remove it to go on from an older one"
        ) from error


def _signature(tree: Any) -> dict[str, str]:
    """Path -> "dtype[shape]" of every array."""
    is_leaf = lambda node: hasattr(node, "shape") and hasattr(node, "dtype")  # noqa: E731
    flat = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in flat}


def _compare(what: str, saved: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    different = [
        f"{p} is {saved.get(p, 'absent')} there and {wanted.get(p, 'absent')} here"
        for p in sorted({*saved, *wanted})
        if saved.get(p) != wanted.get(p)
    ]
    if different:
        more = f" and {len(different) - 10} more" if len(different) > 10 else ""
        raise UserError(
            f"got the checkpoint {what} of another shape: {'; '.join(different[:10])}{more}; "
            "allowed: the very arrays of this configuration; change model.* or the checkpoint"
        )
