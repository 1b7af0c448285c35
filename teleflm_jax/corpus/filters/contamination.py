"""Decontamination: benchmark items are found in training text by n-grams. Source: report, section 2, "strict n-gram-based".

An item is any text in the user's benchmark files. Its n-grams are all runs of `words` tokens, or of `characters` tokens if most of them are
characters of a script without spaces; a shorter item is searched as a whole, down to `shortest` tokens. Case, spaces, punctuation,
full-width forms, and traditional or simplified Chinese make no difference.

The rule is strict: one n-gram is enough. An item that quotes a license therefore removes every document with that license; `ignored` has
texts whose n-grams are not searched, and `common` finds candidates for it.
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
from teleflm_jax.documents.statistics import Statistics
from teleflm_jax.errors import UserError

BATCH_ITEMS = 4096
COMMON = 10
"""Number of documents with the same phrase above which it is reported as a common phrase. After GPT-3's appendix C."""
_FULL_WIDTH = re.compile(r"[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]")
_NARROW = {point: point - 0xFEE0 for point in range(0xFF01, 0xFF5F)}
_ENDING = np.uint64((1 << 22) - 1)


@dataclasses.dataclass(frozen=True)
class NgramIndex:
    """The n-grams of all benchmarks."""

    sums: dict[int, np.ndarray]
    """n -> sorted uint64: `tokens.sums` of the n-grams, which are distinct without `mix`."""
    owners: dict[int, np.ndarray]
    """n -> int32: index of each n-gram's benchmark, the first if several have it."""
    benchmarks: tuple[str, ...]
    items: dict[str, int]
    """Benchmark -> number of its texts that are searched."""
    too_short: dict[str, int]
    """Benchmark -> number of its texts that are too short to search."""
    ignored: dict[str, int]
    """Benchmark -> number of its texts that consist only of ignored phrases."""

    @functools.cached_property
    def endings(self) -> dict[int, np.ndarray]:
        """N -> bool [2^22]: True for the low bits of the n-grams in the index, as a prefilter."""
        tables = {n: np.zeros(int(_ENDING) + 1, bool) for n in self.sums}
        for n, table in tables.items():
            table[self.sums[n] & _ENDING] = True
        return tables


def index(config: DecontaminateConfig) -> NgramIndex:
    """Build the index from the benchmark files.

    Raises:
        UserError: A file does not exist, or no text of a benchmark is long enough.
    """
    found: dict[int, dict[int, int]] = collections.defaultdict(dict)
    items, too_short, ignored = ({benchmark: 0 for benchmark in config.benchmarks} for _ in range(3))
    ignored_ngrams = _ignored_ngrams(config.ignored)
    for number, (benchmark, path) in enumerate(config.benchmarks.items()):
        for texts in _groups(_texts(path, f"decontaminate.benchmarks[{benchmark!r}]"), BATCH_ITEMS):
            batch = in_one_script([folded(clean.normalize(text)) for text in texts])
            for i in range(len(texts)):
                n, sums = _item_ngrams(batch.hashes[batch.of(i)], batch.single[batch.of(i)], config)
                if not n:
                    too_short[benchmark] += 1
                    continue
                wanted = set(sums.tolist()) - ignored_ngrams(n)
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
    return NgramIndex(sums, owners, tuple(config.benchmarks), items, too_short, ignored)


def save(found: NgramIndex, path: pathlib.Path) -> None:
    """Write an index as plain arrays, for workers to read."""
    names = json.dumps([found.benchmarks, found.items, found.too_short, found.ignored])
    arrays: dict[str, Any] = {f"sums_{n}": sums for n, sums in found.sums.items()} | {
        f"owners_{n}": owners for n, owners in found.owners.items()
    }
    with open(path, "wb") as file:
        np.savez(file, names=np.frombuffer(names.encode(), np.uint8), **arrays)


def load(path: pathlib.Path) -> NgramIndex:
    """Read an index written by `save`."""
    with np.load(path, allow_pickle=False) as file:
        benchmarks, *counts = json.loads(file["names"].tobytes())
        sizes = [int(name.removeprefix("sums_")) for name in file.files if name.startswith("sums_")]
        sums, owners = ({n: file[f"{name}_{n}"] for n in sizes} for name in ("sums", "owners"))
        return NgramIndex(sums, owners, tuple(benchmarks), *counts)


def folded(text: str) -> str:
    """Return a text in the form that is searched: case folded ("ß" is "ss"), full-width letters and digits narrowed, lines unchanged."""
    if text.isascii():
        return text.lower()
    return (text.translate(_NARROW) if _FULL_WIDTH.search(text) else text).casefold().lower()


def in_one_script(texts: Sequence[str]) -> tokens.Tokens:
    """Tokenize texts with simplified Chinese characters, so that items are found in either script."""
    return tokens.tokens(texts, [True] * len(texts))


def hits(found: NgramIndex, batch: tokens.Tokens) -> dict[int, list[tuple[int, int, int]]]:
    """Search a batch for benchmark items.

    Returns:
        Text -> (benchmark, first code point, end) of each n-gram of an item, with code points counted in the lower-cased batch.
    """
    places: dict[int, list[tuple[int, int, int]]] = collections.defaultdict(list)
    for n, sums in tokens.windows(batch.hashes, sorted(found.sums)):
        wanted = found.sums[n]
        maybe = np.flatnonzero(found.endings[n][sums & _ENDING])  # looking up all of them would take ten times as long
        at = np.minimum(np.searchsorted(wanted, sums[maybe]), len(wanted) - 1)
        hit = wanted[at] == sums[maybe]
        firsts, owners = maybe[hit], found.owners[n][at[hit]]
        texts, lasts = np.searchsorted(batch.offsets, firsts, side="right") - 1, firsts + n - 1
        inside = lasts < batch.offsets[texts + 1]  # excludes n-grams that cross into the next text
        ends = batch.starts[lasts] + batch.lengths[lasts]
        for text, *place in zip(*(part[inside].tolist() for part in (texts, owners, batch.starts[firsts], ends)), strict=True):
            places[text].append(tuple(place))
    return places


