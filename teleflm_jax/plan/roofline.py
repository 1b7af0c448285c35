"""Time of a step: a roofline of matrix products, attention, memory and links, and the pipeline's bubble (docs/plan.md)."""

import dataclasses
from collections.abc import Mapping

from sharding.axes import NAMES, PIPE, TENSOR, ZERO
from teleflm_jax.model import size
from teleflm_jax.plan import traffic
from teleflm_jax.plan.config import ClusterConfig, PlanConfig
from teleflm_jax.plan.job import FLOAT, Job, ring

DAY = 86_400.0
Sent = Mapping[tuple[str, str], float]
"""(mesh axes, kind of collective) -> bytes."""
SCORE_PASSES = 16
"""Reads and writes of float32 scores by the `xla` attention, forward and backward; a fused kernel keeps them on the chip."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of one step on the busiest GPU; they add up to the step."""

    products: float
    """Matrix products of forward and backward, head included."""
    recomputation: float
    """Matrix products and attention that are recomputed."""
    attention: float
    elementwise: float
    """Norms, rotary positions, activations, losses, gradient accumulation: bound by memory."""
    tensor: float
    """Exposed traffic over `tensor`."""
    pipe: float
    """Transfers between stages."""
    data: float
    """Exposed gathers of weights and reduce-scatters of gradients."""
    update: float
    """The optimizer, and allocating and clearing accumulators."""
    bubble: float
    """Idle time of stages at the first and the last microbatches."""

    @property
    def step(self) -> float:
        """Seconds of the whole step."""
        return sum(dataclasses.astuple(self))


def predict(job: Job, cluster: ClusterConfig, plan: PlanConfig, sent: Sent | None = None) -> Times:
    """Return the seconds of one step by kind; `sent` is the traffic of a compiled program, in place of the closed form."""
    seconds = _sending(sent or traffic.closed_form(job), job, cluster, plan)
    units, microbatches = job.microbatches * job.layers, job.microbatches
    work, head = _layer(job, cluster, plan), _head(job, cluster, plan)
    work[TENSOR] = seconds[TENSOR] / units * (1 - plan.tensor_overlap)
    at_once = seconds[ZERO[0]] - seconds["layers"]
    waiting = seconds["layers"] / units
    waiting -= plan.layer_overlap * min(waiting, sum(work.values()))
    unit = (sum(work.values()) + waiting) * job.layers
    total = {name: units * value + microbatches * head.get(name, 0.0) for name, value in work.items()}
    return Times(
        **total,
        data=units * waiting + at_once,
        pipe=seconds[PIPE],
        update=_update_bytes(job) / (cluster.memory_rate * plan.memory_efficiency),
        bubble=(job.mesh.pipe - 1) / job.mesh.interleave * unit,
    )


def _sending(sent: Sent, job: Job, cluster: ClusterConfig, plan: PlanConfig) -> dict[str, float]:
    """Return the seconds of sending over each axis, and under `layers` the part over `data` that belongs to layers (ZeRO 3).

    A message over several axes counts for the first of them.
    """
    found, zero = dict.fromkeys(NAMES, 0.0), traffic.joint(ZERO, job.mesh)
    for (axes, kind), bytes_ in sent.items():
        axis = next((axis for axis in found if axis in axes.split("+")), None)
        if axis:
            along = zero if axis in ZERO else axis
            found[ZERO[0] if axis in ZERO else axis] += bytes_ / traffic.path(along, job.mesh, cluster.gpus_per_node).rate(
                cluster, plan, kind
            )
    ends = (job.compute_bytes + job.accumulator_bytes) * 2 * job.end_weights * ring(job.zero_shards)
    over_ends = ends / traffic.path(zero, job.mesh, cluster.gpus_per_node).rate(cluster, plan)
    return {**found, "layers": max(0.0, found[ZERO[0]] - over_ends) if job.mesh.zero == 3 else 0.0}


def product_flops(job: Job) -> tuple[float, float]:
    """Return the FLOPs of matrix products of one device in one step: of forward and backward, and of recomputation."""
    useful = 6 * job.positions * job.microbatches * (job.layers * job.layer_weights + job.end_weights)
    return useful, 2 * job.positions * job.microbatches * job.layers * _again(job)


