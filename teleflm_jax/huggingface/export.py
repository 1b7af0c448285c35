"""Export of a checkpoint as a folder that transformers loads, one tensor at a time.

Only one tensor is in memory: arrays are read through TensorStore without its cache and written in blocks. Checksums are taken of what is
read, so an export succeeds only if every weight is as it was saved. Files are completed one by one in FOLDER.partial, which is renamed to
FOLDER at the end: an export that was stopped resumes with the first missing file.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import tensorstore

from teleflm_jax import atomic_write, checkpoint, checksum, foreign, mup
from teleflm_jax.checkpoint import Record
from teleflm_jax.errors import UserError
from teleflm_jax.huggingface import config as settings
from teleflm_jax.huggingface import names, tensors
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.mup import MupConfig

DTYPES = {"bfloat16": "BF16", "float32": "F32", "float16": "F16"}
"""Dtypes of exported weights -> the format's names."""
STATE = ".export.json"
"""File in FOLDER.partial: fingerprint of the export, complete files, and checksums of their contents."""
READING = {"cache_pool": {"total_bytes_limit": 0}, "data_copy_concurrency": {"limit": 2}, "file_io_concurrency": {"limit": 4}}
"""TensorStore's limits: checkpoints are stored layer by layer and every chunk is read once, so caching would waste memory."""
SUM_BYTES = 8 << 20
"""Bytes that one step of the checksum reads; it needs a few times as much memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportJob:
    """Checkpoint, format and dtype of one export."""

    checkpoint: pathlib.Path
    """Absolute path of `checkpoints/<step>`."""
    record: Record
    model: ModelConfig
    mup: MupConfig
    form: str
    """One of `config.FORMATS`."""
    dtype: str
    shard_bytes: int
    """Largest size of a file in bytes, unless one tensor is larger."""

    def __post_init__(self):
        if self.dtype == "float16" and self.form != settings.GGUF:
            raise UserError(
                "got --dtype float16; allowed: bfloat16, float32, since head weights times the output multiplier fall below what float16 "
                "holds (35 % of the report's would lose digits); change --dtype, or --format to gguf, which keeps the head in float32"
            )
        if self.shard_bytes < 1:
            raise UserError(f"got --shard_bytes {self.shard_bytes}; allowed: 1 or more; change --shard_bytes")

    @property
    def rows(self) -> tuple[names.Row, ...]:
        """Rows of the table of names."""
        return names.LLAMA + (names.LLAMA_BIASES if self.model.output_biases else ())

    @property
    def factors(self) -> dict[str, float]:
        """Factors of weights in a format without multipliers; exact, since neither embedding nor head is tied to another weight."""
        if self.form == settings.TELEFLM:
            return {}
        rule = mup.at_width(self.mup, self.model.d_model)
        return {"embedding": rule.input_multiplier, "head": rule.output_multiplier}

    @property
    def fingerprint(self) -> dict[str, object]:
        """Facts that two exports share if one may resume the other's files."""
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self.record), sort_keys=True).encode()).hexdigest()
        return {"record": digest, "format": self.form, "dtype": self.dtype, "shard_bytes": self.shard_bytes}

    def notes(self) -> Iterator[str]:
        """Yield remarks for the user, one per line."""
        rounded = [f"{name} times {by:g}" for name, by in self.factors.items() if not settings.is_power_of_two(by)]
        if rounded and self.dtype == "bfloat16":
            yield (
                f"{' and '.join(rounded)} is no product by a power of two: weights that were exact in bfloat16 are rounded (by 0.4 % at "
                "most, as all weights are that were not exact); --dtype float32 or --format teleflm rounds nothing"
            )
        if self.model.compute_dtype == "float16" and self.dtype == "bfloat16":
            yield "weights that were exact in float16 are rounded to bfloat16, by 0.4 % at most; --dtype float32 keeps them"


@dataclasses.dataclass(frozen=True, kw_only=True)
class File:
    """One file of an export."""

    name: str
    entries: tuple[tensors.Entry, ...]
    places: tuple[tuple[names.Row, int], ...]
    """Row and layer of each entry."""


def files(job: ExportJob) -> list[File]:
    """Distribute the tensors over files of at most `shard_bytes`, in the order of the model."""
    size, groups, held = names.sizes(job.model), [[]], 0
    for row, layer in names.in_order(job.rows, job.model.num_layers):
        entry = tensors.Entry(name=row.name(layer), dtype=DTYPES[job.dtype], shape=names.shape(row, size))
        if groups[-1] and held + entry.num_bytes > job.shard_bytes:
            groups.append([])
            held = 0
        groups[-1].append((entry, (row, layer)))
        held += entry.num_bytes
    count = len(groups)
    titles = [tensors.SINGLE] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    return [
        File(name=title, entries=tuple(entry for entry, _ in group), places=tuple(place for _, place in group))
        for title, group in zip(titles, groups, strict=True)
    ]


