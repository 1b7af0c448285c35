"""Estimates of a run's memory, traffic and time, from the closed forms and from the compiler, and their files."""

import dataclasses
import itertools
import json
import os
import pathlib
from typing import Any

import jax

from sharding import mesh as device_mesh
from sharding import rules
from teleflm_jax import atomic_write, config, invocation
from teleflm_jax.errors import UserError
from teleflm_jax.hardware import throughput
from teleflm_jax.plan import compiled, picture, report, target_devices
from teleflm_jax.plan import search as layouts
from teleflm_jax.plan.config import CLUSTERS, JSON, PICTURE, ClusterConfig, PlanConfig
from teleflm_jax.plan.job import Job
from teleflm_jax.runs.config import RunConfig
from teleflm_jax.train import step as train_step

TRIES = 4
"""Layouts that a search may compile and discard for each one that it keeps."""
HERE = "here"
"""The backend of `train.py --dry_run`: the devices that this process has."""
NOTES = {
    target_devices.GPU: "XLA's GPU compiler, for GPUs that are not here, under the flags that launch sets; its memory decides.",
    target_devices.CPU: "XLA's CPU compiler, for as many virtual devices, with model.attention = 'xla'. It has no flash attention, "
    "widens bfloat16 to float32 (weights, temporaries and traffic in bfloat16 may count double) and has other temporaries than a GPU. "
    "State, gradients, residuals and products are the real ones; the closed form decides what fits. For all of it (no GPU is "
    f"needed): {invocation.install('gpu')}.",
    HERE: "the compiler of the devices that this process has; its memory decides.",
}
DECISIVE = (target_devices.GPU, HERE)
"""Compilers whose memory decides whether a layout fits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """A run, and the cluster to plan it for."""

    run: RunConfig
    cluster: ClusterConfig
    plan: PlanConfig
    gpus: int
    backend: str

    @property
    def question(self) -> report.Question:
        """Return cluster, assumptions, and the tokens to reach."""
        tokens = self.plan.target_tokens or float(self.run.train.steps * self.run.train.batch_size * self.run.model.context_length)
        return report.Question(cluster=self.cluster, plan=self.plan, tokens=tokens)


def own_layout(request: PlanRequest) -> dict:
    """Estimate the run's own layout."""
    mesh = device_mesh.resolved(request.run.mesh, request.gpus)
    microbatch = train_step.microbatch(request.run.model, request.run.train, rules.without_devices(mesh, request.run.model.d_model))
    job = Job(
        model=request.run.model,
        mesh=mesh,
        batch_size=request.run.train.batch_size,
        microbatch_size=microbatch,
        accumulation_dtype=request.run.train.accumulation_dtype,
    )
    layout = _describe(layouts.assess(job, request.cluster, request.plan), request, compiling=True)
    needy = [] if layout["memory"]["fits"] else report.remedies(job, request.question)
    return {**_common(request), "layouts": [layout], "remedies": needy}


def search(request: PlanRequest, compiling: int, shown: int) -> dict:
    """Find the fastest layouts that fit, and compile the first `compiling` of them; those that the compiler refuses are counted.

    Raises:
        UserError: no layout divides or fits, or the compiler refuses `TRIES` times as many as it is to keep.
    """
    train_step.refuse_float16(request.run.model)
    found, count = layouts.ranked(request.run.model, request.run.train, request.run.mesh, request.gpus, request.cluster, request.plan)
    kept, refused, ahead = [], 0, iter(found)
    while len(kept) < compiling and refused < TRIES * compiling and (candidate := next(ahead, None)):
        described = _describe(candidate, request, compiling=True)
        if described["memory"]["spare"] >= request.plan.spare:
            kept.append(described)
        else:
            refused += 1
    if not kept:
        raise UserError(
            f"got {refused} layouts that leave less than {request.plan.spare:.0%} of the memory free by the compiler (plan.spare); "
            "allowed: layouts that leave it; change --gpus, train.batch_size or plan.spare"
        )
    kept.sort(key=lambda layout: layout["seconds"]["step"])
    kept += [_describe(candidate, request, compiling=False) for candidate in itertools.islice(ahead, max(0, shown - len(kept)))]
    return {**_common(request), "considered": count, "fitting": len(found), "refused": refused, "layouts": kept, "remedies": []}


