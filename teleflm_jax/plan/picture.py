"""Chart of a plan: memory of one GPU by kind against the card's capacity, and the time of a step by kind."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharding.axes import NAMES
from teleflm_jax.plan.memory import Memory

KINDS = tuple(field.name for field in dataclasses.fields(Memory))


def draw(path: pathlib.Path, layouts: Sequence[dict]) -> None:
    """Draw layouts from `report.describe`, one bar each, as a PNG."""
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(15, 2.4 + 0.4 * len(layouts)), layout="constrained")
        memory, time = figure.subplots(1, 2, sharey=True)
    names = [label(layout) for layout in layouts]
    capacity = layouts[0]["memory"]["capacity"] / 1e9
    needed = [layout["memory"]["needed"] / 1e9 for layout in layouts]
    _bars(memory, names, [_memory(layout) for layout in layouts], 1e9)
    memory.axvline(capacity, color="black", linestyle="--", linewidth=1, label=f"the card's {capacity:.0f} GB")
    memory.set(title="memory of one GPU", xlabel="GB", xlim=(0, 1.08 * max(capacity, *needed)), ylim=(len(layouts) - 0.4, -0.6))
    _bars(time, names, [{name: s for name, s in layout["seconds"].items() if name != "step"} for layout in layouts], 1.0)
    time.set(title="one step, predicted", xlabel="seconds")
    look: dict[str, Any] = {"frameon": False, "fontsize": 8, "ncols": 5}
    figure.legend(*memory.get_legend_handles_labels(), loc="outside lower left", **look)
    figure.legend(*time.get_legend_handles_labels(), loc="outside lower right", **look)
    figure.savefig(path, dpi=110, format="png")


def label(layout: dict) -> str:
    """Return a layout as one line."""
    of = layout["layout"]
    mesh = " x ".join(str(of[f"mesh.{name}"]) for name in NAMES)
    interleave = f", interleave {of['mesh.interleave']}" if of["mesh.interleave"] > 1 else ""
    return f"{mesh}{interleave}, zero {of['mesh.zero']}, microbatch {of['train.microbatch_size']:g}, {of['model.remat']}"


def _memory(layout: dict) -> dict[str, float]:
    by = layout["memory"]
    source = by["compiled"] if by["decided_by"] == "compiler" else by["closed_form"]
    return {kind: source[kind] for kind in KINDS} | {"CUDA, NCCL": by["allowance"]}


def _bars(axes: Axes, names: Sequence[str], rows: Sequence[dict[str, float]], unit: float) -> None:
    """Draw stacked horizontal bars."""
    left = [0.0] * len(rows)
    for kind in rows[0]:
        widths = [row[kind] / unit for row in rows]
        axes.barh(range(len(rows)), widths, left=left, height=0.66, label=kind)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
