"""Benchmarks' test items in training text: found by n-grams, and dropped or cut out. Source: report, section 2, "strict n-gram-based".

An item is any text in the user's benchmark files. It gives all its runs of `words` tokens, or of `characters` where most of them are
characters of a script without spaces; an item that is shorter is looked for as a whole, down to `shortest`. Neither case nor spaces nor
punctuation nor full-width forms count, nor in which of its two scripts Chinese is written.

The rule is strict: one n-gram is enough. So an item that quotes a licence takes every document with that licence along; `ignored` names
texts whose n-grams are nobody's, and `common` finds what should stand there.
"""

import collections
import csv
import dataclasses
import functools
import io
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from teleflm_jax.corpus import rows, tokens
from teleflm_jax.corpus.config import DecontaminateConfig
from teleflm_jax.corpus.filters import clean
from teleflm_jax.documents import files, json_rows, parquet, streams, work_units
from teleflm_jax.documents.statistics import Tally
from teleflm_jax.errors import UserError

BATCH_ITEMS = 4096
COMMON = 10
"""Documents with one and the same phrase, from which it is rather a phrase than an item. After GPT-3's appendix C."""
_FULL_WIDTH = re.compile(r"[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]")
_NARROW = {point: point - 0xFEE0 for point in range(0xFF01, 0xFF5F)}
_ENDING = np.uint64((1 << 22) - 1)


@dataclasses.dataclass(frozen=True)
class Index:
    """The n-grams of all benchmarks."""

    sums: dict[int, np.ndarray]
    """n -> sorted uint64: `tokens.sums`, which need not be mixed to be unlike."""
    owners: dict[int, np.ndarray]
    """n -> int32: the benchmark of each; of several the first."""
    benchmarks: tuple[str, ...]
    items: dict[str, int]
    """Benchmark -> texts in it that can be found."""
    too_short: dict[str, int]
    """Benchmark -> texts in it that are too short to be found."""
    ignored: dict[str, int]
    """Benchmark -> texts in it that are nothing but phrases to be ignored."""

    @functools.cached_property
    def endings(self) -> dict[int, np.ndarray]:
        """The last bits that an n-gram has if it is one of these: n -> bool [2^22]."""
        tables = {n: np.zeros(int(_ENDING) + 1, bool) for n in self.sums}
        for n, table in tables.items():
            table[self.sums[n] & _ENDING] = True
        return tables


def index(config: DecontaminateConfig) -> Index:
    """Read benchmark files.

    Raises:
        UserError: a file is not there, or nothing in a benchmark is long enough.
    """
    found: dict[int, dict[int, int]] = collections.defaultdict(dict)
    items, too_short, ignored = ({benchmark: 0 for benchmark in config.benchmarks} for _ in range(3))
    nobodys = _nobodys(config.ignored)
    for number, (benchmark, path) in enumerate(config.benchmarks.items()):
        for texts in _groups(_texts(path, f"decontaminate.benchmarks[{benchmark!r}]"), BATCH_ITEMS):
            batch = in_one_script([folded(clean.uniform(text)) for text in texts])
            for i in range(len(texts)):
                n, sums = _of_item(batch.hashes[batch.of(i)], batch.single[batch.of(i)], config)
                if not n:
                    too_short[benchmark] += 1
                    continue
                wanted = set(sums.tolist()) - nobodys(n)
                (items if wanted else ignored)[benchmark] += 1
                for one in wanted:
                    found[n].setdefault(one, number)
        if not items[benchmark]:
            raise UserError(
                f"got the benchmark {benchmark} ({path}) with {too_short[benchmark]:,} texts, none of {config.shortest} tokens"
                f"{f', and {ignored[benchmark]:,} that decontaminate.ignored has' if ignored[benchmark] else ''}; allowed: "
                "JSON Lines, JSON, Parquet, CSV or plain text with its items; change decontaminate.benchmarks"
            )
    sums = {n: np.array(sorted(table), np.uint64) for n, table in found.items()}
    owners = {n: np.array([found[n][one] for one in sorted(found[n])], np.int32) for n in sums}
    return Index(sums, owners, tuple(config.benchmarks), items, too_short, ignored)


def save(found: Index, path: pathlib.Path) -> None:
    """Write an index, for workers to read; plain arrays."""
    names = json.dumps([found.benchmarks, found.items, found.too_short, found.ignored])
    arrays: dict[str, Any] = {f"sums_{n}": sums for n, sums in found.sums.items()} | {
        f"owners_{n}": owners for n, owners in found.owners.items()
    }
    with open(path, "wb") as file:
        np.savez(file, names=np.frombuffer(names.encode(), np.uint8), **arrays)


