"""Import of a folder in safetensors as arrays on a mesh: every device reads only its own part of the files.

Names, shapes and dtypes in the files are compared with the configuration before any weight is read.
"""

import collections
import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from teleflm_jax.errors import UserError
from teleflm_jax.huggingface import config, names, tensors
from teleflm_jax.huggingface.config import Description

LISTED = 10
"""Largest number of differences that an error names."""
WITHOUT_WEIGHTS = ".rotary_emb.inv_freq"
"""Suffix of buffers in older files, which follow from the configuration."""
PREFIX = "transformer."


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A model's folder whose configuration and tensors agree."""

    description: Description
    tensors: Mapping[str, tensors.Tensor]
    """Tensors by their names in the table."""
    notes: tuple[str, ...]
    """Remarks for the user, one per line."""


def read(folder: pathlib.Path) -> ModelFolder:
    """Check a folder's configuration and tensors.

    Raises:
        UserError: the configuration describes a model that we do not implement, or the tensors do not match it: missing, surplus, of
            another shape, or of a dtype that weights cannot have.
    """
    described = config.read(folder)
    found = {
        name.removeprefix(PREFIX): tensor for name, tensor in tensors.read_folder(folder).items() if not name.endswith(WITHOUT_WEIGHTS)
    }
    described, notes = _untied(described, found)
    _refuse_unlike(folder, described, found)
    described, more = _computing(folder, described, found)
    return ModelFolder(description=described, tensors=found, notes=described.notes + notes + more)


def arrays(source: ModelFolder, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Load the weights.

    Args:
        source: from `read`.
        shapes: nested dictionaries of `jax.ShapeDtypeStruct` with shardings, with the names of a checkpoint's model.

    Returns:
        The same dictionaries of float32 arrays.
    """
    rows, size = {row.ours: row for row in source.description.rows}, names.sizes(source.description.model)

    def one(path, like):
        row = rows["/".join(str(key.key) for key in path)]

        def part(index):
            if not row.stacked:
                return np.ascontiguousarray(names.to_ours(source.tensors[row.theirs].array(), row, size)[index], np.float32)
            spans = [range(*one.indices(count)) for one, count in zip(index, like.shape, strict=True)]
            stacked = np.empty([len(span) for span in spans], np.float32)
            for place, layer in zip(stacked, spans[0], strict=True):  # one at a time: a tensor that is mapped holds a file open
                place[...] = names.to_ours(source.tensors[row.name(layer)].array(), row, size)[index[1:]]
            return stacked

        return jax.make_array_from_callback(like.shape, like.sharding, part)

    return jax.tree_util.tree_map_with_path(one, dict(shapes))


def _untied(described: Description, found: Mapping[str, tensors.Tensor]) -> tuple[Description, tuple[str, ...]]:
    """Read the head from the embedding where the two are tied; here they are two weights from then on."""
    tied = names.HEAD not in found if described.tied is None else described.tied
    if not tied:
        return described, ()
    embedding = next(row for row in described.rows if row.ours == "embedding")
    rows = tuple(dataclasses.replace(row, theirs=embedding.theirs) if row.ours == "head" else row for row in described.rows)
    return dataclasses.replace(described, rows=rows), ("its head is its embedding (tied); here they are two weights, equal at first",)


def _computing(folder: pathlib.Path, described: Description, found: Mapping[str, tensors.Tensor]) -> tuple[Description, tuple[str, ...]]:
    """Set the compute dtype: the configuration's, else the dtype of most stored weights."""
    sizes: collections.Counter[str] = collections.Counter()
    for tensor in found.values():
        sizes[tensors.DTYPES[tensor.dtype].name] += math.prod(tensor.shape)
    stored, named = sizes.most_common(1)[0][0], described.model.compute_dtype
    if not described.names_dtype:
        model = dataclasses.replace(described.model, compute_dtype=stored)
        note = f"{folder / config.FILE} names no dtype; the model computes in {stored}, in which most of its weights are stored"
        return dataclasses.replace(described, model=model), (note,)
    if stored != named:
        return described, (f"the model computes in {named}, as {folder / config.FILE} says; most of its weights are stored in {stored}",)
    return described, ()


def _refuse_unlike(folder: pathlib.Path, described: Description, found: Mapping[str, tensors.Tensor]) -> None:
    size, wanted = names.sizes(described.model), {}
    for row, layer in names.in_order(described.rows, described.model.num_layers):
        wanted[row.name(layer)] = names.shape(row, size)
    unread = {names.HEAD} if names.HEAD not in wanted else set()
    wrong = [f"{name} is missing" for name in wanted if name not in found]
    wrong += [f"{name} is no weight of this model" for name in sorted(found.keys() - wanted.keys() - unread)]
    for name in wanted.keys() & found.keys():
        tensor = found[name]
        if tensor.shape != wanted[name]:
            wrong.append(f"{name} is {list(tensor.shape)} and not {list(wanted[name])}")
        elif tensor.dtype not in tensors.DTYPES:
            wrong.append(f"{name} is {tensor.dtype} and not {', '.join(tensors.DTYPES)}")
    if wrong:
        more = f" and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
        raise UserError(
            f"got {folder}, whose tensors are not those of its {config.FILE}: {'; '.join(wrong[:LISTED])}{more}; allowed: exactly the "
            "weights of the model that it describes; fetch it again or correct it"
        )
