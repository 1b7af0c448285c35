"""Batches of a run by step, on Grain: random access, so that resuming means seeking, without iterator state.

Batch(step) is a pure function of (seed, step, mixture history). It does not depend on the number of processes: process p of P gets rows
[p·B/P, (p+1)·B/P) and reads only their records.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping

import grain
import numpy as np

from teleflm_jax.data import manifest, mixture, source
from teleflm_jax.data.config import DataConfig
from teleflm_jax.errors import UserError
from teleflm_jax.packing import records
from teleflm_jax.tokenizer import load, specials

READ_THREADS = 2
"""Threads that prefetch batches; decoding takes a fraction of a millisecond per sequence."""
BATCHES_AHEAD = 4
ENDLESS = 2**31 - 1
"""Number of batches; more than any run draws."""

Batch = dict[str, np.ndarray]
"""tokens, targets, segments int32 [B, S], weights float32 [B, S]; see docs/architecture.md."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loader:
    """The checked and opened training data of a run."""

    order: mixture.Mixture
    data: DataConfig
    manifests: Mapping[str, manifest.Manifest]
    domains: Mapping[str, grain.MapDataset]
    """Endless stream of each domain's encoded records, reshuffled every epoch."""
    batch_size: int
    pad: int
    """Padding id of the tokenizer."""

    def with_history(self, history: mixture.History) -> "Loader":
        """Return a loader of the same data in the order of another mixture history."""
        return dataclasses.replace(self, order=mixture.build(history, batch_size=self.batch_size, seed=self.data.seed))

    def identity(self) -> dict[str, str]:
        """Return the description of the training data that checkpoints hold, by domain: it detects a change of size, not of text."""
        splits = {domain: manifest.train for domain, manifest in self.manifests.items()}
        return {f"data/{domain}": f"{split.records} records of {split.num_bytes} bytes of text" for domain, split in splits.items()}

    def epochs(self, step: int) -> dict[str, float]:
        """Return the number of passes over each of the run's current domains before `step`."""
        drawn = self.order.counts(step * self.batch_size)
        return {domain: round(drawn.get(domain, 0) / known.train.records, 4) for domain, known in self.manifests.items()}

    def origins(self, step: int) -> list[dict[str, int | str]]:
        """Return the origin of each row of the batch of `step`: domain, epoch, shard and record in the shard."""
        chosen, positions = self.order.locate(step, range(self.batch_size))
        return [self._origin(self.order.domains[domain], position) for domain, position in zip(chosen, positions, strict=True)]

    def _origin(self, domain: str, position: int) -> dict[str, int | str]:
        split = self.manifests[domain].train
        shuffled = _shuffled(grain.MapDataset.range(split.records), self.data.seed, domain)[position]
        assert shuffled is not None  # only a filter leaves elements out
        record = int(shuffled)
        for shard in split.shards:
            if record < shard.records:
                return {"domain": domain, "epoch": position // split.records, "shard": shard.path, "record": record}
            record -= shard.records
        raise AssertionError("the shards of a manifest hold all of its records")

    def batch(self, step: int, *, process: int = 0, num_processes: int = 1) -> Batch:
        """Return one process's rows of the batch of `step`."""
        rows = self._rows(process, num_processes)
        chosen, positions = self.order.locate(step, rows)
        names = [self.order.domains[domain] for domain in chosen]
        return join([self._record(name, position) for name, position in zip(names, positions, strict=True)], self.pad)

    @contextlib.contextmanager
    def iterate(self, first_step: int = 0, *, process: int = 0, num_processes: int = 1) -> Iterator[Iterator[Batch]]:
        """Open an endless iterator over the batches from `first_step` on, prefetched by threads that end with the context.

        The number of batches is not known in advance: every skipped update draws one more.
        """
        self._rows(process, num_processes)
        made = grain.MapDataset.range(first_step, ENDLESS).map(
            lambda step: self.batch(int(step), process=process, num_processes=num_processes)
        )
        batches = iter(made.to_iter_dataset(grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=BATCHES_AHEAD)))
        try:
            yield batches
        finally:
            batches.close()

    def _record(self, domain: str, position: int) -> records.TrainingRecord:
        if domain not in self.domains:
            raise UserError(
                f"got a step at which the run still used the domain {domain}; allowed: domains of data.proportions "
                f"({', '.join(self.domains)}); add {domain} to data.proportions, or resume from a later checkpoint"
            )
        data = self.domains[domain][position]
        assert data is not None  # only a filter leaves elements out
        return records.decode(data)

    def _rows(self, process: int, num_processes: int) -> range:
        if self.batch_size % num_processes:
            raise UserError(
                f"got a batch of {self.batch_size} sequences for {num_processes} processes; allowed: a multiple of {num_processes}; change "
                "train.batch_size"
            )
        share = self.batch_size // num_processes
        return range(process * share, (process + 1) * share)