def load(path: pathlib.Path) -> Index:
    """Read what `save` wrote."""
    with np.load(path, allow_pickle=False) as file:
        benchmarks, *counts = json.loads(file["names"].tobytes())
        sizes = [int(name.removeprefix("sums_")) for name in file.files if name.startswith("sums_")]
        sums, owners = ({n: file[f"{name}_{n}"] for n in sizes} for name in ("sums", "owners"))
        return Index(sums, owners, tuple(benchmarks), *counts)


def folded(text: str) -> str:
    """A text as it is searched: its case gone ("ß" is "ss"), full-width letters and digits as narrow ones; lines stay as they are."""
    if text.isascii():
        return text.lower()
    return (text.translate(_NARROW) if _FULL_WIDTH.search(text) else text).casefold().lower()


def in_one_script(texts: Sequence[str]) -> tokens.Tokens:
    """Cut texts into tokens, Chinese characters in their simplified form: an item is found in either script."""
    return tokens.tokens(texts, [True] * len(texts))


def hits(found: Index, batch: tokens.Tokens) -> dict[int, list[tuple[int, int, int]]]:
    """Look for benchmark items in a batch.

    Returns:
        Text -> (benchmark, first code point, end) of each n-gram that is an item's, code points counted in the lower-cased batch.
    """
    places: dict[int, list[tuple[int, int, int]]] = collections.defaultdict(list)
    for n, sums in tokens.windows(batch.hashes, sorted(found.sums)):
        wanted = found.sums[n]
        maybe = np.flatnonzero(found.endings[n][sums & _ENDING])  # to look all of them up would take ten times as long
        at = np.minimum(np.searchsorted(wanted, sums[maybe]), len(wanted) - 1)
        hit = wanted[at] == sums[maybe]
        firsts, owners = maybe[hit], found.owners[n][at[hit]]
        texts, lasts = np.searchsorted(batch.offsets, firsts, side="right") - 1, firsts + n - 1
        inside = lasts < batch.offsets[texts + 1]  # and does not reach into the next text
        ends = batch.starts[lasts] + batch.lengths[lasts]
        for text, *place in zip(*(part[inside].tolist() for part in (texts, owners, batch.starts[firsts], ends)), strict=True):
            places[text].append(tuple(place))
    return places


def decontaminate(
    batches: Iterable[pa.RecordBatch], found: Index, tally: Tally, listed: list[dict], *, config: DecontaminateConfig
) -> Iterator[pa.RecordBatch]:
    """Drop documents with test items, or cut out the lines that hold them.

    Args:
        batches: of `rows.DOCUMENT`.
        found: what to look for.
        tally: counts hits by benchmark.
        listed: takes one row a document and benchmark: `id`, `origin`, `benchmark`, `hits`, `text` of the first.
        config: what to do.
    """
    for batch in batches:
        texts: list[str] = batch["text"].to_pylist()
        kept: list[str | None] = [*texts]
        lowered = [folded(text) for text in texts]
        whole = "".join(lowered)
        borders = np.cumsum([0, *map(len, lowered)])
        for i, places in sorted(hits(found, in_one_script(lowered)).items()):
            origin = batch["origin"][i].as_py()
            for number, count in sorted(collections.Counter(owner for owner, _, _ in places).items()):
                first, end = min((first, end) for owner, first, end in places if owner == number)
                name = found.benchmarks[number]
                listed.append({"id": batch["id"][i].as_py(), "origin": origin, "benchmark": name, "hits": count, "text": whole[first:end]})
            name = found.benchmarks[min(owner for owner, _, _ in places)]
            if config.cut:
                left = _without(texts[i], lowered[i], [(a - borders[i], b - borders[i]) for _, a, b in places])
                if left.strip():
                    tally.change(f"cut: {name}", origin, texts[i])
                else:
                    tally.drop(f"nothing left: {name}", origin, texts[i])
                kept[i] = left if left.strip() else None
            else:
                tally.drop(f"benchmark: {name}", origin, texts[i])
                kept[i] = None
        yield rows.with_text(batch, kept)


