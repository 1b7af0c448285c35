"""Memory of one GPU in closed form, by kind; `compiled.py` has the compiler's figures.

Derivation in docs/plan.md. Letters: h width, f feed-forward, t tensor ways, c bytes of the compute dtype.
"""

import dataclasses

from teleflm_jax.model.attention import QUERY_BLOCK
from teleflm_jax.plan.job import FLOAT, Job


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one GPU by kind."""

    state: float
    """Master weights and optimizer moments, float32."""
    weights: float
    """Working copies in the compute dtype."""
    gradients: float
    """Gradient accumulators."""
    activations: float
    """Residuals kept for the backward pass."""
    temporaries: float
    """Temporary arrays of a layer or the head."""

    @property
    def total(self) -> float:
        """Sum of all kinds."""
        return sum(dataclasses.astuple(self))


def closed_form(job: Job) -> Memory:
    """Return the memory of the busiest GPU."""
    shards, c = job.zero_shards, job.compute_bytes
    layers, ends = job.layers * job.layer_weights, 2 * job.end_weights
    share = 1 / shards if job.mesh.zero else 1.0
    kept_layers = job.padding * share if job.mesh.zero == 3 else 1.0
    # float32 weights that nothing gathers are the master weights themselves
    copies_layers = c < FLOAT or (job.mesh.zero == 1 and shards > 1)
    copies_ends = c < FLOAT or (job.mesh.zero > 0 and shards > 1)
    weights = c * (layers * kept_layers * copies_layers + ends * copies_ends)
    gradients = job.accumulator_bytes * (layers * (kept_layers if job.mesh.zero == 3 else job.padding) + ends * job.padding)
    activations = job.schedule.slots * job.layers / job.mesh.interleave * residuals(job)
    return Memory(
        state=3 * FLOAT * (layers + ends) * job.padding * share,
        weights=weights,
        gradients=gradients,
        activations=activations,
        temporaries=max(_layer_work(job), _head_work(job), _finish_work(job, gradients) - weights - activations),
    )


def residuals(job: Job) -> float:
    """Return the bytes that one layer keeps of one microbatch under `model.remat`."""
    model, c, t = job.model, job.compute_bytes, job.mesh.tensor
    between = job.positions * model.d_model / job.sequence_shards
    qkv = job.positions * (model.d_model + 2 * job.kv_width) / t
    if model.remat == "full":
        return c * between
    if model.remat == "qkv":
        return c * (2 * between + qkv)
    gate_up = job.positions * 2 * model.d_ff / t
    if model.remat == "qkv_gate_up":
        return c * (2 * between + qkv + gate_up)
    norms = 4 * FLOAT * between
    entering = 2 * c * job.positions * model.d_model
    return norms + entering + c * 3 * gate_up + _attention_residuals(job, c * qkv)


def _attention_residuals(job: Job, qkv: float) -> float:
    """Return the bytes that attention keeps: its output and the kernel's residuals."""
    model, c, t = job.model, job.compute_bytes, job.mesh.tensor
    output = c * job.positions * model.d_model / t
    if model.attention == "cudnn":
        return output + qkv + FLOAT * job.positions * model.num_heads / t
    seen = (model.context_length + QUERY_BLOCK) / 2
    scores = model.num_heads * seen * (2 * FLOAT + 1 + (c if c < FLOAT else 0))
    blocks = 2 * c * job.kv_width * seen / QUERY_BLOCK + (c + FLOAT) * model.d_model + 2 * FLOAT * model.num_heads
    return output + job.positions * (scores + blocks) / t


RECOMPUTED = {"none": (3, 2), "qkv_gate_up": (6, 4), "qkv": (6, 6), "full": (9, 6)}
"""Remat policy -> arrays of width h and of width f that are alive in a layer's backward pass. Fitted to the compiler's allocations."""


def _layer_work(job: Job) -> float:
    """Return the temporaries of a layer's backward pass: recomputed values, incoming gradients, weights and their gradients.

    Under ZeRO 3 these include the gathered weights of two layers and the gradient of one.
    """
    model, c, t = job.model, job.compute_bytes, job.mesh.tensor
    wide, fed = RECOMPUTED[model.remat]
    values = c * job.positions * ((wide * model.d_model + fed * model.d_ff) / t + (2 * model.d_model if t > 1 else 0))
    scores = 3 * FLOAT * job.positions * model.num_heads * QUERY_BLOCK / t if model.attention == "xla" else 0.0
    return values + scores + (11 if job.mesh.zero == 3 else 6) * job.layer_weights


def _head_work(job: Job) -> float:
    """Return the temporaries of the loss: a chunk's logits and the head's gradient, with copies if the width is padded."""
    chunk = min(job.model.loss_chunk_tokens, job.model.context_length) * job.microbatch_size
    logits = FLOAT * chunk * job.end_weights / job.model.d_model
    return (
        (2 if job.padding > 1 else 1) * FLOAT * job.end_weights + 1.5 * logits + 2 * job.compute_bytes * job.positions * job.model.d_model
    )


def _finish_work(job: Job, gradients: float) -> float:
    """Return the bytes of accumulators reordered for the reduce-scatter, when weights and residuals are freed already."""
    return 0.75 * gradients if job.mesh.zero == 1 and job.zero_shards > 1 else 0.0
