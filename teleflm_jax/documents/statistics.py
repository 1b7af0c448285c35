"""Statistics of a stage: documents and bytes in and out, what each rule dropped or changed, samples, and distributions."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute

BYTES = "bytes of a document"
"""Name of the distribution of document lengths, binned by the number of bits of the length."""
SAMPLES = 5
"""Samples kept for each rule, both in one partition and in the total."""
SAMPLE_CHARACTERS = 400


@dataclasses.dataclass
class Amount:
    """A number of documents (or places in documents) and their UTF-8 bytes."""

    documents: int = 0
    bytes: int = 0

    def add(self, documents: int, num_bytes: int) -> None:
        """Add to both counts."""
        self.documents += documents
        self.bytes += num_bytes


def _amounts() -> dict[str, Amount]:
    return collections.defaultdict(Amount)


@dataclasses.dataclass
class Statistics:
    """Counts of one partition or of all partitions; `merge` adds them up in partition order."""

    into: Amount = dataclasses.field(default_factory=Amount)
    """Documents that entered the stage."""
    out: dict[str, Amount] = dataclasses.field(default_factory=_amounts)
    """`domain language` -> documents that left the stage."""
    dropped: dict[str, Amount] = dataclasses.field(default_factory=_amounts)
    """Rule -> documents that it removed, or reason -> input that could not be read."""
    changed: dict[str, Amount] = dataclasses.field(default_factory=_amounts)
    """Rule -> places that it changed in documents that stay (lines removed, addresses masked), and their bytes."""
    samples: dict[str, list[dict]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    """Rule -> its first samples, each with `origin` and `text`."""
    distributions: dict[str, dict[str, int]] = dataclasses.field(default_factory=lambda: collections.defaultdict(collections.Counter))
    """Name -> value -> count."""

    def add(self, other: "Statistics") -> None:
        """Add the counts of `other`."""
        self.into.add(other.into.documents, other.into.bytes)
        for name in ("out", "dropped", "changed"):
            for key, amount in getattr(other, name).items():
                getattr(self, name)[key].add(amount.documents, amount.bytes)
        for rule, samples in other.samples.items():
            self.samples[rule] = (self.samples[rule] + samples)[:SAMPLES]
        for name, counts in other.distributions.items():
            self.distributions[name].update(counts)

    def drop(self, rule: str, origin: str, text: str | bytes, size: int | None = None, count: int = 1) -> None:
        """Count a dropped document and keep its beginning as a sample.

        Args:
            rule: The rule or the reason.
            origin: Where the document comes from.
            text: The document, or its beginning.
            size: UTF-8 bytes, if known; by default the length of `text`.
            count: Number of documents, for documents that can only be counted together; `size` is then their sum.
        """
        self.dropped[rule].add(count, _size(text) if size is None else size)
        self._sample(rule, origin, text)

    def change(self, rule: str, origin: str, text: str) -> None:
        """Count one place that a rule changed."""
        self.changed[rule].add(1, _size(text))
        self._sample(rule, origin, text)

    def entering(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the batches and count them as input of the stage."""
        for batch in batches:
            self.into.add(batch.num_rows, _text_bytes(batch))
            yield batch

    def leaving(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the batches and count them as output of the stage; empty batches are left out."""
        for batch in batches:
            if batch.num_rows:
                self._count_out(batch)
                yield batch

    def _count_out(self, batch: pa.RecordBatch) -> None:
        sizes = pyarrow.compute.binary_length(batch["text"])
        table = pa.table({"domain": batch["domain"], "language": batch["language"], "size": sizes})
        found = table.group_by(["domain", "language"]).aggregate([("size", "sum"), ("size", "count")]).to_pylist()
        for row in found:
            self.out[f"{row['domain']} {row['language']}"].add(row["size_count"], row["size_sum"])
        lengths = self.distributions[BYTES]
        for size in sizes.to_pylist():
            lengths[str(size.bit_length())] += 1

    def _sample(self, rule: str, origin: str, text: str | bytes) -> None:
        held = self.samples[rule]
        if len(held) < SAMPLES:
            beginning = text[: 4 * SAMPLE_CHARACTERS].decode("utf-8", "replace") if isinstance(text, bytes) else text
            held.append({"origin": origin[:SAMPLE_CHARACTERS], "text": beginning[:SAMPLE_CHARACTERS]})


def to_json(statistics: Statistics) -> dict:
    """Return plain JSON with sorted keys, so that equal statistics give equal bytes."""
    amounts = {name: {key: vars(one) for key, one in getattr(statistics, name).items()} for name in ("out", "dropped", "changed")}
    return _sorted(
        {"into": vars(statistics.into), **amounts, "samples": dict(statistics.samples), "distributions": dict(statistics.distributions)}
    )


def from_json(row: Mapping) -> Statistics:
    """Return the statistics that `to_json` wrote."""
    statistics = Statistics(into=Amount(**row["into"]))
    for name in ("out", "dropped", "changed"):
        getattr(statistics, name).update({key: Amount(**amount) for key, amount in row[name].items()})
    statistics.samples.update(row["samples"])
    for name, counts in row["distributions"].items():
        statistics.distributions[name].update(counts)
    return statistics


def merge(statistics_of_parts: Iterable[Statistics]) -> Statistics:
    """Add up statistics; the first samples of each rule are kept."""
    whole = Statistics()
    for statistics in statistics_of_parts:
        whole.add(statistics)
    return whole


def total(amounts: Mapping[str, Amount]) -> Amount:
    """Return the sum of all amounts."""
    return Amount(sum(one.documents for one in amounts.values()), sum(one.bytes for one in amounts.values()))


def _size(text: str | bytes) -> int:
    return len(text.encode()) if isinstance(text, str) else len(text)


def _text_bytes(batch: pa.RecordBatch) -> int:
    return pyarrow.compute.sum(pyarrow.compute.binary_length(batch["text"])).as_py() or 0


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return value
