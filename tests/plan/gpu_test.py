"""Runs compiled by XLA's GPU compiler for clusters that are not here: they fit, send what the closed form says, and do no product twice."""

import json
import pathlib
import resource
import subprocess
import sys

import pytest

from teleflm_jax.plan import target_devices

pytestmark = [
    pytest.mark.plan_gpu,
    pytest.mark.skipif(
        not target_devices.has_gpu_compiler(), reason="jax's CUDA wheels are not installed; make test-plan-gpu installs them"
    ),
]

ROOT = pathlib.Path(__file__).resolve().parents[2]


def plan(*arguments, code=0) -> dict:
    command = [sys.executable, "-m", "teleflm_jax", "plan", "--backend", "gpu", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def agree(layout: dict) -> None:
    """The compiler's figures are the closed forms'."""
    ours, theirs = layout["memory"]["closed_form"], layout["memory"]["compiled"]
    assert theirs["activations"] == pytest.approx(ours["activations"], rel=0.005)
    assert theirs["state"] == pytest.approx(ours["state"], rel=0.02, abs=2e8)  # the batch and the norms' gains are not in the closed form
    # temporaries are fitted, not derived; they are up to a tenth of a lean layout
    assert theirs["total"] == pytest.approx(ours["total"], rel=0.1)
    whole = sum(row["closed_form"] for row in layout["traffic"])
    for row in layout["traffic"]:
        assert row["compiled"] == pytest.approx(row["closed_form"], rel=0.01, abs=1e-4 * whole), row
    assert layout["products"]["compiled"] == pytest.approx(layout["products"]["closed_form"], rel=0.001)


@pytest.mark.parametrize("run", ["52b", "102b", "1t"])
def test_the_three_stages_fit_an_a800_with_a_tenth_to_spare(run):
    facts = plan("--gin_file", f"configs/runs/pretrain_{run}.gin", "--cluster", "a800x896")
    (layout,) = facts["layouts"]
    assert layout["gpus"] == 896
    assert layout["memory"]["decided_by"] == "compiler"
    assert layout["memory"]["spare"] >= 0.1
    assert layout["products"]["compiled"] == pytest.approx(layout["products"]["useful"], rel=1e-6)  # none is done twice
    agree(layout)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 8e6  # KB


@pytest.mark.parametrize(
    ("run", "cluster", "gpus"),
    [("52b", "a800x896", 896), ("52b", "h100x64", 64), ("52b", "h100x512", 512), ("7b", "h200x8", 8), ("1b", "h200x1", 1)],
)
def test_what_a_search_finds_is_what_the_compiler_says(run, cluster, gpus):
    facts = plan(
        "--gin_file", f"configs/runs/pretrain_{run}.gin", "--cluster", cluster, "--gpus", str(gpus), "--search", "--compile", "4",
        "--gin_param", "plan.spare = 0.12",
    )  # fmt: skip
    compiled = [layout for layout in facts["layouts"] if layout["memory"]["compiled"]]
    assert len(compiled) >= 4
    for layout in compiled:
        assert layout["memory"]["spare"] >= 0.12
        agree(layout)


def test_what_does_not_fit_is_seen():
    remat = ("--gin_param", "model.remat = 'none'")
    facts = plan("--gin_file", "configs/runs/pretrain_52b.gin", "--cluster", "a800x896", *remat, code=2)
    assert not facts["layouts"][0]["memory"]["fits"]
    assert {"model.remat": "qkv_gate_up"} in [way["change"] for way in facts["remedies"]]
