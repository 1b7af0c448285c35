"""Texts to tokens to ArrayRecord shards: the work of one worker on one unit."""

import collections
import functools
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from array_record.python import array_record_module
from tokenizers import Tokenizer

from teleflm_jax import atomic_write, invocation
from teleflm_jax.documents.statistics import Statistics
from teleflm_jax.documents.work_units import WorkUnit, read
from teleflm_jax.errors import UserError
from teleflm_jax.packing import heldout, records
from teleflm_jax.tokenizer import load, specials
from teleflm_jax.tokenizer.specials import Specials

BATCH_CHARACTERS = 1 << 20
"""Characters per tokenizer call: enough to keep the Rust side busy, few enough to bound memory (about 100 bytes per token)."""
CHUNK_CHARACTERS = 1 << 18
"""Longer documents are tokenized in chunks, cut before a line feed if there is one: same text, at most one more token per cut."""
WRITER_OPTIONS = "group_size:1,zstd:1"
"""One record per group makes random reads fast; zstd level 1 removes about the bytes that four-byte ids of an 80,000 vocabulary waste."""


def cut(text: str) -> list[str]:
    """Cut a long text into chunks that tokenize in bounded memory; their concatenation is the text."""
    chunks, start = [], 0
    while len(text) - start > CHUNK_CHARACTERS:
        border = text.rfind("\n", start + 1, start + CHUNK_CHARACTERS)
        border = start + CHUNK_CHARACTERS if border < 0 else border
        chunks.append(text[start:border])
        start = border
    return [*chunks, text[start:]]


