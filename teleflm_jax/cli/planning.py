"""Tables of a plan on the terminal, for `plan` and `train.py --dry_run`."""

import rich.console
import rich.markup

from sharding.axes import NAMES
from teleflm_jax.cli.tables import make_console, print_table
from teleflm_jax.plan import picture, report

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


def show(facts: dict) -> None:
    """Print the tables of a plan."""
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
                f"{report.gigabytes(memory['needed'])}" + ("" if memory["fits"] else " too much"),
                memory["decided_by"],
                report.rounded(layout["seconds"]["step"], 2),
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
    rows = [(text, *[f"{report.gigabytes(by[kind], 2)}" if by else "" for by in (ours, theirs)]) for kind, text in names.items()]
    if memory["allowance"]:
        rows.append(("CUDA, cuDNN, NCCL (allowance)", *[f"{report.gigabytes(memory['allowance'], 2)}"] * 2))
    verdict = "fits" if memory["fits"] else "does not fit"
    seconds = f" in {layout['compile_seconds']:.0f} s" if theirs else ""
    note = (
        f"{report.gigabytes(memory['needed'])} of {report.gigabytes(memory['capacity'])} GB, {memory['spare']:.0%} spare: {verdict} "
        f"(by the {memory['decided_by']})." + (f"\nCompiled{seconds} by {rich.markup.escape(facts['note'])}" if theirs else "")
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
            report.gigabytes(row["closed_form"], 3),
            "" if row["compiled"] is None else report.gigabytes(row["compiled"], 3),
            "" if row.get("hidden") is None else f"{row['hidden']:.0%}",
            {True: "yes", False: "no", None: ""}[row.get("crosses_nodes")],
            report.gigabytes(row["bytes_per_second"], 0) if "bytes_per_second" in row else "",
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
    rows = [
        (text, report.rounded(seconds[name], 3), f"{seconds[name] / seconds['step']:.1%}") for name, text in TIMES.items() if seconds[name]
    ]
    rows.append(("one step", report.rounded(seconds["step"], 3), ""))
    tokens = facts["assumptions"]["plan.target_tokens"]
    mfu = ", ".join(f"{forecast['mfu'][name]:.1%} ({text})" for name, text in CONVENTIONS.items())
    days = f"{forecast['days']:.1f} days" if forecast["days"] >= 1 else f"{report.rounded(forecast['days'] * 24, 2)} hours"
    energy = f", {report.rounded(forecast['megawatt_hours'], 0)} MWh" if forecast["megawatt_hours"] else ""
    note = (
        f"{forecast['tokens_per_second_per_gpu']:,.{0 if forecast['tokens_per_second_per_gpu'] > 100 else 1}f} tokens/s a GPU; MFU {mfu}.\n"
        f"{tokens:.4g} tokens: {days}, {report.rounded(forecast['gpu_hours'], 0)} GPU-hours{energy}."
    )
    print_table(console, "Time, predicted", ("what", "seconds", "share"), rows, note)


def _show_assumptions(console: rich.console.Console, facts: dict) -> None:
    words = [
        f"{name} = {value:g}" if isinstance(value, float | int) else f"{name} = {value!r}" for name, value in facts["assumptions"].items()
    ]
    console.print("Assumed (override with --gin_param; sources in docs/plan.md):", style="bold")
    console.print("; ".join(words), markup=False)
    if facts["assumptions"]["plan.goodput"] == 1:
        console.print("Checkpoints, evaluation and failures are not included: plan.goodput is the share of time spent training.")
