"""The body of `plan` and of `train.py --dry_run`: ask the closed forms and the compiler, then print, write and judge."""

import dataclasses
import itertools
import json
import os
import pathlib
import tempfile

import jax
import rich.console

from sharding import mesh as device_mesh
from sharding import rules
from sharding.axes import NAMES
from teleflm_jax import config
from teleflm_jax.cli import options
from teleflm_jax.cli.plan import JSON, PICTURE
from teleflm_jax.cli.tables import make_console, print_table
from teleflm_jax.errors import UserError
from teleflm_jax.hardware import throughput
from teleflm_jax.plan import compiled, picture, report, target_devices
from teleflm_jax.plan import search as layouts
from teleflm_jax.plan.config import CLUSTERS, ClusterConfig, PlanConfig
from teleflm_jax.plan.job import Job
from teleflm_jax.train import step as train_step

TRIES = 4
"""Layouts that a search compiles in vain, at most, for each that it is to compile."""
HERE = "here"
"""The backend of `train.py --dry_run`: the devices that this process has."""
NOTES = {
    target_devices.GPU: "XLA's GPU compiler, for GPUs that are not here, under the flags that launch sets; its memory decides.",
    target_devices.CPU: "XLA's CPU compiler, for as many virtual devices, with model.attention = 'xla'. It has no flash attention, "
    "widens bfloat16 to float32 (weights, temporaries and traffic in bfloat16 may count double) and has other temporaries than a GPU. "
    "State, gradients, residuals and products are the real ones; the closed form decides what fits. For all of it: "
    "pip install -r requirements-gpu.txt (no GPU is needed).",
    HERE: "the compiler of the devices that this process has; its memory decides.",
}
DECISIVE = (target_devices.GPU, HERE)
"""Compilers whose memory decides whether a layout fits."""

