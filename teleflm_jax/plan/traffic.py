"""Traffic of one GPU in a step, in closed form: bytes by mesh axis and collective, and the rate of each axis.

`hlo.py` reads the same from a compiled program; both agree within 5 % (tests/plan). Derivation in docs/parallelism.md.
"""

import dataclasses
import math

from sharding import axes
from sharding.axes import PIPE, TENSOR
from sharding.config import MeshConfig
from teleflm_jax.plan.config import ClusterConfig, PlanConfig
from teleflm_jax.plan.job import FLOAT, Job, ring

GATHER, SCATTER, REDUCE, PERMUTE = "all-gather", "reduce-scatter", "all-reduce", "collective-permute"
TENSOR_PASSES = {"none": (4, 4), "qkv_gate_up": (6, 4), "qkv": (6, 4), "full": (6, 5)}
"""Remat policy -> gathers and reduce-scatters of the residual stream in one layer for one microbatch, forward and backward."""
TENSOR_SUMS = {"none": 4, "qkv_gate_up": 4, "qkv": 4, "full": 5}
"""Remat policy -> all-reduces in their place without sequence parallelism."""


def closed_form(job: Job) -> dict[tuple[str, str], float]:
    """Return (mesh axis, kind of collective) -> bytes that one device of a ring sends in one step, with embedding and head."""
    found = _over_data(job) | _over_pipe(job) | _over_tensor(job)
    return {key: size for key, size in found.items() if size}


def _over_data(job: Job) -> dict[tuple[str, str], float]:
    layers, ends = job.layers * job.layer_weights * job.padding, 2 * job.end_weights * job.padding
    over = joint(axes.ZERO, job.mesh)
    share, c, k = ring(job.zero_shards), job.compute_bytes, job.accumulator_bytes
    if job.mesh.zero == 0:  # with a pipeline the GPU compiler joins the sums of embedding and head over data and pipe, and sends less
        return {(over, REDUCE): 2 * share * k * (layers + ends)}
    if job.mesh.zero == 1:
        return {(over, GATHER): share * c * (layers + ends), (over, SCATTER): share * k * (layers + ends)}
    # one layer more than runs: weights are gathered one layer ahead, and gradients are sent one layer behind
    turns = job.microbatches * layers + job.layer_weights * job.padding
    return {(over, GATHER): share * c * (2 * turns + ends), (over, SCATTER): share * k * (turns + ends)}


def _over_pipe(job: Job) -> dict[tuple[str, str], float]:
    if job.mesh.pipe == 1:
        return {}
    handed = job.compute_bytes * job.positions * job.model.d_model / job.sequence_shards
    ends = 2 * job.end_weights * (job.padding / job.zero_shards if job.mesh.zero else 1)
    return {(PIPE, PERMUTE): 2 * job.schedule.ticks * handed, (PIPE, REDUCE): 2 * ring(job.mesh.pipe) * FLOAT * ends}


def _over_tensor(job: Job) -> dict[tuple[str, str], float]:
    one = ring(job.mesh.tensor) * job.compute_bytes * job.positions * job.model.d_model
    units, ends = job.microbatches * job.layers, 2 * job.microbatches
    loss = 2 * 3 * FLOAT * ring(job.mesh.tensor) * job.positions * job.microbatches
    if not job.mesh.sequence_parallel:
        return {(TENSOR, REDUCE): 2 * one * (TENSOR_SUMS[job.model.remat] * units + ends) + loss}
    gathers, scatters = TENSOR_PASSES[job.model.remat]
    sent = {GATHER: one * (gathers * units + ends), SCATTER: one * (scatters * units + ends), REDUCE: loss}
    return {(TENSOR, kind): size for kind, size in sent.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Path:
    """Placement of a mesh axis's groups on the nodes."""

    members: int
    """Smallest number of devices of a group on one node."""
    crosses_nodes: bool

    def rate(self, cluster: ClusterConfig, plan: PlanConfig, kind: str = GATHER) -> float:
        """Return the bytes/s of each device: NVLink's, or between nodes those of as many adapters as a ring has members on a node.

        A collective-permute uses one adapter: only one member of a group on a node sends to another node.
        """
        inside = cluster.link_rate * plan.link_efficiency
        adapters = 1 if kind == PERMUTE else self.members
        return min(inside, adapters * cluster.network_rate * plan.network_efficiency) if self.crosses_nodes else inside


def joint(names: tuple[str, ...], mesh: MeshConfig) -> str:
    """Return the name of a collective's mesh axes, such as `data+pipe`: those of more than one device, or the first."""
    return "+".join(name for name in names if axes.sizes(mesh)[name] > 1) or names[0]


def path(axis: str, mesh: MeshConfig, gpus_per_node: int) -> Path:
    """Return the placement of the groups of one axis, or of several adjacent ones, which follows from `axes.DEVICE_ORDER`."""
    sizes, names = axes.sizes(mesh), axis.split("+")
    fastest = max(axes.DEVICE_ORDER.index(name) for name in names)
    inner = math.prod(sizes[name] for name in axes.DEVICE_ORDER[fastest + 1 :])
    size, devices = math.prod(sizes[name] for name in names), math.prod(sizes.values())
    inside = size == 1 or devices <= gpus_per_node or gpus_per_node % (inner * size) == 0
    # a group that does not line up with the nodes may have a single member on some
    members = math.gcd(gpus_per_node // inner, size) if gpus_per_node % inner == 0 else 1
    return Path(members=size if inside else members, crosses_nodes=not inside)