def _common(request: PlanRequest) -> dict:
    return {"backend": request.backend, "note": NOTES[request.backend], "assumptions": report.assumptions(request.question)}


def this_machine() -> dict[str, Any]:
    """Describe the devices of this process as a cluster: a known card's rates from configs/clusters, or measured ones.

    A device's limit is its memory for arrays, so the plan needs no allowance.
    """
    device, local, total = jax.local_devices()[0], jax.local_device_count(), jax.device_count()
    known = [config.parse([str(path)], [], {"cluster": ClusterConfig})["cluster"] for path in sorted(CLUSTERS.glob("*.gin"))]
    card = next((cluster for cluster in known if cluster.gpu == throughput.card(device.device_kind)), None)
    per_node = local if local > 1 else min(total, card.gpus_per_node if card else 1)
    capacity = (device.memory_stats() or {}).get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / local
    if card is None:
        rate = throughput.memory_rate()
        measured: dict[str, Any] = {
            "bf16_flops": throughput.product_rate("bfloat16"),
            "memory_rate": rate,
            "link_rate": rate,
            "network_rate": rate,
        }
        card = ClusterConfig(gpu=device.device_kind, nodes=1, gpus_per_node=1, memory_bytes=1, **measured, product_efficiency=1.0)
    found = dataclasses.replace(card, nodes=-(-total // per_node), gpus_per_node=per_node, memory_bytes=float(capacity))
    return {"cluster": found, "plan": PlanConfig(allowance_bytes=0.0)}


def _describe(candidate: layouts.Candidate, request: PlanRequest, *, compiling: bool) -> dict:
    """Describe a layout by its closed forms and, if `compiling`, by the compiler."""
    found = _compile(candidate.job, request) if compiling else None
    return report.describe(candidate, request.question, found, trusted=request.backend in DECISIVE)


def _compile(job: Job, request: PlanRequest) -> compiled.Compiled:
    model = job.model if request.backend != target_devices.CPU else dataclasses.replace(job.model, attention="xla")
    devices = None if request.backend == HERE else target_devices.devices(request.backend, job.devices, request.cluster)
    layout = rules.layout(job.mesh, model.d_model, devices)
    train = dataclasses.replace(request.run.train, microbatch_size=job.microbatch_size)
    traced = compiled.trace(model, request.run.mup, request.run.optimizer, train, layout)
    return compiled.compile_step(traced, dataclasses.replace(job, model=model), layout)


def refuse_what_does_not_fit(facts: dict) -> None:
    """Raise a `UserError` with the shortfall and the settings that help, unless the first layout fits."""
    first = facts["layouts"][0]["memory"]
    if first["fits"]:
        return
    ways = [
        f"{_in_gin(way['change'])} ({report.gigabytes(way['needed'])} GB, {report.rounded(way['step'], 2)} s a step)"
        for way in facts["remedies"]
    ]
    change = "; or ".join(ways) if ways else "more than one setting (plan --search ranks all), the number of GPUs, or train.batch_size"
    allowance = f", with {report.gigabytes(first['allowance'])} GB for CUDA and NCCL" if first["allowance"] else ""
    raise UserError(
        f"got {report.gigabytes(first['needed'])} GB/GPU, {report.gigabytes(first['needed'] - first['capacity'])} GB too much; allowed: "
        f"{report.gigabytes(first['capacity'])} GB{allowance}; change {change}"
    )


def write(folder: pathlib.Path, facts: dict) -> None:
    """Write plan.json and plan.png, both or none."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write.replacing(folder / JSON) as text, atomic_write.replacing(folder / PICTURE) as drawn:
        text.write_text(json.dumps(facts, indent=1), encoding="utf-8")
        picture.draw(drawn, facts["layouts"])


def _in_gin(bindings: dict) -> str:
    return ", ".join(f"{name} = {value!r}" for name, value in bindings.items())