TIMES = {
    "products": "matrix products, once each",
    "recomputation": "done a second time (remat)",
    "attention": "attention kernel",
    "elementwise": "norms, activations, losses, gradient sums",
    "tensor": "traffic over tensor",
    "pipe": "hand-over between stages",
    "data": "traffic over data",
    "update": "optimizer and accumulators",
    "bubble": "pipeline bubble",
}
CONVENTIONS = {"6n": "6N", "causal": "causal", "full": "full"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """What is to be planned."""

    run: options.Run
    cluster: ClusterConfig
    plan: PlanConfig
    gpus: int
    backend: str

    @property
    def question(self) -> report.Question:
        """Cluster, assumptions, and the tokens to reach."""
        tokens = self.plan.target_tokens or float(self.run.train.steps * self.run.train.batch_size * self.run.model.context_length)
        return report.Question(cluster=self.cluster, plan=self.plan, tokens=tokens)


def one(ask: Ask) -> dict:
    """The run's own layout."""
    mesh = device_mesh.resolved(ask.run.mesh, ask.gpus)
    microbatch = train_step.microbatch(ask.run.model, ask.run.train, rules.without_devices(mesh, ask.run.model.d_model))
    job = Job(
        model=ask.run.model,
        mesh=mesh,
        batch_size=ask.run.train.batch_size,
        microbatch_size=microbatch,
        accumulation_dtype=ask.run.train.accumulation_dtype,
    )
    layout = _described(layouts.judge(job, ask.cluster, ask.plan), ask, compiling=True)
    needy = [] if layout["memory"]["fits"] else report.remedies(job, ask.question)
    return {**_common(ask), "layouts": [layout], "remedies": needy}


def search(ask: Ask, compiling: int, shown: int) -> dict:
    """The fastest layouts that fit, the first `compiling` of them also by the compiler; those that it refuses are counted.

    Raises:
        UserError: none divides or fits, or the compiler refuses as many as `TRIES` times those that it is to keep.
    """
    train_step.refuse_float16(ask.run.model)
    found, count = layouts.ranked(ask.run.model, ask.run.train, ask.run.mesh, ask.gpus, ask.cluster, ask.plan)
    kept, refused, ahead = [], 0, iter(found)
    while len(kept) < compiling and refused < TRIES * compiling and (candidate := next(ahead, None)):
        described = _described(candidate, ask, compiling=True)
        if described["memory"]["spare"] >= ask.plan.spare:
            kept.append(described)
        else:
            refused += 1
    if not kept:
        raise UserError(
            f"got {refused} layouts that the compiler lets leave less than {ask.plan.spare:.0%} of the memory free (plan.spare); "
            "allowed: what leaves it; change --gpus, train.batch_size or plan.spare"
        )
    kept.sort(key=lambda layout: layout["seconds"]["step"])
    kept += [_described(candidate, ask, compiling=False) for candidate in itertools.islice(ahead, max(0, shown - len(kept)))]
    return {**_common(ask), "considered": count, "fitting": len(found), "refused": refused, "layouts": kept, "remedies": []}


def _common(ask: Ask) -> dict:
    return {"backend": ask.backend, "note": NOTES[ask.backend], "assumptions": report.assumptions(ask.question)}


def here() -> dict[str, object]:
    """The devices of this run as a cluster (a known card's rates from configs/clusters, else what is measured now), and what to assume.

    A device's limit is what it has for arrays, so there is nothing to allow for.
    """
    device, local, total = jax.local_devices()[0], jax.local_device_count(), jax.device_count()
    known = [config.parse([str(path)], [], {"cluster": ClusterConfig})["cluster"] for path in sorted(CLUSTERS.glob("*.gin"))]
    card = next((cluster for cluster in known if cluster.gpu == throughput.card(device.device_kind)), None)
    per_node = local if local > 1 else min(total, card.gpus_per_node if card else 1)
    capacity = (device.memory_stats() or {}).get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / local
    if card is None:
        rate = throughput.memory_rate()
        measured = {"bf16_flops": throughput.product_rate("bfloat16"), "memory_rate": rate, "link_rate": rate, "network_rate": rate}
        card = ClusterConfig(gpu=device.device_kind, nodes=1, gpus_per_node=1, memory_bytes=1, **measured, product_efficiency=1.0)
    found = dataclasses.replace(card, nodes=-(-total // per_node), gpus_per_node=per_node, memory_bytes=float(capacity))
    return {"cluster": found, "plan": PlanConfig(allowance_bytes=0.0)}


def _described(candidate: layouts.Candidate, ask: Ask, *, compiling: bool) -> dict:
    """A layout with its closed forms and, if wanted, what the compiler says of it."""
    found = _compile(candidate.job, ask) if compiling else None
    return report.describe(candidate, ask.question, found, trusted=ask.backend in DECISIVE)


def _compile(job: Job, ask: Ask) -> compiled.Compiled:
    model = job.model if ask.backend != target_devices.CPU else dataclasses.replace(job.model, attention="xla")
    devices = None if ask.backend == HERE else target_devices.devices(ask.backend, job.devices, ask.cluster)
    layout = rules.layout(job.mesh, model.d_model, devices)
    train = dataclasses.replace(ask.run.train, microbatch_size=job.microbatch_size)
    traced = compiled.trace(model, ask.run.mup, ask.run.optimizer, train, layout)
    return compiled.compile_step(traced, dataclasses.replace(job, model=model), layout)


def refuse_what_does_not_fit(facts: dict) -> None:
    """Raise a `UserError` with the shortfall and what would help, unless the first layout fits."""
    first = facts["layouts"][0]["memory"]
    if first["fits"]:
        return
    ways = [f"{_in_gin(way['change'])} ({_gb(way['needed'])} GB, {_number(way['step'], 2)} s a step)" for way in facts["remedies"]]
    change = "; or ".join(ways) if ways else "more than one setting (plan --search ranks all), the number of GPUs, or train.batch_size"
    allowance = f", with {_gb(first['allowance'])} GB for CUDA and NCCL" if first["allowance"] else ""
    raise UserError(
        f"got {_gb(first['needed'])} GB a GPU, {_gb(first['needed'] - first['capacity'])} GB too much; allowed: "
        f"{_gb(first['capacity'])} GB{allowance}; change {change}"
    )


def _gb(number: float, digits: int = 1) -> str:
    return _number(number / 1e9, digits)


def _number(value: float, digits: int) -> str:
    """With so many digits behind the point, or, where that would leave little of it, with three in all."""
    return f"{value:,.{digits}f}" if abs(value) >= 10**-digits * 10 or not value else f"{value:.3g}"


def _in_gin(bindings: dict) -> str:
    return ", ".join(f"{name} = {value!r}" for name, value in bindings.items())


def write(folder: pathlib.Path, facts: dict) -> None:
    """Write plan.json and plan.png, both or none."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".plan") as temporary:
        made = pathlib.Path(temporary)
        (made / JSON).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        picture.draw(made / PICTURE, facts["layouts"])
        for name in (JSON, PICTURE):
            os.replace(made / name, folder / name)


def show(facts: dict) -> None:
    """Print what a person wants to know."""
    console = make_console()
    if "considered" in facts:
        _show_ranking(console, facts)
    first = facts["layouts"][0]
    console.print(f"{picture.label(first)} ({' x '.join(NAMES)}: {first['gpus']} GPUs)\n", style="bold")
    _show_memory(console, first, facts)
    _show_products(console, first)
    _show_traffic(console, first)
    _show_time(console, first, facts)
    _show_assumptions(console, facts)


def _show_ranking(console: rich.console.Console, facts: dict) -> None:
    rows = []
    for layout in facts["layouts"]:
        memory, forecast = layout["memory"], layout["forecast"]
        rows.append(
            (
                picture.label(layout),
                f"{_gb(memory['needed'])}" + ("" if memory["fits"] else " too much"),
                memory["decided_by"],
                _number(layout["seconds"]["step"], 2),
                f"{forecast['tokens_per_second_per_gpu']:,.0f}",
                f"{forecast['mfu']['causal']:.1%}",
                f"{forecast['days']:.1f}",
            )
        )
    refused = f", {facts['refused']} faster refused by the compiler" if facts["refused"] else ""
    title = f"Layouts by predicted step time, of {facts['considered']:,} ({facts['fitting']:,} fit{refused})"
    print_table(console, title, (" x ".join(NAMES), "GB", "by", "s a step", "tokens/s a GPU", "MFU", "days"), rows)
    bindings = "\n".join(f"{name} = {value!r}" for name, value in facts["layouts"][0]["layout"].items())
    console.print(f"The first one in gin:\n{bindings}\n", markup=False)


def _show_memory(console: rich.console.Console, layout: dict, facts: dict) -> None:
    memory = layout["memory"]
    ours, theirs = memory["closed_form"], memory["compiled"]
    names = {
        "state": "master weights and moments",
        "weights": "working weights",
        "gradients": "gradients, accumulated",
        "activations": "activations kept",
        "temporaries": "temporaries",
        "total": "arrays",
    }
    rows = [(text, *[f"{_gb(by[kind], 2)}" if by else "" for by in (ours, theirs)]) for kind, text in names.items()]
    if memory["allowance"]:
        rows.append(("CUDA, cuDNN, NCCL (allowance)", *[f"{_gb(memory['allowance'], 2)}"] * 2))
    verdict = "fits" if memory["fits"] else "does not fit"
    seconds = f" in {layout['compile_seconds']:.0f} s" if theirs else ""
    note = (
        f"{_gb(memory['needed'])} of {_gb(memory['capacity'])} GB, {memory['spare']:.0%} spare: {verdict} "
        f"(by the {memory['decided_by']})." + (f"\nCompiled{seconds} by {facts['note']}" if theirs else "")
    )
    print_table(console, "Memory of one GPU, GB", ("kind", "closed form", "compiler"), rows, note)


def _show_products(console: rich.console.Console, layout: dict) -> None:
    of = layout["products"]
    again = of["closed_form"] / of["useful"]
    text = f"Matrix products of one GPU a step: {of['useful']:.4g} FLOPs once each, {again:.3f} times that with recomputation"
    if of["compiled"]:
        text += f"; in the compiled program {of['compiled'] / of['useful']:.3f} times"
        runs = of["attention_runs_per_layer"]
        text += f", and the attention kernel forward {runs:g} times a layer" if runs else ", attention's products included"
    console.print(text + ".\n")


def _show_traffic(console: rich.console.Console, layout: dict) -> None:
    rows = [
        (
            row["axis"],
            row["collective"],
            _gb(row["closed_form"], 3),
            "" if row["compiled"] is None else _gb(row["compiled"], 3),
            "" if row.get("hidden") is None else f"{row['hidden']:.0%}",
            {True: "yes", False: "no", None: ""}[row.get("crosses_nodes")],
            _gb(row["bytes_per_second"], 0) if "bytes_per_second" in row else "",
        )
        for row in layout["traffic"]
    ]
    if not rows:
        return
    print_table(
        console,
        "What one GPU sends in a step, GB",
        ("axis", "collective", "closed form", "compiled", "beside products", "crosses nodes", "GB/s"),
        rows,
    )


def _show_time(console: rich.console.Console, layout: dict, facts: dict) -> None:
    seconds, forecast = layout["seconds"], layout["forecast"]
    rows = [(text, _number(seconds[name], 3), f"{seconds[name] / seconds['step']:.1%}") for name, text in TIMES.items() if seconds[name]]
    rows.append(("one step", _number(seconds["step"], 3), ""))
    tokens = facts["assumptions"]["plan.target_tokens"]
    mfu = ", ".join(f"{forecast['mfu'][name]:.1%} ({text})" for name, text in CONVENTIONS.items())
    days = f"{forecast['days']:.1f} days" if forecast["days"] >= 1 else f"{_number(forecast['days'] * 24, 2)} hours"
    energy = f", {_number(forecast['megawatt_hours'], 0)} MWh" if forecast["megawatt_hours"] else ""
    note = (
        f"{forecast['tokens_per_second_per_gpu']:,.{0 if forecast['tokens_per_second_per_gpu'] > 100 else 1}f} tokens/s a GPU; MFU {mfu}.\n"
        f"{tokens:.4g} tokens: {days}, {_number(forecast['gpu_hours'], 0)} GPU-hours{energy}."
    )
    print_table(console, "Time, predicted", ("what", "seconds", "share"), rows, note)


def _show_assumptions(console: rich.console.Console, facts: dict) -> None:
    words = [
        f"{name} = {value:g}" if isinstance(value, float | int) else f"{name} = {value!r}" for name, value in facts["assumptions"].items()
    ]
    console.print("Assumed (override with --gin_param; sources in docs/plan.md):", style="bold")
    console.print("; ".join(words), markup=False)
    if facts["assumptions"]["plan.goodput"] == 1:
        console.print("Checkpoints, evaluation and failures are not in it: plan.goodput says what share of the time trains.")
