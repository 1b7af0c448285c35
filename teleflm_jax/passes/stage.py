"""One device's part of a pass: its weights, its microbatches, and the schedule that it follows."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from sharding import pipeline, zero
from sharding.rules import Layout
from teleflm_jax.model.layers import Rope, rope_tables
from teleflm_jax.model.transformer import Block, Multipliers, Transformer
from teleflm_jax.objectives.objective import Head
from teleflm_jax.passes.indexing import at, length

Batch = Mapping[str, jax.Array]
"""`tokens`, `targets`, `segments` int32 and `weights` float32, each [B, T] (docs/architecture.md), and further arrays [B, …] for an
objective that reads them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """State of one device that all units of a pass share."""

    layout: Layout
    weights: Transformer
    """Working weights (`zero.working`)."""
    batch: Batch
    """This device's rows, [microbatches, B, …]."""
    schedule: pipeline.PipelineSchedule
    rope: Rope
    multipliers: Multipliers

    @property
    def chunk_layers(self) -> int:
        """Layers of a unit."""
        return length(self.weights.blocks) // self.schedule.chunks

    @property
    def head(self) -> Head:
        """The head, as objectives take it."""
        config = self.weights.config
        chunk, group = config.loss_chunk_tokens, self.layout.group
        return Head(weight_DV=self.weights.head[...], vocab_size=config.vocab_size, chunk=chunk, group=group)

    @property
    def handed_over(self) -> jax.Array:
        """Zeros of the shape and dtype that units hand over, [B, T, D]."""
        rows, positions = self.batch["tokens"].shape[1:]
        return jnp.zeros((rows, positions // self.layout.sequence_shards, self.layout.width), self.weights.config.compute_dtype)

    def microbatch(self, unit: pipeline.Unit) -> Batch:
        """Return the microbatch of a unit."""
        return at(self.batch, unit.microbatch)

    def constants(self, unit: pipeline.Unit) -> tuple[Rope, jax.Array | None]:
        """Return the inputs that all layers of a unit share: rotary tables, and segments under `document_attention`."""
        masked = self.weights.config.document_attention
        return self.rope, at(self.batch["segments"], unit.microbatch) if masked else None

    def input(self, unit: pipeline.Unit, x_BTD: jax.Array) -> Callable[[Callable[[], jax.Array]], jax.Array]:
        """Return a `Traversal.embed`: the embedding on the first stage's first chunk, else the output of the stage before."""
        return lambda embed: embed() if unit.first is True else jax.lax.cond(unit.first, embed, lambda: x_BTD)

    def fetch(self, index: Any) -> Block:
        """Return the weights of a layer as they are used; under ZeRO 3 this gathers them."""
        return zero.layer(self.layout, at(self.weights.blocks, index))

    def fetch_ahead(self, ready: Any, index: Any, following: Any) -> tuple[Block, Any]:
        """Return the weights of layer `index`, and `ready` for the next call.

        Under ZeRO 3, `ready` holds gathered weights: those of layer `following` are gathered while layer `index` runs.
        """
        return (ready, self.fetch(following)) if zero.gathers_layers(self.layout) else (self.fetch(index), ready)


def stage(layout: Layout, model: Transformer, multipliers: Multipliers, batch: Batch, microbatch_size: int) -> Stage:
    """Gather working weights and split this device's rows into microbatches; runs inside the manual region."""
    batch = jax.tree.map(lambda x: x.reshape(-1, microbatch_size, *x.shape[1:]), dict(batch))
    count, _, positions = batch["tokens"].shape
    return Stage(
        layout=layout,
        weights=zero.working(layout, model, model.config.compute_dtype),
        batch=batch,
        schedule=pipeline.PipelineSchedule(stages=layout.pipe, chunks=layout.interleave, microbatches=count),
        rope=rope_tables(jnp.arange(positions)[None], model.config),
        multipliers=multipliers,
    )