def open_run(
    data: DataConfig,
    *,
    sequence_length: int,
    vocab_size: int,
    batch_size: int,
    steps: int,
    history: mixture.History | None = None,
    verify: bool = True,
) -> Loader:
    """Open the packed domains of a run and check everything that can be checked before step 0.

    Args:
        data: Domains, their proportions and paths.
        sequence_length: Tokens of one sequence, `model.context_length`.
        vocab_size: Rows of the model's embedding.
        batch_size: Sequences of a step over all processes.
        steps: Number of steps of the run.
        history: Weights by step, from the checkpoint; None for a new run with `data.proportions`.
        verify: Check every training shard first; one process of a run does this, the others open only the shards of their rows.

    Raises:
        UserError: Data are missing, do not match the run, or run out before the last step.
    """
    sha256 = load.sha256(data.tokenizer)
    manifests = {
        domain: manifest.load(
            data.packed,
            domain,
            tokenizer_sha256=sha256,
            vocab_size=vocab_size,
            sequence_length=sequence_length,
            verify=("train",) if verify else (),
        )
        for domain in sorted(data.proportions)
    }
    for domain, known in manifests.items():
        if not known.train.records:
            raise UserError(
                f"got no training records in {data.packed}/{domain}; allowed: at least one; pack more text or "
                "remove the domain from data.proportions"
            )
    order = mixture.build(history or ((0, dict(data.proportions)),), batch_size=batch_size, seed=data.seed)
    counts = {domain: known.train.records for domain, known in manifests.items()}
    mixture.refuse_exhaustion(order, steps=steps, records=counts, max_epochs=data.max_epochs)
    reader = source.reader_cache()
    sources = {domain: source.open_source(_shard_sizes(known.train), reader) for domain, known in manifests.items()}
    domains = {domain: _shuffled(grain.MapDataset.source(records), data.seed, domain) for domain, records in sources.items()}
    pad = specials.of(load.load(data.tokenizer)).pad
    return Loader(order=order, data=data, manifests=manifests, domains=domains, batch_size=batch_size, pad=pad)


def heldout(data: DataConfig, domain: str, *, vocab_size: int) -> Iterator[records.HeldOut]:
    """Yield the held-out documents of a domain in order; none if the domain has no held-out set."""
    sha256 = load.sha256(data.tokenizer)
    known = manifest.load(data.packed, domain, tokenizer_sha256=sha256, vocab_size=vocab_size, verify=("heldout",))
    if known.heldout.shards:
        documents = source.open_source(_shard_sizes(known.heldout), source.reader_cache(1))
        for number in range(len(documents)):
            yield records.decode_document(documents[number])


def join(rows: list[records.TrainingRecord], pad: int) -> Batch:
    """Stack records into a batch: inputs, next tokens, document numbers, and loss weights.

    `pad` is the padding id, which may also be the id that begins documents.
    """
    tokens = np.stack([row.tokens for row in rows]).astype(np.int32)
    begins = np.zeros(tokens.shape, bool)
    for i, row in enumerate(rows):
        begins[i, row.starts] = True
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    # the document at position 0 is number 1, also if it began in an earlier sequence, so the first column adds nothing
    segments = 1 + np.cumsum(begins[:, 1:-1], axis=1, dtype=np.int32)
    segments = np.concatenate([np.ones((len(rows), 1), np.int32), segments], axis=1)
    padding = (tokens == pad) & ~begins
    weights = ~padding[:, 1:] & ~begins[:, 1:]
    return {
        "tokens": np.ascontiguousarray(inputs),
        "targets": np.ascontiguousarray(targets),
        "segments": np.where(padding[:, :-1], 0, segments).astype(np.int32),
        "weights": weights.astype(np.float32),
    }


def _shard_sizes(split: manifest.Split) -> list[tuple[str, int]]:
    return [(shard.path, shard.records) for shard in split.shards]


def _shuffled(records: grain.MapDataset, seed: int, domain: str) -> grain.MapDataset:
    return records.shuffle(seed=_domain_seed(seed, domain))


def _domain_seed(seed: int, domain: str) -> int:
    """Return a seed for a domain by hashing: Grain adds the epoch to it, so consecutive seeds would repeat each other's orders."""
    return int.from_bytes(hashlib.blake2b(f"{domain} {seed}".encode(), digest_size=4).digest(), "big")
