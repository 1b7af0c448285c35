"""Read the manifest of a packed data set and refuse what does not fit the run.

Partial, foreign and damaged data are never trained on silently.
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
HALVES = ("train", "heldout")
EVERY_FIELD = {
    "tokenizer_sha256": str,
    "sequence_length": int,
    "vocab_size": int,
    **dict.fromkeys(HALVES, {"records": int, "documents": int, "tokens": int, "bytes": int, "shards": list}),
}
"""What a manifest has at least, and of which type."""
EVERY_SHARD = {"name": str, "records": int, "size": int}
READ_THREADS = 16
"""Shards that are checked at one time; on a shared disk each waits for a round trip."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """One ArrayRecord file."""

    path: str
    records: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Training or held-out half of a domain."""

    records: int
    documents: int
    tokens: int
    num_bytes: int
    """UTF-8 bytes of the documents."""
    shards: tuple[Shard, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is known of a packed domain."""

    domain: str
    sequence_length: int
    vocab_size: int
    train: Part
    heldout: Part


def load(
    packed: str,
    domain: str,
    *,
    tokenizer_sha256: str,
    vocab_size: int,
    sequence_length: int | None = None,
    verify: Collection[str] = HALVES,
) -> Manifest:
    """Read PACKED/DOMAIN/manifest.json and hold it against the run.

    Args:
        packed: folder of the packed data sets.
        domain: its name.
        tokenizer_sha256: of the run's tokenizer.
        vocab_size: rows of the model's embedding.
        sequence_length: tokens of one training sequence; None where only held-out documents are read, which have no fixed length.
        verify: the halves whose shards are looked at, every one.

    Raises:
        UserError: not packed, not finished, packed with another tokenizer or length, or files missing or of another size than when they
        were written.
        OSError: the operating system refuses to read a shard.
    """
    folder = os.path.join(packed, domain)
    raw = _read(folder)
    if raw["tokenizer_sha256"] != tokenizer_sha256:
        raise UserError(
            f"got packed data of another tokenizer in {folder} (sha256 {raw['tokenizer_sha256'][:12]}, the run's {tokenizer_sha256[:12]}); "
            "allowed: the same; "
            f"change data.tokenizer, or run `{invocation.command('pack --force')}`"
        )
    if raw["vocab_size"] > vocab_size:
        raise UserError(
            f"got token ids up to {raw['vocab_size'] - 1:,} in {folder} for model.vocab_size={vocab_size:,}; allowed: at least "
            f"{raw['vocab_size']:,}; "
            "change model.vocab_size"
        )
    if sequence_length is not None and raw["sequence_length"] != sequence_length:
        longer = "longer" if sequence_length > raw["sequence_length"] else "shorter"
        raise UserError(
            f"got a context {longer} than the packed records: model.context_length={sequence_length:,}, records of "
            f"{raw['sequence_length']:,} tokens in {folder}; "
            f"allowed: the same; change model.context_length, or run `{invocation.command('pack --force')}`"
        )
    train, heldout = (_part(folder, raw[name], verify=name in verify) for name in HALVES)
    return Manifest(domain=domain, sequence_length=raw["sequence_length"], vocab_size=raw["vocab_size"], train=train, heldout=heldout)


def _read(folder: str) -> dict:
    path = os.path.join(folder, "manifest.json")
    try:
        raw = foreign.parse_json(foreign.read(path, foreign.LARGEST_JSON))
        version, finished = raw["version"], raw["finished"]
        if version == VERSION:
            _refuse_unlike(raw, EVERY_FIELD)
    except OSError as error:
        raise UserError(
            f"got no packed data in {folder} ({error.strerror}: manifest.json); allowed: a finished data set for each domain of "
            "data.proportions; "
            f"run `{invocation.command('pack')}` with the same --gin_file, or change data.packed"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"got a manifest that cannot be read ({path}: {error}); allowed: one made by pack; run `{invocation.command('pack --force')}`"
        ) from error
    if version != VERSION or not finished:
        raise UserError(
            f"got packed data of version {version}, finished: {bool(finished)} in {folder}; allowed: version {VERSION}, finished; "
            f"run `{invocation.command('pack')}` to finish it"
        )
    return raw


def _refuse_unlike(raw: Any, fields: dict) -> None:
    """Raise a KeyError or TypeError where a manifest lacks a field or has one of another type."""
    for name, kind in fields.items():
        value = raw[name]
        if isinstance(kind, dict):
            _refuse_unlike(value, kind)
            for shard in value["shards"]:
                _refuse_unlike(shard, EVERY_SHARD)
        elif type(value) is not kind or (kind is int and not 0 <= value < 2**63):
            raise TypeError(f"{name} is {value!r:.100}")
        elif name == "name" and os.path.basename(value) != value:
            raise TypeError(f"the shard {value!r} lies elsewhere")


def _part(folder: str, raw: dict, *, verify: bool) -> Part:
    shards = tuple(Shard(path=os.path.join(folder, entry["name"]), records=entry["records"]) for entry in raw["shards"])
    if sum(shard.records for shard in shards) != raw["records"]:
        raise _damaged(folder, f"{raw['records']:,} records in all and {sum(shard.records for shard in shards):,} in its shards")
    with concurrent.futures.ThreadPoolExecutor(READ_THREADS) as threads:
        for entry, (size, records) in zip(raw["shards"], threads.map(_measure, shards), strict=True) if verify else ():
            if (size, records) != (entry["size"], entry["records"]):
                raise _damaged(
                    folder,
                    f"{entry['name']} with {entry['records']:,} records in {entry['size']:,} bytes, and it has {records:,} in {size:,}",
                )
    return Part(records=raw["records"], documents=raw["documents"], tokens=raw["tokens"], num_bytes=raw["bytes"], shards=shards)


def _measure(shard: Shard) -> tuple[int, int]:
    """Read a shard's size and, from its last bytes, its number of records; no records if it is not there or is no ArrayRecord.

    Raises:
        OSError: the operating system refuses to open or to read it.
    """
    if not os.path.isfile(shard.path):
        return 0, 0
    try:
        return os.path.getsize(shard.path), source.opened(shard.path).num_records()
    except RuntimeError as error:  # too short, or no ArrayRecord at all
        if system := source.system_error(error, shard.path):
            raise system from error
        return os.path.getsize(shard.path), 0


def _damaged(folder: str, got: str) -> UserError:
    return UserError(
        f"got damaged packed data in {folder}: the manifest lists {got}; allowed: the files that pack wrote; "
        f"restore them, or run `{invocation.command('pack --force')}`"
    )
