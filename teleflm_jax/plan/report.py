"""Results of a plan as plain values, which `plan` prints, draws and writes as JSON."""

import dataclasses

from teleflm_jax.model import size
from teleflm_jax.plan import roofline, search, traffic
from teleflm_jax.plan.compiled import Compiled
from teleflm_jax.plan.config import ClusterConfig, PlanConfig
from teleflm_jax.plan.job import Job
from teleflm_jax.plan.memory import Memory

NOTED = 1e-4
"""Messages without a closed form (sums of losses and norms) are left out below this share of all traffic."""
REMEDIES = 3
"""Largest number of remedies shown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """Cluster, assumptions and length of the run for which layouts are described."""

    cluster: ClusterConfig
    plan: PlanConfig
    tokens: float
    """Tokens of the whole run."""


def describe(candidate: search.Candidate, question: Question, found: Compiled | None = None, trusted: bool = False) -> dict:
    """Return one layout's figures.

    Args:
        candidate: the layout and its closed forms.
        question: cluster, assumptions and the run's length.
        found: the compiler's figures, if the step was compiled.
        trusted: True if the compiler's memory and traffic decide, else the closed forms do.
    """
    cluster, plan, job = question.cluster, question.plan, candidate.job
    times = roofline.predict(job, cluster, plan, found.sent) if found and trusted else candidate.times
    decisive = found.memory if found and trusted else candidate.memory
    needed = decisive.total + plan.allowance_bytes
    return {
        "layout": search.bindings(job),
        "gpus": job.devices,
        "microbatches": job.microbatches,
        "memory": {
            "capacity": cluster.memory_bytes,
            "allowance": plan.allowance_bytes,
            "closed_form": _kinds(candidate.memory),
            "compiled": _kinds(found.memory) if found else None,
            "needed": needed,
            "decided_by": "compiler" if found and trusted else "closed form",
            "fits": search.fits(decisive, cluster, plan),
            "spare": 1 - needed / cluster.memory_bytes,
        },
        "products": _products(job, found),
        "traffic": _traffic(job, question, found),
        "seconds": {**dataclasses.asdict(times), "step": times.step},
        "forecast": dataclasses.asdict(roofline.forecast(job, times, cluster, plan, question.tokens)),
        "compile_seconds": found.seconds if found else None,
    }


def assumptions(question: Question) -> dict:
    """Return every number that a prediction depends on, by the name that overrides it."""
    found = {f"cluster.{name}": value for name, value in dataclasses.asdict(question.cluster).items()}
    found |= {f"plan.{name}": value for name, value in dataclasses.asdict(question.plan).items()}
    return found | {"plan.target_tokens": question.tokens}


def remedies(job: Job, question: Question) -> list[dict]:
    """Return the fastest layouts that fit and differ from this one in one respect, each as bindings."""
    near = search.remedies(job, question.cluster, question.plan)[:REMEDIES]
    return [
        {
            "change": search.changes(job, other.job),
            "needed": other.memory.total + question.plan.allowance_bytes,
            "step": other.times.step,
        }
        for other in near
    ]


def _kinds(memory: Memory) -> dict[str, float]:
    return {**dataclasses.asdict(memory), "total": memory.total}


def _products(job: Job, found: Compiled | None) -> dict:
    useful, again = roofline.product_flops(job)
    return {
        "useful": useful,
        "closed_form": useful + again,
        "compiled": found.product_flops if found else None,
        "attention_runs_per_layer": found.attention_runs / job.microbatches / job.layers if found else None,
        "flops_per_token": size.flops_per_token(job.model),
    }


def _hidden(axis: str, question: Question, path: traffic.Path, found: Compiled) -> float | None:
    """Return the share of an axis's sending time that products or attention hide in the compiled schedule; None without async sends."""
    cluster, rate = question.cluster, path.rate(question.cluster, question.plan)
    sending = hidden = 0.0
    for message in found.beside:
        if message.axes == axis:
            seconds = message.bytes_ / rate
            work = message.product_flops / cluster.product_efficiency + message.attention_flops / cluster.attention_efficiency
            sending += message.runs * seconds
            hidden += message.runs * min(seconds, work / cluster.bf16_flops)
    return hidden / sending if sending else None


def _traffic(job: Job, question: Question, found: Compiled | None) -> list[dict]:
    """Return traffic by mesh axes and kind of collective, from the closed form and the compiled program."""
    wanted, sent = traffic.closed_form(job), found.sent if found else {}
    least = NOTED * sum(sent.values())
    rows = []
    for axes, kind in sorted({*wanted, *(key for key, size_ in sent.items() if size_ > least)}):
        paths = [traffic.path(axis, job.mesh, question.cluster.gpus_per_node) for axis in axes.split("+") if axis]
        if not paths:
            continue
        rows.append(
            {
                "axis": axes,
                "collective": kind,
                "closed_form": wanted.get((axes, kind), 0.0),
                "compiled": sent.get((axes, kind), 0.0) if found else None,
                "hidden": _hidden(axes, question, paths[0], found) if found else None,
                "crosses_nodes": any(path.crosses_nodes for path in paths),
                "bytes_per_second": min(path.rate(question.cluster, question.plan, kind) for path in paths),
            }
        )
    return rows


def gigabytes(number: float, digits: int = 1) -> str:
    """Return bytes as gigabytes for a table."""
    return rounded(number / 1e9, digits)


def rounded(value: float, digits: int) -> str:
    """Return a number with this many decimal places, or with three significant digits if those would show little of it."""
    return f"{value:,.{digits}f}" if abs(value) >= 10**-digits * 10 or not value else f"{value:.3g}"