def decontaminate(
    batches: Iterable[pa.RecordBatch], found: NgramIndex, statistics: Statistics, listed: list[dict], *, config: DecontaminateConfig
) -> Iterator[pa.RecordBatch]:
    """Drop documents with test items, or remove the lines that contain them.

    Args:
        batches: Batches of `rows.DOCUMENT`.
        found: Index of the items.
        statistics: Counts hits by benchmark.
        listed: Receives one row per document and benchmark: `id`, `origin`, `benchmark`, `hits`, `text` of the first hit.
        config: Settings.
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
                    statistics.change(f"cut: {name}", origin, texts[i])
                else:
                    statistics.drop(f"nothing left: {name}", origin, texts[i])
                kept[i] = left if left.strip() else None
            else:
                statistics.drop(f"benchmark: {name}", origin, texts[i])
                kept[i] = None
        yield rows.with_text(batch, kept)


def common(hits_: Iterable[Mapping]) -> list[tuple[str, str, int]]:
    """Return phrases that many documents were dropped for, which are more likely a license or a saying than a test item.

    Args:
        hits_: Rows listed by `decontaminate`.

    Returns:
        (benchmark, phrase, documents), the most frequent first.
    """
    counts = collections.Counter((row["benchmark"], row["text"]) for row in hits_)
    return [(*key, count) for key, count in counts.most_common(COMMON) if count > COMMON]


def _ignored_ngrams(path: str) -> Callable[[int], frozenset[int]]:
    """Return a function of n that returns the n-grams of the ignored texts."""
    found = []
    for texts in _groups(_texts(path, "decontaminate.ignored"), BATCH_ITEMS) if path else ():
        batch = in_one_script([folded(clean.normalize(text)) for text in texts])
        found += [batch.hashes[batch.of(i)] for i in range(len(texts))]
    return functools.cache(lambda n: frozenset(one for hashes in found for one in tokens.sums(hashes, n).tolist()))


def _item_ngrams(hashes: np.ndarray, single: np.ndarray, config: DecontaminateConfig) -> tuple[int, np.ndarray]:
    """Return the n of an item's n-grams and their sums; n is 0 for an item that is too short."""
    n = config.characters if 2 * np.count_nonzero(single) > len(single) else config.words
    n = min(n, len(hashes))
    return (n, tokens.sums(hashes, n)) if n >= config.shortest else (0, hashes[:0])


def _without(text: str, lowered: str, spans: Sequence[tuple[int, int]]) -> str:
    """Remove the lines that spans touch; whole lines, because lower case may change the length of a text."""
    line_numbers = np.cumsum(np.frombuffer(lowered.encode("utf-32-le"), np.uint32) == ord("\n"))
    removed = {line for first, end in spans for line in range(int(line_numbers[first]), int(line_numbers[end - 1]) + 1)}
    return "\n".join(line for number, line in enumerate(text.split("\n")) if number not in removed).strip("\n")


def _texts(path: str, setting: str) -> Iterator[str]:
    """Yield every text in a benchmark's files: all strings of JSON, Parquet and CSV files at any depth, and whole plain files.

    Raises:
        UserError: A part of a file cannot be read, so that its items would silently stay in training text.
    """
    for unit in work_units.split_source(path, 1 << 40, setting):
        for file_range in unit.ranges:
            place, reason = os.path.join(unit.root, file_range.path), file_range.skipped
            if file_range.skipped == files.SKIPPED[0]:
                continue  # a file of version control or the file system
            for value in () if reason else _values(place, file_range):
                if isinstance(value, streams.DamagedSpan):
                    reason = value.reason
                    break
                yield from map(work_units.without_surrogates, _strings(value))
            if reason:
                raise UserError(
                    f"got {place} among the files of a benchmark ({reason}); allowed: {files.READABLE}, and CSV, without damage; repair "
                    f"it, remove it from the folder, or change {setting}"
                )


def _values(path: str, file_range: work_units.FileRange) -> Iterator[object]:
    """Yield the values of a file, and a DamagedSpan for each part that cannot be read."""
    if file_range.kind in ("jsonl", "json"):
        parse = json_rows.of_lines if file_range.kind == "jsonl" else json_rows.of_values
        yield from parse(streams.chunks(path, file_range.compression), work_units.LONGEST_DOCUMENT)
    elif file_range.kind == "parquet" and not file_range.compression:
        yield from _parquet(path)
    else:
        statistics = Statistics()
        text = next((document.text for document in work_units.read_range(path, file_range, statistics)), "")
        for reason in statistics.dropped.keys() - {files.SKIPPED[3]}:
            yield streams.DamagedSpan(0, reason)
        name = file_range.path.lower().removesuffix(os.path.splitext(file_range.path.lower())[1] if file_range.compression else "")
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
        yield streams.DamagedSpan(0)


def _cells(text: str, *, is_tabbed: bool) -> Iterator[object]:
    try:
        # tab-separated values have no quotes
        yield from csv.reader(io.StringIO(text, newline=""), **({"delimiter": "\t", "quoting": csv.QUOTE_NONE} if is_tabbed else {}))
    except csv.Error as error:
        yield streams.DamagedSpan(0, f"not CSV: {error}")


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
