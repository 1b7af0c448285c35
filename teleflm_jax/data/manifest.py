"""Manifest of a packed data set, checked against the run.

Unfinished, mismatched and damaged data are refused, never trained on silently.
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Collection
from typing import Any

from teleflm_jax import foreign, invocation
from teleflm_jax.data import source
from teleflm_jax.errors import UserError

VERSION = 1
SPLITS = ("train", "heldout")
REQUIRED_FIELDS = {
    "tokenizer_sha256": str,
    "sequence_length": int,
    "vocab_size": int,
    **dict.fromkeys(SPLITS, {"records": int, "documents": int, "tokens": int, "bytes": int, "shards": list}),
}
"""Required fields of a manifest and their types."""
SHARD_FIELDS = {"name": str, "records": int, "size": int}
READ_THREADS = 16
"""Shards that are verified concurrently; on a shared disk each waits for a round trip."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """An ArrayRecord file."""

    path: str
    records: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """The training or held-out split of a domain."""

    records: int
    documents: int
    tokens: int
    num_bytes: int
    """UTF-8 bytes of the documents."""
    shards: tuple[Shard, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents of a packed domain."""

    domain: str
    sequence_length: int
    vocab_size: int
    train: Split
    heldout: Split


def load(
    packed: str,
    domain: str,
    *,
    tokenizer_sha256: str,
    vocab_size: int,
    sequence_length: int | None = None,
    verify: Collection[str] = SPLITS,
) -> Manifest:
    """Read PACKED/DOMAIN/manifest.json and check it against the run.

    Args:
        packed: Folder of the packed data sets.
        domain: Name of the domain.
        tokenizer_sha256: Hash of the run's tokenizer.
        vocab_size: Rows of the model's embedding.
        sequence_length: Tokens of one training sequence; None if only held-out documents are read, which have no fixed length.
        verify: Splits whose shards are all checked.

    Raises:
        UserError: The data are not packed or not finished, were packed with another tokenizer or length, or have files that are missing
            or differ in size from the manifest.
        OSError: The operating system refuses to read a shard.
    """
    folder = os.path.join(packed, domain)
    raw = _read(folder)
    if raw["tokenizer_sha256"] != tokenizer_sha256:
        raise UserError(
            f"got packed data of another tokenizer in {folder} (sha256 {raw['tokenizer_sha256'][:12]}, the run's {tokenizer_sha256[:12]}); "
            f"allowed: the same tokenizer; change data.tokenizer, or run `{invocation.command('pack --force')}`"
        )
    if raw["vocab_size"] > vocab_size:
        raise UserError(
            f"got token ids up to {raw['vocab_size'] - 1:,} in {folder} for model.vocab_size={vocab_size:,}; allowed: at least "
            f"{raw['vocab_size']:,}; change model.vocab_size"
        )
    if sequence_length is not None and raw["sequence_length"] != sequence_length:
        longer = "longer" if sequence_length > raw["sequence_length"] else "shorter"
        raise UserError(
            f"got a context {longer} than the packed records: model.context_length={sequence_length:,}, records of "
            f"{raw['sequence_length']:,} tokens in {folder}; "
            f"allowed: the same length; change model.context_length, or run `{invocation.command('pack --force')}`"
        )
    train, heldout = (_split(folder, raw[name], verify=name in verify) for name in SPLITS)
    return Manifest(domain=domain, sequence_length=raw["sequence_length"], vocab_size=raw["vocab_size"], train=train, heldout=heldout)


def _read(folder: str) -> dict:
    path = os.path.join(folder, "manifest.json")
    try:
        raw = foreign.parse_json(foreign.read(path, foreign.LARGEST_JSON))
        version, finished = raw["version"], raw["finished"]
        if version == VERSION:
            _check_fields(raw, REQUIRED_FIELDS)
    except OSError as error:
        raise UserError(
            f"got no packed data in {folder} ({error.strerror}: manifest.json); allowed: a finished data set for each domain of "
            f"data.proportions; run `{invocation.command('pack')}` with the same --gin_file, or change data.packed"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"got a manifest that cannot be read ({path}: {error}); allowed: one written by pack; run "
            f"`{invocation.command('pack --force')}`"
        ) from error
    if version != VERSION or not finished:
        raise UserError(
            f"got packed data of version {version}, finished: {bool(finished)} in {folder}; allowed: version {VERSION}, finished; "
            f"run `{invocation.command('pack')}` to finish it"
        )
    return raw


def _check_fields(raw: Any, fields: dict) -> None:
    """Raise a KeyError or TypeError if the manifest lacks a field or has one of another type."""
    for name, kind in fields.items():
        value = raw[name]
        if isinstance(kind, dict):
            _check_fields(value, kind)
            for shard in value["shards"]:
                _check_fields(shard, SHARD_FIELDS)
        elif type(value) is not kind or (kind is int and not 0 <= value < 2**63):
            raise TypeError(f"{name} is {value!r:.100}")
        elif name == "name" and os.path.basename(value) != value:
            raise TypeError(f"the shard {value!r} is in another folder")


def _split(folder: str, raw: dict, *, verify: bool) -> Split:
    shards = tuple(Shard(path=os.path.join(folder, entry["name"]), records=entry["records"]) for entry in raw["shards"])
    if sum(shard.records for shard in shards) != raw["records"]:
        raise _damaged(folder, f"{raw['records']:,} records in total and {sum(shard.records for shard in shards):,} in its shards")
    with concurrent.futures.ThreadPoolExecutor(READ_THREADS) as threads:
        for entry, (size, records) in zip(raw["shards"], threads.map(_measure, shards), strict=True) if verify else ():
            if (size, records) != (entry["size"], entry["records"]):
                raise _damaged(
                    folder,
                    f"{entry['name']} with {entry['records']:,} records in {entry['size']:,} bytes, but it has {records:,} in {size:,}",
                )
    return Split(records=raw["records"], documents=raw["documents"], tokens=raw["tokens"], num_bytes=raw["bytes"], shards=shards)


def _measure(shard: Shard) -> tuple[int, int]:
    """Return a shard's size and, read from its last bytes, its number of records; 0 if it is missing or not an ArrayRecord.

    Raises:
        OSError: The operating system refuses to open or read it.
    """
    if not os.path.isfile(shard.path):
        return 0, 0
    try:
        return os.path.getsize(shard.path), source.open_reader(shard.path).num_records()
    except RuntimeError as error:  # the file is too short or not an ArrayRecord
        if system := source.system_error(error, shard.path):
            raise system from error
        return os.path.getsize(shard.path), 0


def _damaged(folder: str, got: str) -> UserError:
    return UserError(
        f"got damaged packed data in {folder}: the manifest lists {got}; allowed: the files as written by pack; "
        f"restore them, or run `{invocation.command('pack --force')}`"
    )
