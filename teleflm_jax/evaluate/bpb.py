"""Bits per byte of a model on held-out documents, by domain.

BPB = nats / ln 2 / UTF-8 bytes. Each document is scored alone after `<s>`, which counts no byte; `</s>` is not scored.

Source: report, section 4; the windows (`windows.py`) are our choice, since the report does not state them.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from sharding import mesh as device_mesh
from sharding.rules import Layout
from teleflm_jax import passes
from teleflm_jax.errors import UserError
from teleflm_jax.evaluate import weights, windows
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.packing.records import HeldOut

Evaluator = Callable[[int, Transformer, Callable[[], None]], dict[str, float]]
Item = TypeVar("Item")
Documents = Mapping[str, Sequence[HeldOut]]
"""Domain -> its documents, with at least one token."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BitsPerByte:
    """Negative log-likelihood of a domain's documents."""

    nats: float
    """Negative log-likelihood of all tokens."""
    tokens: int
    num_bytes: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def bpb(self) -> float:
        """Bits per UTF-8 byte."""
        return self.nats / math.log(2) / self.num_bytes


def measure(
    model: Transformer,
    documents: Documents,
    *,
    batch_size: int,
    layout: Layout,
    bos: int,
    watch: Callable[[Sequence[windows.Batch]], Iterable[windows.Batch]] = iter,
) -> dict[str, BitsPerByte]:
    """Score every domain.

    Args:
        model: in the runtime layout.
        documents: the same on every process.
        batch_size: windows of the context length per forward pass over all devices; rounded up to a multiple that they can share.
        layout: devices that split each batch.
        bos: id before every document.
        watch: takes all batches and yields them one by one, for example a progress bar.
    """
    batches = watch(prepare(documents, model.config.context_length, batch_size, layout, bos))
    return _scores(documents, _sum(passes.token_losses(layout), model, batches, layout, len(documents)))


def evaluator(
    documents: Documents, proportions: Mapping[str, float], *, context_length: int, batch_size: int, layout: Layout, bos: int
) -> Evaluator:
    """Return the training loop's evaluator: `(step, model, pause) -> {"bpb/<domain>", "loss/<domain>", "bpb"}`.

    `pause` is called before each batch. `bpb` is the mean weighted by `proportions` over the domains of `documents`. Windows are cut once.
    """
    batches, token_losses = prepare(documents, context_length, batch_size, layout, bos), passes.token_losses(layout)
    shares = {domain: proportions[domain] for domain in documents}

    def evaluate(step: int, model: Transformer, pause: Callable[[], None]) -> dict[str, float]:
        del step  # the loop records it
        scores = _scores(documents, _sum(token_losses, model, pausing(batches, pause), layout, len(documents)))
        figures = {f"bpb/{domain}": known.bpb for domain, known in scores.items()}
        figures |= {f"loss/{domain}": known.loss for domain, known in scores.items()}
        return figures | {"bpb": weights.mean({domain: known.bpb for domain, known in scores.items()}, shares)}

    return evaluate


def pausing(items: Iterable[Item], pause: Callable[[], None]) -> Iterator[Item]:
    """Yield the items, with a call of `pause` before each."""
    for item in items:
        pause()
        yield item


def prepare(documents: Documents, context_length: int, batch_size: int, layout: Layout, bos: int) -> list[windows.Batch]:
    """Return the windows of all domains in common batches, so that few rows are padding; owners number the domains in order.

    Raises:
        UserError: a domain has no token to score, or no byte to divide by.
    """
    for domain, held_out in documents.items():
        tokens, num_bytes = sum(len(document.tokens) for document in held_out), sum(document.num_bytes for document in held_out)
        if not (tokens and num_bytes):
            raise UserError(
                f"got {domain} to measure, with {tokens:,} token(s) of {num_bytes:,} byte(s); allowed: at least one of each; "
                "give it other text, or leave it out"
            )
    cut = [
        window
        for owner, held_out in enumerate(documents.values())
        for document in held_out
        for window in windows.cut(document.tokens, context_length, owner, bos=bos)
    ]
    return windows.batches(cut, context_length, batch_size, multiple=layout.data * layout.pipe, length_multiple=layout.sequence_shards)


def _sum(
    token_losses: Callable[[Transformer, Any, Any], Any],
    model: Transformer,
    batches: Iterable[windows.Batch],
    layout: Layout,
    num_domains: int,
) -> np.ndarray:
    """Return the summed losses of each domain in float64: float32 would lose digits after some 10 million tokens."""
    nats, (part, parts) = np.zeros(num_domains), device_mesh.data_share(layout.mesh)
    for batch in batches:
        rows = len(batch.tokens_BT)
        own = slice(rows // parts * part, rows // parts * (part + 1))
        tokens_BT, targets_BT = layout.place_batch((batch.tokens_BT[own], batch.targets_BT[own]), rows)
        losses_BT = np.asarray(token_losses(model, tokens_BT, targets_BT))
        np.add.at(nats, batch.owners_B, losses_BT.sum(axis=1, where=batch.counts_BT, dtype=np.float64))
    return nats


def _scores(documents: Documents, nats: np.ndarray) -> dict[str, BitsPerByte]:
    return {
        domain: BitsPerByte(nats=float(total), tokens=sum(len(d.tokens) for d in held_out), num_bytes=sum(d.num_bytes for d in held_out))
        for (domain, held_out), total in zip(documents.items(), nats, strict=True)
    }
