"""What a stage did: documents and bytes in and out, what each rule dropped or changed, samples to read, and distributions."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa
import pyarrow.compute

BYTES = "bytes of a document"
"""Distribution of lengths, by their number of bits."""
SAMPLES = 5
"""Of what a rule dropped or changed, per part and in the whole."""
SAMPLE_CHARACTERS = 400


@dataclasses.dataclass
class Amount:
    """How much."""

    documents: int = 0
    bytes: int = 0

    def add(self, documents: int, num_bytes: int) -> None:
        """Count more."""
        self.documents += documents
        self.bytes += num_bytes


def _amounts() -> dict[str, Amount]:
    return collections.defaultdict(Amount)


@dataclasses.dataclass
class Tally:
    """Counts of one part, or of all; `merge` adds them up in the order of the parts."""

    into: Amount = dataclasses.field(default_factory=Amount)
    out: dict[str, Amount] = dataclasses.field(default_factory=_amounts)
    """`domain language` -> what left the stage."""
    dropped: dict[str, Amount] = dataclasses.field(default_factory=_amounts)
    """Rule -> documents that it took out, or what could not be read."""
    changed: dict[str, Amount] = dataclasses.field(default_factory=_amounts)
    """Rule -> places it changed in documents that stay (lines taken out, addresses masked), and their bytes."""
    samples: dict[str, list[dict]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    """Rule -> the first ones, with `origin` and `text`."""
    distributions: dict[str, dict[str, int]] = dataclasses.field(default_factory=lambda: collections.defaultdict(collections.Counter))
    """Name -> value -> count."""

    def add(self, other: "Tally") -> None:
        """Add another's counts to these."""
        self.into.add(other.into.documents, other.into.bytes)
        for name in ("out", "dropped", "changed"):
            for key, amount in getattr(other, name).items():
                getattr(self, name)[key].add(amount.documents, amount.bytes)
        for rule, samples in other.samples.items():
            self.samples[rule] = (self.samples[rule] + samples)[:SAMPLES]
        for name, counts in other.distributions.items():
            self.distributions[name].update(counts)

    def drop(self, rule: str, origin: str, text: str | bytes, size: int | None = None, count: int = 1) -> None:
        """Count a document that leaves, and keep its beginning among the samples; `size` is its length in UTF-8 where that is known.

        `count` is for what can only be counted together, `size` then that of all.
        """
        self.dropped[rule].add(count, _size(text) if size is None else size)
        self._sample(rule, origin, text)

    def change(self, rule: str, origin: str, text: str) -> None:
        """Count a place that a rule changed."""
        self.changed[rule].add(1, _size(text))
        self._sample(rule, origin, text)

    def entering(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Pass batches of documents on, counted as what came in."""
        for batch in batches:
            self.into.add(batch.num_rows, _text_bytes(batch))
            yield batch

    def leaving(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Pass batches of documents on, counted as what went out; empty ones end here."""
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


def to_json(tally: Tally) -> dict:
    """Plain JSON, sorted, so that equal tallies are equal bytes."""
    amounts = {name: {key: vars(one) for key, one in getattr(tally, name).items()} for name in ("out", "dropped", "changed")}
    return _sorted({"into": vars(tally.into), **amounts, "samples": dict(tally.samples), "distributions": dict(tally.distributions)})


def from_json(row: Mapping) -> Tally:
    """What `to_json` wrote."""
    tally = Tally(into=Amount(**row["into"]))
    for name in ("out", "dropped", "changed"):
        getattr(tally, name).update({key: Amount(**amount) for key, amount in row[name].items()})
    tally.samples.update(row["samples"])
    for name, counts in row["distributions"].items():
        tally.distributions[name].update(counts)
    return tally


def merge(tallies: Iterable[Tally]) -> Tally:
    """Add up; of the samples the first ones stay."""
    whole = Tally()
    for tally in tallies:
        whole.add(tally)
    return whole


def total(amounts: Mapping[str, Amount]) -> Amount:
    """All of them together."""
    return Amount(sum(one.documents for one in amounts.values()), sum(one.bytes for one in amounts.values()))


def _size(text: str | bytes) -> int:
    return len(text.encode()) if isinstance(text, str) else len(text)


def _text_bytes(batch: pa.RecordBatch) -> int:
    return pyarrow.compute.sum(pyarrow.compute.binary_length(batch["text"])).as_py() or 0


def _sorted(value):
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return value
