"""The safetensors format: a reader that validates every field, and a writer that holds one block at a time.

A file is 8 bytes of length (little-endian), a JSON header of that length, then the tensors' bytes without gaps; it holds no code. The
reader memory-maps files. Source: the format's own description, github.com/huggingface/safetensors.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from teleflm_jax import atomic_write, foreign
from teleflm_jax.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LARGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""
MOST_DIMENSIONS = 64
"""Dimensions of a tensor; NumPy's own limit."""
ALIGNMENT = 8
"""Headers are padded with spaces to a multiple of this, so that tensors are aligned in a mapped file."""
BLOCK_BYTES = 16 << 20
"""Bytes written at one time."""
DTYPES = {"F32": np.dtype("float32"), "BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype("float16")}
"""The format's name of a dtype -> dtype; weights are stored in one of these."""
_ITEM_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32}
_ITEM_BITS |= {"F64": 64, "I64": 64, "U64": 64, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "C64": 64}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """Location of a tensor in a file."""

    path: pathlib.Path
    dtype: str
    """The format's name of the dtype."""
    shape: tuple[int, ...]
    start: int
    """Offset in the file, bytes."""

    def array(self) -> np.ndarray:
        """Return the tensor, memory-mapped read-only, in a dtype of DTYPES."""
        dtype = DTYPES[self.dtype]
        count = math.prod(self.shape)
        if not count:
            return np.empty(self.shape, dtype)
        mapped = np.memmap(self.path, np.uint8, "r", offset=self.start, shape=(count * dtype.itemsize,))
        return mapped.view(dtype).reshape(self.shape)


def read_folder(folder: pathlib.Path) -> dict[str, Tensor]:
    """Return all tensors of a model's folder by name, from one file or from the files of its index.

    Raises:
        UserError: the folder has no safetensors, a file lies outside of the folder, or a file contradicts the format or the index.
    """
    if os.path.lexists(folder / INDEX):
        return _indexed(folder)
    if os.path.lexists(folder / SINGLE):
        return read_header(foreign.inside(folder, SINGLE))
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt"))
    if pickles:
        raise UserError(
            f"got {folder} with {pickles[0]} and no {SINGLE}; allowed: safetensors, because reading a pickle runs the code in it; "
            "convert it on a machine that may run it: load it with transformers and call save_pretrained"
        )
    raise UserError(f"got {folder} without {SINGLE} or {INDEX}; allowed: the folder of a model in safetensors; change the folder")


def _indexed(folder: pathlib.Path) -> dict[str, Tensor]:
    place = foreign.inside(folder, INDEX)
    index = _json(place, foreign.read(place, LARGEST_HEADER))
    named = index.get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
        raise _wrong(place, "it has no weight_map from names to files")
    found: dict[str, Tensor] = {}
    for file in sorted(set(named.values())):
        for name, tensor in read_header(foreign.inside(folder, file)).items():
            if named.get(name) != file:
                raise _wrong(place, f"{file} holds {name!r}, for which it names {named.get(name, 'no file')!r}")
            found[name] = tensor
    if missing := sorted(named.keys() - found.keys()):
        raise _wrong(place, f"{named[missing[0]]} does not hold {missing[0]!r}")
    return found


def read_header(path: pathlib.Path) -> dict[str, Tensor]:
    """Return the tensors of one file by name.

    Raises:
        UserError: the file is not in the format, or its tensors overlap, leave a gap, or do not fill the file.
    """
    with foreign.open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise _wrong(path, f"a header of {length} bytes in a file of {size}")
        header = _json(path, file.read(length))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _wrong(path, "its metadata are not texts")
    spans = {name: _span(path, name, entry) for name, entry in header.items()}
    end = 0
    for name, (start, stop) in sorted(spans.items(), key=lambda item: item[1]):
        if start != end:
            raise _wrong(path, f"{name!r} begins at byte {start} of the data, where {end} is free")
        end = stop
    if end != size - 8 - length:
        raise _wrong(path, f"its tensors have {end} bytes and the file {size - 8 - length}")
    return {
        name: Tensor(path=path, dtype=entry["dtype"], shape=tuple(entry["shape"]), start=8 + length + spans[name][0])
        for name, entry in header.items()
    }


def _span(path: pathlib.Path, name: str, entry: Any) -> tuple[int, int]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"} or entry["dtype"] not in list(_ITEM_BITS):
        raise _wrong(path, f"{name!r} has no dtype, shape and data_offsets that are known")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not (_are_counts(shape) and len(shape) <= MOST_DIMENSIONS and _are_counts(offsets) and len(offsets) == 2):
        raise _wrong(path, f"{name!r} has a shape or offsets that are no counts")
    start, stop = offsets
    if stop - start != math.prod(shape) * _ITEM_BITS[entry["dtype"]] // 8:
        raise _wrong(path, f"{name!r} of shape {shape} and dtype {entry['dtype']} has {stop - start} bytes")
    return start, stop


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _json(path: pathlib.Path, content: bytes) -> dict:
    try:
        found = foreign.parse_json(content)
    except ValueError as error:
        raise _wrong(path, f"its JSON cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise _wrong(path, "its JSON is no object")
    return found


def _wrong(path: pathlib.Path, reason: str) -> UserError:
    return UserError(f"got {path}, which does not follow its format ({reason[:300]}); allowed: whole safetensors; fetch the file again")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor to write."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of its values in bytes."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def write(path: pathlib.Path, tensors: Sequence[Entry], values: Iterable[Iterable[np.ndarray]]) -> None:
    """Write a file tensor by tensor and block by block; `path` appears only when the file is complete.

    Args:
        path: of the file.
        tensors: in the order of the file.
        values: the blocks of each tensor, in order.
    """
    atomic_write.remove_leftovers(path)
    with atomic_write.replacing(path) as temporary, temporary.open("wb") as file:
        file.write(header(tensors))
        for entry, blocks in zip(tensors, values, strict=True):
            begin = file.tell()
            for block in blocks:
                file.write(block.view(np.uint8).data)
            assert file.tell() - begin == entry.num_bytes, entry


def header(tensors: Sequence[Entry]) -> bytes:
    """Return the first bytes of a file: length and JSON header."""
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # without it transformers refuses the file
    offset = 0
    for entry in tensors:
        stop = offset + entry.num_bytes
        described[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def blocks(array: np.ndarray, dtype: str, factor: float) -> Iterator[np.ndarray]:
    """Yield a float32 array times a factor in another dtype, some rows at a time; rounds to nearest once."""
    rows = max(1, BLOCK_BYTES // max(1, array[:1].nbytes)) if array.ndim > 1 else max(1, array.size)
    for start in range(0, len(array), rows):
        block = array[start : start + rows]
        block = block * np.float32(factor) if factor != 1 else block
        yield np.ascontiguousarray(block.astype(DTYPES[dtype]))
