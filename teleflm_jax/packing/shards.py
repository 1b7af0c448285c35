"""Texts to tokens to ArrayRecord shards: what one worker does with one unit. Knows files of one unit only."""

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
from teleflm_jax.documents.statistics import Tally
from teleflm_jax.documents.work_units import Unit, read
from teleflm_jax.errors import UserError
from teleflm_jax.packing import heldout, records
from teleflm_jax.tokenizer import load, specials
from teleflm_jax.tokenizer.specials import Specials

BATCH_CHARACTERS = 1 << 20
"""Tokenized at one time: enough to keep the Rust side busy, little enough to bound memory (about 100 bytes per token)."""
PIECE_CHARACTERS = 1 << 18
"""Longer documents are tokenized in pieces, cut before a line feed where there is one: same text, at most a token more per cut."""
WRITER_OPTIONS = "group_size:1,zstd:1"
"""One record per group is what makes random reads fast; level 1 takes about the bytes that ids of 80,000 pieces waste in four."""


def cut(text: str) -> list[str]:
    """Cut a long text into pieces that tokenize in bounded memory; joined they are the text."""
    pieces, start = [], 0
    while len(text) - start > PIECE_CHARACTERS:
        border = text.rfind("\n", start + 1, start + PIECE_CHARACTERS)
        border = start + PIECE_CHARACTERS if border < 0 else border
        pieces.append(text[start:border])
        start = border
    return [*pieces, text[start:]]


def stream(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Yield the tokens of `<s>` text `</s>` of every text in order, in arrays of any length."""
    wrap = specials.of(tokenizer)
    first, last = np.array([wrap.bos], np.uint32), np.array([wrap.eos], np.uint32)
    pieces = ((piece, i == 0, i == len(parts) - 1) for parts in map(cut, texts) for i, piece in enumerate(parts))
    for batch in _batches(pieces):
        for ids, (_, begins, ends) in zip(encode(tokenizer, [piece for piece, _, _ in batch]), batch, strict=True):
            yield np.concatenate([first] * begins + [ids] + [last] * ends)


def encode(tokenizer: Tokenizer, texts: list[str]) -> Iterator[np.ndarray]:
    """Tokenize texts, none of which may yield a special id: borders of documents are found by them."""
    forbidden = np.array(sorted(specials.controls(tokenizer)), np.uint32)
    for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
        ids = np.array(encoding.ids, np.uint32)
        found = ids[np.isin(ids, forbidden)]
        if found.size:
            raise UserError(
                f"got a tokenizer that turns text into the special id {found[0]}; allowed: one made by "
                f"`{invocation.command('tokenizer train')}`, or one that has a piece for every byte; change data.tokenizer"
            )
        yield ids


def cut_records(tokens: Iterable[np.ndarray], sequence_length: int, wrap: Specials) -> Iterator[records.Record]:
    """Cut a token stream into records of `sequence_length` + 1 that overlap by one.

    The last is filled up with padding, in which no document begins, so that nothing is lost.
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
    """Write a shard whole or not at all.

    Returns:
        The shard's entry in the manifest: name, records, and size in bytes; records 0 and no file if there are no rows.
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


def _or_os_error(write: Callable, *arguments: object) -> None:
    """Call the writer, whose every failure is a RuntimeError, a full disk too."""
    try:
        write(*arguments)
    except RuntimeError as error:
        raise OSError(str(error)) from error


def write_json(path: str, value: object) -> None:
    """Write a file that is whole or not there."""
    atomic_write.write(path, json.dumps(value, indent=1).encode("ascii"))


def read_json(path: str) -> dict:
    """Read what `write_json` wrote.

    Raises:
        UserError: it is damaged.
    """
    try:
        with open(path, encoding="ascii") as file:
            value = json.load(file)
    except ValueError as error:
        raise UserError(f"got {path}, which is no JSON ({error}); allowed: what pack wrote; run pack with --force") from error
    if not isinstance(value, dict):
        raise UserError(f"got {path}, which holds no JSON object; allowed: what pack wrote; run pack with --force")
    return value


def pack_unit(unit: Unit, number: int, *, folder: str, tokenizer: str, sequence_length: int, seed: int) -> None:
    """Pack one unit into `folder`/train-NUMBER.array_record, its counts into `folder`/state/unit-NUMBER.json."""
    keys, watched = _heldout(os.path.join(folder, "state", "heldout.json"))
    progress = np.memmap(os.path.join(folder, "state", "progress"), np.int64, "r+")
    counts: collections.Counter = collections.Counter(documents=0, tokens=0, bytes=0)
    seen: set[str] = set()

    def texts() -> Iterator[str]:
        for document in read(unit, Tally()):
            if heldout.family_key(document.family, seed) in keys:
                continue
            counts["documents"] += 1
            counts["bytes"] += len(document.text.encode())
            progress[number] = counts["bytes"]
            seen.update(heldout.recognise(document.text, watched))
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
    order = {mark: i for i, mark in enumerate(sorted(watched))} if seen else {}
    write_json(
        os.path.join(folder, "state", f"unit-{number:06d}.json"),
        {"shard": shard, "counts": dict(counts), "seen": sorted(order[mark] for mark in seen)},
    )


def watched_marks(texts: Iterable[str]) -> frozenset[str]:
    """Join the marks of all held-out texts; unit files name them by their place in sorted order."""
    return frozenset().union(*map(heldout.marks, texts))


@functools.cache
def _tokenizer(path: str) -> Tokenizer:
    return load.load(path)


@functools.cache
def _heldout(path: str) -> tuple[frozenset[int], frozenset[str]]:
    held = read_json(path)
    return frozenset(map(int, held["families"])), watched_marks(held["texts"])


def _record(tokens: np.ndarray, sequence_length: int, wrap: Specials) -> records.Record:
    padded = np.pad(tokens, (0, sequence_length + 1 - tokens.size), constant_values=wrap.pad)
    return records.Record(tokens=padded, starts=np.flatnonzero(tokens == wrap.bos).astype(np.int32))


def _batches(pieces: Iterable[tuple[str, bool, bool]]) -> Iterator[list[tuple[str, bool, bool]]]:
    batch, size = [], 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[0])
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _joined(arrays: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Join arrays to pieces of at least `size`, so that short documents do not copy the remainder each time."""
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
