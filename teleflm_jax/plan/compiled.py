"""Figures of the compiled training step: memory by kind, traffic by mesh axis, matrix products."""

import collections
import dataclasses
import functools
import operator
import time

import jax
import jax.numpy as jnp

from sharding import rules
from teleflm_jax import mup
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.model.transformer import Multipliers
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.plan import hlo
from teleflm_jax.plan.job import Job
from teleflm_jax.plan.memory import Memory
from teleflm_jax.train import step as train_step
from teleflm_jax.train.config import TrainConfig
from teleflm_jax.train.state import new_state

HLO_TYPES = {"float32": "f32", "bfloat16": "bf16"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """The compiler's figures for one device; with a pipeline, for the layers of a stage plus embedding and head."""

    seconds: float
    """Compilation time."""
    memory: Memory
    sent: dict[tuple[str, str], float]
    """(mesh axes, kind of collective) -> bytes per step."""
    product_flops: float
    """FLOPs of all matrix products of a step."""
    beside: list[hlo.Overlap]
    """Work scheduled during asynchronous collectives; empty where the compiler makes none asynchronous (on a CPU)."""
    attention_runs: float
    """Forward runs of the attention kernel in a step; 0 if attention is not a kernel of its own."""


def trace(
    model: ModelConfig, rule: mup.MupConfig, optimizer: OptimizerConfig, train: TrainConfig, layout: rules.Layout
) -> jax.stages.Traced:
    """Trace the training step from shapes alone: the step of `train.step.make`, called as `train.loop` calls it."""
    width = mup.at_width(rule, model.d_model)
    state = jax.eval_shape(lambda: layout.to_runtime(new_state(model, width, 0)))
    state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, layout.shardings(state))
    rows = jax.sharding.NamedSharding(layout.mesh, rules.BATCH)
    shape = (train.batch_size, model.context_length)
    kinds = {"tokens": jnp.int32, "targets": jnp.int32, "segments": jnp.int32, "weights": jnp.float32}
    batch = {name: jax.ShapeDtypeStruct(shape, kind, sharding=rows) for name, kind in kinds.items()}
    every_device = jax.sharding.NamedSharding(layout.mesh, rules.PER_DEVICE)
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    inputs = train_step.StepInputs(
        rates={role: jax.ShapeDtypeStruct((train_step.RATE_CANDIDATES,), jnp.float32) for role in width.rules},
        multipliers=Multipliers(input=scalar, output=scalar),
        clip_norm=scalar,
        weight_decay=scalar,
        updates=jax.ShapeDtypeStruct((), jnp.int32),
        host_signals=jax.ShapeDtypeStruct((layout.mesh.size, len(train_step.HOST_SIGNALS)), jnp.float32, sharding=every_device),
        check_copies=jax.ShapeDtypeStruct((), jnp.bool_),
    )
    microbatch = train_step.microbatch(model, train, layout)
    return train_step.make(optimizer, layout, microbatch, train.accumulation_dtype).trace(state, batch, inputs)


def compile_step(traced: jax.stages.Traced, job: Job, layout: rules.Layout) -> Compiled:
    """Compile the step and extract its figures."""
    began = time.perf_counter()
    compiled = traced.lower().compile()
    seconds, program = time.perf_counter() - began, hlo.Program(compiled.as_text() or "", layout.mesh, turns(job))
    stats = compiled.memory_analysis()
    assert stats is not None  # XLA's compilers for CPUs and GPUs have one
    state = traced.in_avals[0][0]
    return Compiled(
        seconds=seconds,
        memory=_by_kind(program, job, _of_weights(state.model, job, layout), stats.argument_size_in_bytes, stats.temp_size_in_bytes),
        sent=program.sent(),
        beside=program.beside(),
        product_flops=program.product_flops(),
        attention_runs=program.kernel_runs("__cudnn$fmhaSoftmax"),
    )


def turns(job: Job) -> dict[str, float]:
    """Return the mean iterations per tick of loops whose length depends on the stage, by named scope; for a stage that runs them."""
    ticks = job.schedule.ticks
    return {
        "head": job.microbatches / ticks,
        "embedding": job.microbatches / ticks,
        "layers": job.microbatches * job.layers / ticks,
    }


def _by_kind(program: hlo.Program, job: Job, of_weights: dict[str, list[hlo.Shape]], arguments: int, temporary: int) -> Memory:
    """Split the compiler's totals into kinds by the arrays that its loops carry.

    Residuals have the leading dimensions (slots, layers of a chunk); accumulators and working weights are recognised by their shapes.
    """
    loops = program.loops() or [
        collections.Counter()
    ]  # the compiler unrolls loops of one iteration; the arrays that they carried count as temporary
    kept = (job.schedule.slots, job.layers // job.mesh.interleave)
    activations = sum(hlo.nbytes(shape) * count for shape, count in loops[0].items() if shape[1][:2] == kept and len(shape[1]) > 3)
    there = functools.reduce(operator.or_, loops)  # of a single microbatch no one loop has all weights
    found = {}
    for kind, shapes in of_weights.items():
        own = collections.Counter(shapes) & there
        there -= own
        found[kind] = sum(hlo.nbytes(shape) * count for shape, count in own.items())
    return Memory(state=arguments, **found, activations=activations, temporaries=temporary - activations - sum(found.values()))


def _of_weights(model: object, job: Job, layout: rules.Layout) -> dict[str, list[hlo.Shape]]:
    """Return the shapes on one device of the accumulators, and of the working weights that differ from the master weights."""
    found: dict[str, list[hlo.Shape]] = {"gradients": [], "weights": []}

    def visit(x, axes):
        local = jax.sharding.NamedSharding(layout.mesh, layout.spec(axes, x.ndim)).shard_shape(x.shape)
        width = x.ndim - len(axes) + axes.index("embed")
        split = layout.zero == 3 and x.ndim > len(axes)
        of_width = lambda n: local if split else (*local[:width], n, *local[width + 1 :])  # noqa: E731
        found["gradients"].append((HLO_TYPES[job.accumulation_dtype], of_width(layout.padded_width)))
        dtype = job.model.compute_dtype if len(axes) > 1 else "float32"
        if dtype != "float32" or (layout.zero_shards > 1 and not split):
            found["weights"].append((HLO_TYPES[dtype], of_width(layout.width)))
        return x

    rules.map_with_axes(visit, model)
    return found