def common(hits_: Iterable[Mapping]) -> list[tuple[str, str, int]]:
    """Phrases that many documents went for: likelier a licence or a saying than a test item.

    Args:
        hits_: rows of what `decontaminate` listed.

    Returns:
        (benchmark, phrase, documents), the most frequent first.
    """
    counts = collections.Counter((row["benchmark"], row["text"]) for row in hits_)
    return [(*key, count) for key, count in counts.most_common(COMMON) if count > COMMON]


def _nobodys(path: str) -> Callable[[int], frozenset[int]]:
    """Map n to the n-grams of texts that are no test items."""
    found = []
    for texts in _groups(_texts(path, "decontaminate.ignored"), BATCH_ITEMS) if path else ():
        batch = in_one_script([folded(clean.uniform(text)) for text in texts])
        found += [batch.hashes[batch.of(i)] for i in range(len(texts))]
    return functools.cache(lambda n: frozenset(one for hashes in found for one in tokens.sums(hashes, n).tolist()))


def _of_item(hashes: np.ndarray, single: np.ndarray, config: DecontaminateConfig) -> tuple[int, np.ndarray]:
    """The n of an item's n-grams, and their sums; 0 for one that is too short."""
    n = config.characters if 2 * np.count_nonzero(single) > len(single) else config.words
    n = min(n, len(hashes))
    return (n, tokens.sums(hashes, n)) if n >= config.shortest else (0, hashes[:0])


def _without(text: str, lowered: str, spans: Sequence[tuple[int, int]]) -> str:
    """A text without the lines that spans touch; lines, because lower case may be longer than what it stands for."""
    marks = np.cumsum(np.frombuffer(lowered.encode("utf-32-le"), np.uint32) == ord("\n"))
    gone = {line for first, end in spans for line in range(int(marks[first]), int(marks[end - 1]) + 1)}
    return "\n".join(line for number, line in enumerate(text.split("\n")) if number not in gone).strip("\n")


def _texts(path: str, setting: str) -> Iterator[str]:
    """Yield every text in a benchmark's files: all strings of JSON, Parquet and CSV files, however deep, and whole plain files.

    Raises:
        UserError: anything in them cannot be read; its items would be left in training text without a word.
    """
    for unit in work_units.units(path, 1 << 40, setting):
        for piece in unit.pieces:
            place, reason = os.path.join(unit.root, piece.path), piece.skipped
            if piece.skipped == files.SKIPPED[0]:
                continue  # how folders are kept, no benchmark's files
            for value in () if reason else _values(place, piece):
                if isinstance(value, streams.Gap):
                    reason = value.reason
                    break
                yield from map(work_units.without_surrogates, _strings(value))
            if reason:
                raise UserError(
                    f"got {place} among the files of a benchmark ({reason}); allowed: {files.READABLE}, and CSV, without damage; repair "
                    f"it, take it out of the folder, or change {setting}"
                )


def _values(path: str, piece: work_units.Piece) -> Iterator[object]:
    """Yield what a file holds, and a Gap for what cannot be read."""
    if piece.kind in ("jsonl", "json"):
        parse = json_rows.of_lines if piece.kind == "jsonl" else json_rows.of_values
        yield from parse(streams.chunks(path, piece.compression), work_units.LONGEST_DOCUMENT)
    elif piece.kind == "parquet" and not piece.compression:
        yield from _parquet(path)
    else:
        tally = Tally()
        text = next((document.text for document in work_units.read_piece(path, piece, tally)), "")
        for reason in tally.dropped.keys() - {files.SKIPPED[3]}:
            yield streams.Gap(0, reason)
        name = piece.path.lower().removesuffix(os.path.splitext(piece.path.lower())[1] if piece.compression else "")
        if name.endswith((".csv", ".tsv")):
            yield from _cells(text, is_tabbed=name.endswith(".tsv"))
        else:
            yield text


def _parquet(path: str) -> Iterator[object]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(parquet.ROWS, use_threads=False):
                yield batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        yield streams.Gap(0)


def _cells(text: str, *, is_tabbed: bool) -> Iterator[object]:
    try:
        # tabs separate what is never quoted
        yield from csv.reader(io.StringIO(text, newline=""), **({"delimiter": "\t", "quoting": csv.QUOTE_NONE} if is_tabbed else {}))
    except csv.Error as error:
        yield streams.Gap(0, f"not CSV: {error}")


def _strings(value: object) -> Iterator[str]:
    values = [value]
    while values:
        value = values.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            values.extend(value.values())
        elif isinstance(value, list | tuple):
            values.extend(value)


def _groups(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    held: list[str] = []
    for text in texts:
        held.append(text)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held
