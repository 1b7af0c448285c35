"""Sealed record of a checkpoint, and the error for a damaged checkpoint."""

import dataclasses
import hashlib
import json
import logging
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from teleflm_jax import checksum, foreign, invocation
from teleflm_jax.errors import UserError

MARKER = "_CHECKPOINT_METADATA"
"""File that Orbax writes last into a finished checkpoint; it contains our record."""
VERSION = 1
LARGEST = 1 << 26
"""Bytes of the largest record; one of a trillion weights has about 20 kB."""
MOST_DIMENSIONS = 32
"""Most dimensions of an array; TensorStore's limit."""
COMPRESSED = 64
"""Largest ratio of a checkpoint's array sizes to its files' bytes; new checkpoints are not compressed, older ones are."""
_KIND = re.compile(r"\w{1,16}\[(?:[0-9]{1,15}(?:, [0-9]{1,15})*)?\]", re.ASCII)
_NAME = re.compile(r"\w{1,64}(?:/[^\0/]{1,256}){0,32}", re.ASCII)


class Damaged(UserError):
    """Error of a checkpoint that is not as it was written."""

    def __init__(self, path: pathlib.Path, reason: str):
        super().__init__(
            f"got the damaged checkpoint {path} ({reason}); allowed: a whole one; restore it from a copy, or use another step "
            f"({invocation.command('checkpoints')} lists them)"
        )
        self.reason = reason


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """Description of a checkpoint, stored as JSON."""

    counters: Mapping[str, int]
    mixture: Sequence = ()
    """`data.mixture.History` up to the checkpoint."""
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Owner of the arrays: the model's shape, the tokenizer's hash, the packed data."""
    arrays: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Path -> {"is": "dtype[shape]", "checksum": checksum of the values}."""


def read(folder: pathlib.Path, step: int) -> Record:
    """Return a checkpoint's record.

    Raises:
        Damaged: the record is missing or does not match its seal.
        OSError: the file cannot be read.
    """
    path = folder / str(step)
    try:
        sealed = foreign.parse_json(foreign.read(path / MARKER, LARGEST))["custom_metadata"]
        if sealed != seal(sealed["record"]) or not isinstance(sealed["record"], dict):
            raise ValueError("its seal does not fit")
        names = {field.name for field in dataclasses.fields(Record)}
        found = Record(**{name: value for name, value in sealed["record"].items() if name in names})  # older records have further fields
        _refuse_wrong_types(found)
    except FileNotFoundError as error:
        raise Damaged(path, f"{MARKER} is missing") from error
    except (ValueError, KeyError, TypeError, UserError) as error:
        raise Damaged(path, f"{MARKER} is not as it was written") from error
    _refuse_small(path, found)
    return found


def is_history(value: Any) -> bool:
    """Return whether a JSON value is a `data.mixture.History`."""
    return isinstance(value, list | tuple) and all(
        isinstance(phase, list | tuple)
        and len(phase) == 2
        and _is_count(phase[0])
        and isinstance(phase[1], dict)
        and all(type(weight) in (int, float) and 0 <= weight < 1e30 for weight in phase[1].values())
        for phase in value
    )


def _refuse_wrong_types(record: Record) -> None:
    """Raise a ValueError if a field has a wrong type: the seal shows that a record is complete, but not who wrote it."""
    kinds = [isinstance(each, dict) for each in (record.counters, record.identity, record.arrays)]
    if not all(kinds) or not all(map(_is_count, record.counters.values())) or not is_history(record.mixture):
        raise ValueError("counters, mixture, identity or arrays of another type")
    for name, described in record.arrays.items():
        kind, value = (described.get("is"), described.get("checksum")) if isinstance(described, dict) else (None, None)
        if not (_NAME.fullmatch(name) and isinstance(kind, str) and kind.count(",") < MOST_DIMENSIONS and _KIND.fullmatch(kind)):
            raise ValueError("an array of another kind")
        if not (_is_count(value) and value < 2**32):
            raise ValueError("a checksum of another kind")


def _refuse_small(path: pathlib.Path, record: Record) -> None:
    """Compare the array sizes in the record with the checkpoint's files, which must be plain, before memory is allocated for them."""
    held = 0
    for where, folders, files in os.walk(path):
        for entry in folders + files:
            found = pathlib.Path(where, entry)
            if not (found.is_file() or (found.is_dir() and not found.is_symlink())):
                raise Damaged(path, f"{found.relative_to(path)} is no plain file")
            held += found.stat().st_size
    shapes = [described["is"].partition("[")[2] for described in record.arrays.values()]
    said = sum(math.prod(map(int, re.findall("[0-9]+", shape))) for shape in shapes)
    if said > COMPRESSED * held:
        raise Damaged(path, f"its arrays have {said:,} values and its files {held:,} bytes")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record after a round trip through JSON, with its version and hash."""
    plain = json.loads(json.dumps(record))
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return {"version": VERSION, "record": plain, "sha256": digest}


def signature(tree: Any) -> dict[str, str]:
    """Return path -> "dtype[shape]" of every array, or of anything that has both."""
    flat = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: hasattr(node, "shape") and hasattr(node, "dtype"))
    return {checksum.name(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in flat}


def why(error: Exception) -> str:
    """Return the first line of an error; of TensorStore's long lines, the code, the file named last, and the reason."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    text = re.sub(r" \[tensorstore_spec=.*| \[source locations=.*", "", text)
    if inner := re.match(r'([A-Z_]+): .*local file "(?:[^"]*/)?([^"/]+/[^"/]+)/?"(.*)', text):
        text = f"{inner[1]} at {inner[2]}{inner[3]}"
    return text[:160]


def quiet() -> None:
    """Silence Orbax, which logs each of its phases and the errors that it raises, and asyncio, which does so for its coroutines."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