def stream(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Yield the tokens of `<s>` text `</s>` for every text in order, in arrays of any length."""
    wrap = specials.of(tokenizer)
    first, last = np.array([wrap.bos], np.uint32), np.array([wrap.eos], np.uint32)
    chunks = ((chunk, i == 0, i == len(parts) - 1) for parts in map(cut, texts) for i, chunk in enumerate(parts))
    for batch in _batches(chunks):
        for ids, (_, begins, ends) in zip(encode(tokenizer, [chunk for chunk, _, _ in batch]), batch, strict=True):
            yield np.concatenate([first] * begins + [ids] + [last] * ends)


def encode(tokenizer: Tokenizer, texts: list[str]) -> Iterator[np.ndarray]:
    """Tokenize texts; raise if a text yields a special id, because special ids mark document boundaries."""
    forbidden = np.array(sorted(specials.controls(tokenizer)), np.uint32)
    for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
        ids = np.array(encoding.ids, np.uint32)
        found = ids[np.isin(ids, forbidden)]
        if found.size:
            raise UserError(
                f"got a tokenizer that encodes text as the special id {found[0]}; allowed: one made by "
                f"`{invocation.command('tokenizer train')}`, or one with a token for every byte; change data.tokenizer"
            )
        yield ids


def cut_records(tokens: Iterable[np.ndarray], sequence_length: int, wrap: Specials) -> Iterator[records.TrainingRecord]:
    """Cut a token stream into records of `sequence_length` + 1 tokens that overlap by one.

    The last record is padded, so that no token is lost; no document begins in padding.
    """
    left = np.empty(0, np.uint32)
    for chunk in _joined(tokens, 64 * sequence_length):
        whole = np.concatenate([left, chunk])
        count = (whole.size - 1) // sequence_length
        for i in range(count):
            yield _record(whole[i * sequence_length : (i + 1) * sequence_length + 1], sequence_length, wrap)
        left = whole[count * sequence_length :]
    if left.size > 1:
        yield _record(left, sequence_length, wrap)


def write_shard(path: str, rows: Iterable[bytes]) -> dict:
    """Write a shard atomically.

    Returns:
        The shard's entry in the manifest: name, records, and size in bytes. Without rows: 0 records and no file.
    """
    rows, count = iter(rows), 0
    if (first := next(rows, None)) is None:
        return {"name": os.path.basename(path), "records": 0, "size": 0}
    with atomic_write.replacing(path) as temporary:
        writer = array_record_module.ArrayRecordWriter(str(temporary), WRITER_OPTIONS)
        for row in itertools.chain([first], rows):
            _or_os_error(writer.write, row)
            count += 1
        _or_os_error(writer.close)
    return {"name": os.path.basename(path), "records": count, "size": os.path.getsize(path)}


def _or_os_error(write: Callable[..., None], *arguments: object) -> None:
    """Call the writer, which raises RuntimeError for every failure, including a full disk."""
    try:
        write(*arguments)
    except RuntimeError as error:
        raise OSError(str(error)) from error


def write_json(path: str, value: object) -> None:
    """Write a JSON file atomically."""
    atomic_write.write(path, json.dumps(value, indent=1).encode("ascii"))


def read_json(path: str) -> dict:
    """Read a file written by `write_json`.

    Raises:
        UserError: The file is damaged.
    """
    try:
        with open(path, encoding="ascii") as file:
            value = json.load(file)
    except ValueError as error:
        raise UserError(f"got {path}, which is not JSON ({error}); allowed: files written by pack; run pack with --force") from error
    if not isinstance(value, dict):
        raise UserError(f"got {path}, which is not a JSON object; allowed: files written by pack; run pack with --force")
    return value


def pack_unit(unit: WorkUnit, number: int, *, folder: str, tokenizer: str, sequence_length: int, seed: int) -> None:
    """Pack one unit into `folder`/train-NUMBER.array_record, and write its counts to `folder`/state/unit-NUMBER.json."""
    keys, watched = _heldout(os.path.join(folder, "state", "heldout.json"))
    progress = np.memmap(os.path.join(folder, "state", "progress"), np.int64, "r+")
    counts: collections.Counter = collections.Counter(documents=0, tokens=0, bytes=0)
    seen: set[str] = set()

    def texts() -> Iterator[str]:
        for document in read(unit, Statistics()):
            if heldout.family_key(document.family, seed) in keys:
                continue
            counts["documents"] += 1
            counts["bytes"] += len(document.text.encode())
            progress[number] = counts["bytes"]
            seen.update(heldout.find_watched_lines(document.text, watched))
            yield document.text

    def counted(tokens: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for array in tokens:
            counts["tokens"] += array.size
            yield array

    loaded = _tokenizer(tokenizer)
    tokens = counted(stream(loaded, texts()))
    shard = write_shard(
        os.path.join(folder, f"train-{number:06d}.array_record"),
        (records.encode(record) for record in cut_records(tokens, sequence_length, specials.of(loaded))),
    )
    order = {line: i for i, line in enumerate(sorted(watched))} if seen else {}
    write_json(
        os.path.join(folder, "state", f"unit-{number:06d}.json"),
        {"shard": shard, "counts": dict(counts), "seen": sorted(order[line] for line in seen)},
    )


def watched_lines(texts: Iterable[str]) -> frozenset[str]:
    """Return the identifying lines of all held-out texts; unit files refer to them by their index in sorted order."""
    return frozenset().union(*map(heldout.identifying_lines, texts))


@functools.cache
def _tokenizer(path: str) -> Tokenizer:
    return load.load(path)


@functools.cache
def _heldout(path: str) -> tuple[frozenset[int], frozenset[str]]:
    held = read_json(path)
    return frozenset(map(int, held["families"])), watched_lines(held["texts"])


def _record(tokens: np.ndarray, sequence_length: int, wrap: Specials) -> records.TrainingRecord:
    padded = np.pad(tokens, (0, sequence_length + 1 - tokens.size), constant_values=wrap.pad)
    return records.TrainingRecord(tokens=padded, starts=np.flatnonzero(tokens == wrap.bos).astype(np.int32))


def _batches(chunks: Iterable[tuple[str, bool, bool]]) -> Iterator[list[tuple[str, bool, bool]]]:
    batch, size = [], 0
    for chunk in chunks:
        batch.append(chunk)
        size += len(chunk[0])
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _joined(arrays: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Concatenate arrays to at least `size` elements, so that short documents do not copy the remainder each time."""
    pending: list[np.ndarray] = []
    held = 0
    for array in arrays:
        pending.append(array)
        held += array.size
        if held >= size:
            yield np.concatenate(pending)
            pending, held = [], 0
    if pending:
        yield np.concatenate(pending)
