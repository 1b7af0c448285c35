"""Batches of a run, by step, on Grain: random access, so that resuming is seeking and no iterator state exists.

Batch(step) is a pure function of (seed, step, mixture history). It does not depend on the number of processes: process p of P gets rows
[p·B/P, (p+1)·B/P) and reads nothing else.
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
"""Threads that make batches ahead of the training step; decoding is a fraction of a millisecond per sequence."""
BATCHES_AHEAD = 4
ENDLESS = 2**31 - 1
"""Batches; more than any run draws."""

Batch = dict[str, np.ndarray]
"""tokens, targets, segments int32 [B, S], weights float32 [B, S]; see docs/architecture.md."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loader:
    """The training data of one run, checked and open."""

    order: mixture.Mixture
    data: DataConfig
    manifests: Mapping[str, manifest.Manifest]
    domains: Mapping[str, grain.MapDataset]
    """Encoded records of each domain in the domain's own order: reshuffled every epoch, without end."""
    batch_size: int
    pad: int
    """The tokenizer's id of padding."""

    def under(self, history: mixture.History) -> "Loader":
        """The same data in another order: under a checkpoint's mixture history."""
        return dataclasses.replace(self, order=mixture.build(history, batch_size=self.batch_size, seed=self.data.seed))

    def identity(self) -> dict[str, str]:
        """What a checkpoint says of the training data, by domain: another text of the same size is not noticed, another size is."""
        parts = {domain: known.train for domain, known in self.manifests.items()}
        return {f"data/{domain}": f"{part.records} records of {part.num_bytes} bytes of text" for domain, part in parts.items()}

    def epochs(self, step: int) -> dict[str, float]:
        """Return the passes of the batches before `step` through each domain that the run still has."""
        drawn = self.order.counts(step * self.batch_size)
        return {domain: round(drawn.get(domain, 0) / known.train.records, 4) for domain, known in self.manifests.items()}

    def origins(self, step: int) -> list[dict[str, int | str]]:
        """Where each row of the batch of `step` comes from: domain, epoch, shard and record in it."""
        chosen, positions = self.order.locate(step, range(self.batch_size))
        return [self._origin(self.order.domains[domain], position) for domain, position in zip(chosen, positions, strict=True)]

    def _origin(self, domain: str, position: int) -> dict[str, int | str]:
        part = self.manifests[domain].train
        shuffled = _shuffled(grain.MapDataset.range(part.records), self.data.seed, domain)[position]
        assert shuffled is not None  # only a filter leaves elements out
        record = int(shuffled)
        for shard in part.shards:
            if record < shard.records:
                return {"domain": domain, "epoch": position // part.records, "shard": shard.path, "record": record}
            record -= shard.records
        raise AssertionError("a manifest's shards hold all of its records")

    def batch(self, step: int, *, process: int = 0, num_processes: int = 1) -> Batch:
        """Make one process's rows of the batch of `step`."""
        rows = self._rows(process, num_processes)
        chosen, positions = self.order.locate(step, rows)
        names = [self.order.domains[domain] for domain in chosen]
        return join([self._record(name, position) for name, position in zip(names, positions, strict=True)], self.pad)

    @contextlib.contextmanager
    def iterate(self, first_step: int = 0, *, process: int = 0, num_processes: int = 1) -> Iterator[Iterator[Batch]]:
        """Open an iterator over the batches from `first_step` on, without end, made ahead by threads that end with the context.

        How many a run draws is not known before: an update that is skipped draws one more.
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

    def _record(self, domain: str, position: int) -> records.Record:
        if domain not in self.domains:
            raise UserError(
                f"got a step at which the run still drew from {domain}; allowed: domains of data.proportions ({', '.join(self.domains)}); "
                f"add {domain} to data.proportions, or go on from a later checkpoint"
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
    """Open the packed domains of a run and check all that can be checked before step 0.

    Args:
        data: domains, their proportions and where they are.
        sequence_length: tokens of one sequence, model.context_length.
        vocab_size: rows of the model's embedding.
        batch_size: sequences of a step over all processes.
        steps: number of the run's steps.
        history: weights by step, from the checkpoint; None for a fresh run under `data.proportions`.
        verify: look at every training shard first; of a run's processes only one needs to, the others open those that their rows come from.

    Raises:
        UserError: data that are not there, do not fit, or run out before the last step.
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
                f"got no training records in {data.packed}/{domain}; allowed: at least one; pack more text or drop it from data.proportions"
            )
    order = mixture.build(history or ((0, dict(data.proportions)),), batch_size=batch_size, seed=data.seed)
    counts = {domain: known.train.records for domain, known in manifests.items()}
    mixture.refuse_exhaustion(order, steps=steps, records=counts, max_epochs=data.max_epochs)
    reader = source.readers()
    sources = {domain: source.source(_counted(known.train), reader) for domain, known in manifests.items()}
    domains = {domain: _shuffled(grain.MapDataset.source(records), data.seed, domain) for domain, records in sources.items()}
    pad = specials.of(load.load(data.tokenizer)).pad
    return Loader(order=order, data=data, manifests=manifests, domains=domains, batch_size=batch_size, pad=pad)


def heldout(data: DataConfig, domain: str, *, vocab_size: int) -> Iterator[records.HeldOut]:
    """Yield a domain's held-out documents in order; none if the domain has no held-out set."""
    sha256 = load.sha256(data.tokenizer)
    known = manifest.load(data.packed, domain, tokenizer_sha256=sha256, vocab_size=vocab_size, verify=("heldout",))
    if known.heldout.shards:
        documents = source.source(_counted(known.heldout), source.readers(1))
        for number in range(len(documents)):
            yield records.decode_document(documents[number])


def join(rows: list[records.Record], pad: int) -> Batch:
    """Stack records to a batch: inputs, the tokens that follow them, document numbers, and where the loss counts.

    `pad` is the id of padding, and may also begin documents.
    """
    tokens = np.stack([row.tokens for row in rows]).astype(np.int32)
    begins = np.zeros(tokens.shape, bool)
    for i, row in enumerate(rows):
        begins[i, row.starts] = True
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    # a sequence that begins inside a document counts that one as its first, hence the first column adds nothing
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


def _counted(part: manifest.Part) -> list[tuple[str, int]]:
    return [(shard.path, shard.records) for shard in part.shards]


def _shuffled(records: grain.MapDataset, seed: int, domain: str) -> grain.MapDataset:
    return records.shuffle(seed=_domain_seed(seed, domain))


def _domain_seed(seed: int, domain: str) -> int:
    """Give each domain a seed of its own: Grain adds the epoch to it, so neighbouring seeds would repeat each other's orders."""
    return int.from_bytes(hashlib.blake2b(f"{domain} {seed}".encode(), digest_size=4).digest(), "big")
