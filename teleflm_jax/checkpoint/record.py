"""What a checkpoint says of itself, under a seal, and what it means that it does not hold."""

import dataclasses
import hashlib
import json
import logging
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from teleflm_jax import checksum
from teleflm_jax.errors import UserError

MARKER = "_CHECKPOINT_METADATA"
"""What Orbax writes last into a finished checkpoint; our record lies in it."""
VERSION = 1


class Damaged(UserError):
    """A checkpoint that its disk has not kept as it was written."""

    def __init__(self, path: pathlib.Path, reason: str):
        super().__init__(
            f"got the damaged checkpoint {path} ({reason}); allowed: a whole one; restore it from a copy, or use another step "
            "(python -m teleflm_jax checkpoints lists them)"
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
        text = (path / MARKER).read_text(encoding="utf-8")
        sealed = json.loads(text)["custom_metadata"]
        if sealed != seal(sealed["record"]) or not isinstance(sealed["record"], dict):
            raise ValueError("its seal does not fit")
        names = {field.name for field in dataclasses.fields(Record)}
        return Record(**{name: value for name, value in sealed["record"].items() if name in names})  # older ones have a figure as well
    except FileNotFoundError as error:
        raise Damaged(path, f"{MARKER} is missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(path, f"{MARKER} is not as it was written") from error


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