def _again(job: Job) -> float:
    """Return the number of a layer's weights whose products are recomputed: all but the last product's, gate and up, or none."""
    fed = job.model.d_model * job.model.d_ff / job.mesh.tensor
    return {"none": 0.0, "qkv_gate_up": 0.0, "qkv": 2 * fed, "full": job.layer_weights - fed}[job.model.remat]


def _layer(job: Job, cluster: ClusterConfig, plan: PlanConfig) -> dict[str, float]:
    """Return the seconds of one layer for one microbatch, forward and backward."""
    model, t = job.model, job.mesh.tensor
    products, kernel = cluster.bf16_flops * cluster.product_efficiency, cluster.bf16_flops * cluster.attention_efficiency
    # queries times keys and weights times values, halved by a causal mask; a backward pass does five such products
    scores = 2 * job.positions * model.context_length * model.d_model / t
    again = scores / kernel if model.remat != "none" else 0.0
    return {
        "products": 6 * job.positions * job.layer_weights / products,
        "recomputation": 2 * job.positions * _again(job) / products + again,
        "attention": 3.5 * scores / kernel,
        "elementwise": _layer_bytes(job) / (cluster.memory_rate * plan.memory_efficiency),
    }


def _layer_bytes(job: Job) -> float:
    """Return the bytes that elementwise work of one layer reads and writes for one microbatch, forward and backward."""
    model, c, t = job.model, job.compute_bytes, job.mesh.tensor
    stream = 10 * model.d_model / job.sequence_shards
    inside = (2 * (model.d_model + job.kv_width) + 3 * model.d_ff) / t
    passes = 3 + (model.remat != "none")
    scores = SCORE_PASSES * FLOAT * model.num_heads * model.context_length / 2 / t if model.attention == "xla" else 0.0
    gradients = (c + 2 * job.accumulator_bytes) * job.layer_weights
    return job.positions * (passes * c * (stream + inside) + scores) + gradients


def _head(job: Job, cluster: ClusterConfig, plan: PlanConfig) -> dict[str, float]:
    """Return the seconds of the head and its loss for one microbatch."""
    chunks = max(1.0, job.model.context_length / job.model.loss_chunk_tokens)
    logits = job.positions * job.end_weights / job.model.d_model
    moved = (4 * FLOAT + job.compute_bytes) * logits + 4 * FLOAT * chunks * job.end_weights
    return {
        "products": 6 * job.positions * job.end_weights / (cluster.bf16_flops * cluster.product_efficiency),
        "elementwise": moved / (cluster.memory_rate * plan.memory_efficiency),
    }


def _update_bytes(job: Job) -> float:
    """Return the bytes moved once a step: weights, moments, gradients, copies, and clearing and reordering accumulators."""
    layers, ends = job.layers * job.layer_weights, 2 * job.end_weights
    share = 1 / job.zero_shards if job.mesh.zero else 1.0
    held = layers * (share if job.mesh.zero == 3 else 1.0) + ends
    return 7 * FLOAT * (layers + ends) * share + (job.compute_bytes + 3 * job.accumulator_bytes) * held


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast:
    """Speed and cost that follow from the time of a step."""

    tokens_per_second_per_gpu: float
    mfu: dict[str, float]
    """Convention (`model.size.flops_per_token`) -> MFU."""
    days: float
    gpu_hours: float
    megawatt_hours: float | None
    """None if the cluster's power is not given."""


def forecast(job: Job, times: Times, cluster: ClusterConfig, plan: PlanConfig, tokens: float) -> Forecast:
    """Return speed, utilisation, and the cost of a run of `tokens` tokens."""
    speed = job.tokens / times.step / job.devices
    counts = size.flops_per_token(job.model)
    seconds = tokens / (speed * job.devices) / plan.goodput
    hours = seconds / 3600 * job.devices
    return Forecast(
        tokens_per_second_per_gpu=speed,
        mfu={name: speed * flops / cluster.bf16_flops for name, flops in counts.items()},
        days=seconds / DAY,
        gpu_hours=hours,
        megawatt_hours=hours * cluster.watts / 1e6 if cluster.watts else None,
    )