def export(
    job: ExportJob, folder: pathlib.Path, texts: Mapping[str, str], watch: Callable[[Sequence[File]], Iterable[File]] = iter
) -> None:
    """Write the folder.

    Args:
        job: the export.
        folder: destination; must not exist.
        texts: name -> content of the files that hold no weights.
        watch: takes the files to write and yields them one by one, for example a progress bar.

    Raises:
        UserError: the folder exists, or belongs to another export; the disk is too small.
        checkpoint.Damaged: a weight is not as it was saved.
        OSError: the disk is full or fails; the folder does not exist then.
    """
    if folder.exists():
        raise UserError(f"got --out {folder}, which exists already; allowed: an unused name; remove it or change --out")
    partial = folder.with_name(f"{folder.name}.partial")
    todo = files(job)
    state = _begun(partial, job)
    left = [file for file in todo if file.name not in state["files"] or not (partial / file.name).is_file()]
    refuse_small_disk(partial, [entry for file in left for entry in file.entries])
    partial.mkdir(parents=True, exist_ok=True)
    atomic_write.write(partial / STATE, json.dumps(state).encode())
    context = tensorstore.Context(READING)
    for file in watch(left):
        sums: dict[str, int] = {}
        arrays = ((row, weight(job, row, layer, sums, context)) for row, layer in file.places)
        values = (tensors.blocks(array, DTYPES[job.dtype], job.factors.get(row.ours or "", 1.0)) for row, array in arrays)
        tensors.write(partial / file.name, file.entries, values)
        state["files"][file.name] = sums
        atomic_write.write(partial / STATE, json.dumps(state).encode())
    refuse_damaged(job, state["files"])
    if len(todo) > 1:
        weights = {entry.name: file.name for file in todo for entry in file.entries}
        total = sum(entry.num_bytes for file in todo for entry in file.entries)
        texts = {**texts, tensors.INDEX: json.dumps({"metadata": {"total_size": total}, "weight_map": weights}, indent=1)}
    for name, text in texts.items():
        atomic_write.write(partial / name, text.encode())
    (partial / STATE).unlink()
    os.rename(partial, folder)


def _begun(partial: pathlib.Path, job: ExportJob) -> dict:
    """Return the state of an export that was stopped, or a fresh one."""
    fresh = {"of": job.fingerprint, "files": {}}
    if not partial.exists():
        return fresh
    try:
        state = foreign.read_json(partial / STATE)
    except (OSError, UserError):
        state = {}
    if not isinstance(state, dict) or state.get("of") != fresh["of"]:
        raise UserError(
            f"got {partial}, which is not a started export of this checkpoint; allowed: the same checkpoint and options, to resume it; "
            "remove it or change --out"
        )
    return state


def refuse_small_disk(place: pathlib.Path, left: Iterable[tensors.Entry]) -> None:
    """Raise a `UserError` if the disk of a file or folder has no room for the remaining tensors."""
    disk = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    need, free = sum(entry.num_bytes for entry in left), shutil.disk_usage(disk).free
    if need > free:
        raise UserError(
            f"got {free / 1e6:,.1f} MB of free disk for {place}; allowed: at least {need / 1e6:,.1f} MB; free some space or change --out"
        )


def weight(job: ExportJob, row: names.Row, layer: int, sums: dict[str, int], context: tensorstore.Context) -> np.ndarray:
    """Return a Hugging Face tensor in float32, without its factor; adds the checksum of our weight to `sums`."""
    size = names.sizes(job.model)
    if row.ours is None:
        return np.zeros(names.shape(row, size), np.float32)
    name = f"model/{row.ours}"
    try:
        with checkpoint.plain(job.checkpoint) as place:
            store = checkpoint.opened(place, name, job.record.arrays[name]["is"], context)
            array = np.asarray((store[layer] if row.stacked else store).read().result())
    except (ValueError, KeyError) as error:
        raise checkpoint.Damaged(job.checkpoint, f"{name} cannot be read: {str(error)[:160]}") from error
    sums[name] = (sums.get(name, 0) + _sum(array, (layer,) if row.stacked else ())) % 2**32
    return names.to_theirs(array, row, size)


def _sum(array: np.ndarray, first: tuple[int, ...]) -> int:
    """Return a weight's part of the checksum, some rows at a time, since the sum needs several times its memory."""
    rows, total = max(1, SUM_BYTES // max(1, array[:1].nbytes)), 0
    for start in range(0, len(array), rows):
        block = array[start : start + rows]
        total += checksum.of_block(block.reshape((1,) * len(first) + block.shape), (*first, start, *(0,) * (block.ndim - 1)))
    return total


def refuse_damaged(job: ExportJob, written: Mapping[str, Mapping[str, int]]) -> None:
    """Raise `checkpoint.Damaged` unless the checksums of what was read, by file, add up to the checkpoint's."""
    for name, described in job.record.arrays.items():
        if name.startswith("model/"):
            found = sum(sums.get(name, 0) for sums in written.values()) % 2**32
            if found != described["checksum"]:
                raise checkpoint.Damaged(job.checkpoint, f"{name} is not as it was saved")
