"""Verification of a whole checkpoint, without the devices that wrote it."""

import math
import pathlib
import typing

import numpy as np
import tensorstore
from orbax.checkpoint import v1 as ocp

from teleflm_jax import checksum, foreign
from teleflm_jax.checkpoint.paths import plain
from teleflm_jax.checkpoint.record import LARGEST, Damaged, Record, quiet, read, signature, why
from teleflm_jax.errors import UserError

HEADER = b"zarr.json"
"""Key of an array's metadata among those of its chunks."""


def verify(folder: pathlib.Path, step: int) -> Record:
    """Read every array of a checkpoint block by block and compare it with its checksum; a block is at most what a device wrote at once.

    Raises:
        Damaged: the first array that is not as it was saved.
    """
    record, path = read(folder, step), folder / str(step)
    _verify_names(path, record)
    with plain(path) as readable:
        for array, described in record.arrays.items():
            try:
                found = _sum(opened(readable, array, described["is"]))
            except (ValueError, OSError) as error:  # TensorStore raises no others
                raise Damaged(path, f"{array} cannot be read: {why(error)}") from error
            if found != described["checksum"]:
                raise Damaged(path, f"{array} is not as it was saved")
        _verify_metadata(path, readable, record)
    return record


def probe(folder: pathlib.Path, step: int) -> None:
    """Check cheaply that a checkpoint can be restored: shape and chunks of every array, and the values of each part's smallest array.

    Raises:
        Damaged: a check fails.
        ValueError: TensorStore cannot read an array.
    """
    record, path = read(folder, step), folder / str(step)
    with plain(path) as readable:
        stores = {array: opened(readable, array, described["is"]) for array, described in record.arrays.items()}
        for array, store in stores.items():
            assert store.kvstore is not None  # its driver keeps chunks in one
            chunks = sum(key != HEADER for key in store.kvstore.list().result())  # names alone; no chunk is read
            wanted = math.prod(-(-n // c) for n, c in zip(store.shape, _chunk(store.chunk_layout.write_chunk), strict=True))
            if chunks != wanted:
                raise Damaged(path, f"{array} has {chunks} of {wanted} chunks")
        by_size = sorted(stores, key=lambda array: stores[array].size, reverse=True)
        for array in {array.partition("/")[0]: array for array in by_size}.values():
            if _sum(stores[array]) != record.arrays[array]["checksum"]:
                raise Damaged(path, f"{array} is not as it was saved")


def _verify_names(path: pathlib.Path, record: Record) -> None:
    """Compare the arrays in Orbax's own metadata with those that were saved; `restore` does not need these files."""
    try:
        for file in path.glob("*/array_metadatas/*"):
            foreign.parse_json(foreign.read(file, LARGEST))
        trees = {file.parent.name: foreign.parse_json(foreign.read(file, LARGEST))["tree_metadata"] for file in path.glob("*/_METADATA")}
        named = {
            "/".join([part, *(str(key["key"]) for key in array["key_metadata"])]) for part, tree in trees.items() for array in tree.values()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise Damaged(path, f"metadata cannot be read: {why(error)}") from error
    if named != record.arrays.keys():
        raise Damaged(path, "its metadata list other arrays than its record")


def _verify_metadata(path: pathlib.Path, readable: pathlib.Path, record: Record) -> None:
    """Compare what Orbax would load; this comes last, since Orbax leaves reads unfinished after a failure."""
    quiet()
    try:
        found = signature(dict(ocp.checkpointables_metadata(str(readable)).metadata))
    except Exception as error:  # Orbax has no class of its own for damaged files
        raise Damaged(path, f"metadata cannot be read: {why(error)}") from error
    if found != {name: kept["is"] for name, kept in record.arrays.items()}:
        raise Damaged(path, "its metadata list other arrays than its record")


def opened(path: pathlib.Path, array: str, kind: str, context: tensorstore.Context | None = None) -> tensorstore.TensorStore:
    """Open an array of a checkpoint, to read parts of it without jax.

    Args:
        path: absolute path of the checkpoint.
        array: name in the record.
        kind: dtype and shape in the record.
        context: TensorStore's context, with limits on its caches.

    Raises:
        ValueError: dtype or shape differ, or the array cannot be opened.
    """
    part, _, name = array.partition("/")
    base = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{path / part}/"}, "path": name.replace("/", ".") + "/"}
    store = tensorstore.open({"driver": "zarr3", "kvstore": base}, read=True, open=True, context=context).result()
    if f"{store.dtype.name}{list(store.shape)}" != kind:
        raise ValueError(f"it is {store.dtype.name}{list(store.shape)}, not {kind}")
    chunk = _chunk(store.chunk_layout.read_chunk)
    if any(part > max(1, whole) for part, whole in zip(chunk, store.shape, strict=True)):
        raise ValueError("its chunks are larger than itself")
    return store


def _chunk(grid: tensorstore.ChunkLayout.Grid) -> tuple[int, ...]:
    """Return the size of a stored array's chunks along each dimension."""
    return typing.cast("tuple[int, ...]", grid.shape or ())  # only a layout that is not chosen yet has None in it


def _sum(store: tensorstore.TensorStore) -> int:
    """Return the checksum of an array, read block by block."""
    block = _chunk(store.chunk_layout.read_chunk)
    total = 0
    for index in np.ndindex(*(-(-n // b) for n, b in zip(store.shape, block, strict=True))):
        start = tuple(i * b for i, b in zip(index, block, strict=True))
        ends = (min(s + b, n) for s, b, n in zip(start, block, store.shape, strict=True))
        values = store[tuple(slice(s, e) for s, e in zip(start, ends, strict=True))].read().result()
        total += checksum.of_block(np.asarray(values), start)
    return total % 2**32
