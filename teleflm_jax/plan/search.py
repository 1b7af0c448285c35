"""Search for the fastest layout that fits: every mesh, microbatch size and remat policy for a number of GPUs, in closed form."""

import dataclasses
import math
from collections.abc import Iterator

from sharding import axes, rules
from sharding.config import MeshConfig
from teleflm_jax.errors import UserError
from teleflm_jax.model.config import REMAT, ModelConfig
from teleflm_jax.plan import memory, roofline
from teleflm_jax.plan.config import ClusterConfig, PlanConfig
from teleflm_jax.plan.job import Job
from teleflm_jax.plan.memory import Memory
from teleflm_jax.train import step as train_step
from teleflm_jax.train.config import TrainConfig

LARGEST_INTERLEAVE = 8
LARGEST_MICROBATCH = 16
SHARDED = (1, 3)
MESH = (*axes.NAMES, "interleave", "sequence_parallel", "zero")

FOLLOWS = {f"mesh.{axes.REMAINDER}"}
"""Settings that follow from the others and the number of GPUs, so that a change of them does not count."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A layout with its closed forms."""

    job: Job
    memory: Memory
    times: roofline.Times


def assess(job: Job, cluster: ClusterConfig, plan: PlanConfig) -> Candidate:
    """Return a layout with its memory and time."""
    return Candidate(job=job, memory=memory.closed_form(job), times=roofline.predict(job, cluster, plan))


def fits(needed: Memory, cluster: ClusterConfig, plan: PlanConfig, spare: float = 0.0) -> bool:
    """Return True if one GPU holds it with the allowance, and the share `spare` of its memory stays free."""
    return needed.total + plan.allowance_bytes <= cluster.memory_bytes * (1 - spare)


def jobs(model: ModelConfig, train: TrainConfig, mesh: MeshConfig, gpus: int) -> Iterator[Job]:
    """Yield every layout over all GPUs that model and batch divide over; sequence parallelism is as in `mesh`."""
    for other in _meshes(model, mesh, gpus):
        rows = train.batch_size // math.prod(axes.sizes(other)[name] for name in axes.ROWS)
        for microbatch in {*_divisors(rows, LARGEST_MICROBATCH), train.microbatch_size or rows}:
            settings = dataclasses.replace(train, microbatch_size=microbatch)
            try:
                train_step.microbatch(model, settings, rules.without_devices(other, model.d_model))
            except UserError:  # sizes do not divide
                continue
            for remat in REMAT:
                yield Job(
                    model=dataclasses.replace(model, remat=remat),
                    mesh=other,
                    batch_size=train.batch_size,
                    microbatch_size=microbatch,
                    accumulation_dtype=train.accumulation_dtype,
                )


def ranked(
    model: ModelConfig, train: TrainConfig, mesh: MeshConfig, gpus: int, cluster: ClusterConfig, plan: PlanConfig
) -> tuple[list[Candidate], int]:
    """Return the layouts that fit, fastest first, and the number of all layouts.

    Raises:
        UserError: no layout divides the sizes, or none fits.
    """
    every = [assess(job, cluster, plan) for job in jobs(model, train, mesh, gpus)]
    if not every:
        raise UserError(
            f"got {gpus} GPUs for {model.num_layers} layers, {model.num_heads} heads and train.batch_size={train.batch_size}; "
            "allowed: a number over which some mesh divides all three; change --gpus or train.batch_size"
        )
    fitting = [candidate for candidate in every if fits(candidate.memory, cluster, plan, plan.spare)]
    if not fitting:
        least = min(candidate.memory.total for candidate in every) + plan.allowance_bytes
        raise UserError(
            f"got {gpus} GPUs of {cluster.memory_bytes / 1e9:.1f} GB, where the leanest of {len(every):,} layouts takes "
            f"{least / 1e9:.1f} GB; allowed: layouts with {plan.spare:.0%} free (plan.spare); change --gpus, train.batch_size or --cluster"
        )
    return sorted(fitting, key=lambda candidate: candidate.times.step), len(every)


def remedies(job: Job, cluster: ClusterConfig, plan: PlanConfig) -> list[Candidate]:
    """Return layouts that differ in one respect (remat, microbatch, one axis against `data`, ZeRO) and fit, fastest first."""
    train = TrainConfig(
        steps=1, batch_size=job.batch_size, microbatch_size=int(job.microbatch_size), accumulation_dtype=job.accumulation_dtype
    )
    near = [
        assess(other, cluster, plan)
        for other in jobs(job.model, train, job.mesh, job.devices)
        if len(changes(job, other).keys() - FOLLOWS) == 1
    ]
    return sorted(
        (candidate for candidate in near if fits(candidate.memory, cluster, plan, plan.spare)), key=lambda candidate: candidate.times.step
    )


def bindings(job: Job) -> dict[str, object]:
    """Return the gin bindings of a layout."""
    mesh = {f"mesh.{name}": getattr(job.mesh, name) for name in MESH}
    return {**mesh, "train.microbatch_size": job.microbatch_size, "model.remat": job.model.remat}


def changes(job: Job, other: Job) -> dict[str, object]:
    """Return the bindings of another layout that differ from this one's."""
    own = bindings(job)
    return {name: value for name, value in bindings(other).items() if value != own[name]}


def _meshes(model: ModelConfig, mesh: MeshConfig, gpus: int) -> Iterator[MeshConfig]:
    for tensor in _divisors(gpus, model.num_kv_heads):
        for pipe in _divisors(gpus // tensor, model.num_layers):
            data = gpus // tensor // pipe
            chunks = {*_divisors(model.num_layers // pipe, LARGEST_INTERLEAVE), mesh.interleave} if pipe > 1 else {1}
            for interleave in chunks:
                for zero in {*SHARDED, mesh.zero} if data > 1 else {mesh.zero}:
                    sizes = {axes.DATA: data, axes.PIPE: pipe, axes.TENSOR: tensor}
                    yield MeshConfig(**sizes, interleave=interleave, sequence_parallel=mesh.sequence_parallel, zero=zero)


def _divisors(number: int, largest: int) -> list[int]:
    return [n for n in range(1, min(number, largest) + 1) if number % n == 0]
