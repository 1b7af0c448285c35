"""Bits per byte of a model on held-out documents, by domain.

BPB = nats / ln 2 / UTF-8 bytes. Each document stands alone behind `<s>`, which is no byte; `</s>` is not scored.

Source: report, section 4; the windows (`windows.py`) are our choice, since the report does not say.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sharding import rules
from teleflm_jax.evaluate import weights, windows
from teleflm_jax.losses import token_losses
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.records import HeldOut

Evaluator = Callable[[int, Transformer], dict[str, float]]
Documents = Mapping[str, Sequence[HeldOut]]
"""Domain -> its documents, with at least one token."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """What a domain's documents cost."""

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
    mesh: jax.sharding.Mesh,
    watch: Callable[[Sequence[windows.Batch]], Iterable[windows.Batch]] = iter,
) -> dict[str, Score]:
    """Score every domain.

    Args:
        model: its weights whole on every device of the mesh.
        documents: the same on every process.
        batch_size: windows of the context length per forward pass, over all devices; rounded up to what they can share.
        mesh: devices that split each batch.
        watch: gets all batches and yields them one by one, such as a progress bar.
    """
    batches = watch(prepare(documents, model.config.context_length, batch_size, mesh))
    return _scores(documents, _sum(model, batches, mesh, len(documents)))


def evaluator(
    documents: Documents, proportions: Mapping[str, float], *, context_length: int, batch_size: int, mesh: jax.sharding.Mesh
) -> Evaluator:
    """What the training loop calls: `(step, model) -> {"bpb/<domain>", "loss/<domain>", "bpb"}`.

    `bpb` is the mean weighted by `proportions` over the domains of `documents`. Windows are cut once.
    """
    batches = prepare(documents, context_length, batch_size, mesh)
    shares = {domain: proportions[domain] for domain in documents}

    def evaluate(step: int, model: Transformer) -> dict[str, float]:
        del step  # the loop records it
        scores = _scores(documents, _sum(model, batches, mesh, len(documents)))
        figures = {f"bpb/{domain}": known.bpb for domain, known in scores.items()}
        figures |= {f"loss/{domain}": known.loss for domain, known in scores.items()}
        return figures | {"bpb": weights.mean({domain: known.bpb for domain, known in scores.items()}, shares)}

    return evaluate


def prepare(documents: Documents, context_length: int, batch_size: int, mesh: jax.sharding.Mesh) -> list[windows.Batch]:
    """All domains' windows in common batches, so that few rows are padding; owners number the domains in the order of `documents`."""
    cut = [
        window
        for owner, held_out in enumerate(documents.values())
        for document in held_out
        for window in windows.cut(document.tokens, context_length, owner)
    ]
    return windows.batches(cut, context_length, batch_size, multiple=mesh.size)


@functools.partial(jax.jit, static_argnames="mesh")
def token_nats(model: Transformer, tokens_BT: jax.Array, targets_BT: jax.Array, *, mesh: jax.sharding.Mesh) -> jax.Array:
    """Loss of every target, float32 [B, T]; devices share the rows, and every process gets all losses."""
    z_BTD = model.hidden(tokens_BT, jnp.ones_like(tokens_BT))  # one document per row
    losses_BT = token_losses(z_BTD, model.head[...], targets_BT, model.config.loss_chunk_tokens)
    return jax.lax.with_sharding_constraint(losses_BT, rules.replicated(mesh))


def _sum(model: Transformer, batches: Iterable[windows.Batch], mesh: jax.sharding.Mesh, num_domains: int) -> np.ndarray:
    """Summed losses of each domain, in float64: float32 would lose digits after some 10 million tokens."""
    nats = np.zeros(num_domains)
    for batch in batches:
        tokens_BT, targets_BT = rules.place_batch((_own_rows(batch.tokens_BT), _own_rows(batch.targets_BT)), mesh)
        losses_BT = np.asarray(token_nats(model, tokens_BT, targets_BT, mesh=mesh))
        np.add.at(nats, batch.owners_B, losses_BT.sum(axis=1, where=batch.counts_BT, dtype=np.float64))
    return nats


def _own_rows(x_BT: np.ndarray) -> np.ndarray:
    """This process's rows of a batch that every process has whole."""
    share = len(x_BT) // jax.process_count()
    return x_BT[jax.process_index() * share :][:share]


def _scores(documents: Documents, nats: np.ndarray) -> dict[str, Score]:
    return {
        domain: Score(nats=float(total), tokens=sum(len(d.tokens) for d in held_out), num_bytes=sum(d.num_bytes for d in held_out))
        for (domain, held_out), total in zip(documents.items(), nats, strict=True)
    }
