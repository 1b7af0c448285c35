"""What a checkpoint says of itself, under a seal, and what it means that it does not hold."""

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
"""What Orbax writes last into a finished checkpoint; our record lies in it."""
VERSION = 1
LARGEST = 1 << 26
"""Bytes of a record; one of a trillion weights has some 20 kB."""
MOST_DIMENSIONS = 32
"""Dimensions of an array; TensorStore's own limit."""
COMPRESSED = 64
"""Times its files' bytes that a checkpoint's arrays may have; those that are saved now are not compressed, older ones are."""
_KIND = re.compile(r"\w{1,16}\[(?:[0-9]{1,15}(?:, [0-9]{1,15})*)?\]", re.ASCII)
_NAME = re.compile(r"\w{1,64}(?:/[^\0/]{1,256}){0,32}", re.ASCII)


class Damaged(UserError):
    """A checkpoint that its disk has not kept as it was written."""

    def __init__(self, path: pathlib.Path, reason: str):
        super().__init__(
            f"got the damaged checkpoint {path} ({reason}); allowed: a whole one; restore it from a copy, or use another step "
            f"({invocation.command('checkpoints')} lists them)"
        )
        self.reason = reason


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """What a checkpoint says of itself; JSON."""

    counters: Mapping[str, int]
    mixture: Sequence = ()
    """`data.mixture.History` up to here."""
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the arrays belong to: the model's shape, the tokenizer's hash, the packed data."""
    arrays: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Path -> {"is": "dtype[shape]", "checksum": of the values}."""


def read(folder: pathlib.Path, step: int) -> Record:
    """A checkpoint's record.

    Raises:
        Damaged: it is missing or not as it was sealed.
        OSError: it may not be read.
    """
    path = folder / str(step)
    try:
        sealed = foreign.parse_json(foreign.read(path / MARKER, LARGEST))["custom_metadata"]
        if sealed != seal(sealed["record"]) or not isinstance(sealed["record"], dict):
            raise ValueError("its seal does not fit")
        names = {field.name for field in dataclasses.fields(Record)}
        found = Record(**{name: value for name, value in sealed["record"].items() if name in names})  # older ones have a figure as well
        _refuse_wrong_types(found)
    except FileNotFoundError as error:
        raise Damaged(path, f"{MARKER} is missing") from error
    except (ValueError, KeyError, TypeError, UserError) as error:
        raise Damaged(path, f"{MARKER} is not as it was written") from error
    _refuse_small(path, found)
    return found


def is_history(value: Any) -> bool:
    """Tell if a JSON value is a `data.mixture.History`."""
    return isinstance(value, list | tuple) and all(
        isinstance(phase, list | tuple)
        and len(phase) == 2
        and _is_count(phase[0])
        and isinstance(phase[1], dict)
        and all(type(weight) in (int, float) and 0 <= weight < 1e30 for weight in phase[1].values())
        for phase in value
    )


def _refuse_wrong_types(record: Record) -> None:
    """Raise a ValueError: a seal says that a record is whole, and not who wrote it."""
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
    """Hold a checkpoint's arrays, as its record has them, against its files, all plain, before memory is taken for them."""
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
    """The record as JSON gives it back, with its version and hash."""
    plain = json.loads(json.dumps(record))
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return {"version": VERSION, "record": plain, "sha256": digest}


def signature(tree: Any) -> dict[str, str]:
    """Path -> "dtype[shape]" of every array, or whatever has both."""
    flat = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: hasattr(node, "shape") and hasattr(node, "dtype"))
    return {checksum.name(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in flat}


def why(error: Exception) -> str:
    """The first line; of TensorStore's long ones its code, the file that it speaks of last, and what it says of that."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    text = re.sub(r" \[tensorstore_spec=.*| \[source locations=.*", "", text)
    if inner := re.match(r'([A-Z_]+): .*local file "(?:[^"]*/)?([^"/]+/[^"/]+)/?"(.*)', text):
        text = f"{inner[1]} at {inner[2]}{inner[3]}"
    return text[:160]


def quiet() -> None:
    """Orbax logs each of its phases, and errors that it raises as well; so does asyncio for its coroutines."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
