"""Slow proofs that a mesh changes nothing but the speed: `make test-distributed`."""

import functools

import jax
import numpy as np
import pytest

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import config, mup
from teleflm_jax.observability import run_log
from teleflm_jax.runs.config import SECTIONS
from teleflm_jax.train import loop
from tests import tiny
from tests.train import runs

pytestmark = pytest.mark.distributed

SHAPE = tiny.config(num_layers=8, d_model=64, d_ff=160, vocab_size=500, context_length=32)
STEPS = 20
# name -> devices, mesh, rows of a microbatch (24 rows in all)
MESHES = {
    "data 8": (8, {}, 3),
    "data 8, zero 0": (8, {"zero": 0}, 1),
    "fsdp 8": (8, {"zero": 3}, 1),
    "data 3": (3, {}, 4),
    "data 3, zero 0": (3, {"zero": 0}, 4),
    "data 3, zero 3": (3, {"zero": 3}, 8),
    "tensor 4": (4, {"tensor": 4}, 6),
    "tensor 4, whole sequences": (4, {"tensor": 4, "sequence_parallel": False}, 6),
    "pipe 4": (4, {"pipe": 4}, 2),
    "pipe 4, zero 0": (4, {"pipe": 4, "zero": 0}, 6),
    "pipe 4, interleaved": (4, {"pipe": 4, "interleave": 2}, 2),
    "tensor 2, pipe 2, data 2": (8, {"tensor": 2, "pipe": 2}, 3),
    "tensor 2, pipe 2, data 2, whole sequences": (8, {"tensor": 2, "pipe": 2, "sequence_parallel": False}, 3),
    "tensor 2, pipe 2, data 2, zero 0": (8, {"tensor": 2, "pipe": 2, "zero": 0}, 3),
    "tensor 2, pipe 2, data 2, zero 0, whole sequences": (8, {"tensor": 2, "pipe": 2, "zero": 0, "sequence_parallel": False}, 3),
    "tensor 2, pipe 2, data 2, zero 3, interleaved": (8, {"tensor": 2, "pipe": 2, "zero": 3, "interleave": 2}, 3),
}


@functools.cache
def rates() -> mup.MupConfig:
    """The quickstart's learning rates and initial weights."""
    return config.parse(["configs/runs/quickstart.gin"], [], SECTIONS)["mup"]


def curve(folder, shape, devices, mesh, microbatch_size, **train) -> np.ndarray:
    """[STEPS, 2]: loss and gradient norm."""
    layout = rules.layout(MeshConfig(**mesh), shape.d_model, jax.devices()[:devices])
    plan = runs.plan(folder, shape, layout, steps=STEPS, rates=rates(), microbatch_size=microbatch_size, **train)
    assert loop.train(plan).outcome == "completed"
    return np.array([[row["loss"], row["grad_norm"]] for row in run_log.rows(folder / run_log.METRICS)])


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    found = curve(tmp_path_factory.mktemp("run") / "one", SHAPE, 1, {}, 24)
    assert found[-1, 0] < found[0, 0] - 0.1  # it learns
    return found


@pytest.mark.parametrize("name", MESHES)
def test_float32_runs_agree(one_device, tmp_path, name):
    difference = np.abs(curve(tmp_path / "run", SHAPE, *MESHES[name]) / one_device - 1)
    print(f"{name}: {difference[0].max():.1e} at the first step, {difference.max():.1e} over {STEPS}")
    # float32 sums in other orders
    assert difference[0].max() < 1e-6 and difference.max() < 1e-5


@pytest.mark.parametrize("name", ["fsdp 8", "tensor 2, pipe 2, data 2", "pipe 4, interleaved"])
def test_bfloat16_runs_agree_within_its_rounding(tmp_path, name):
    shape = tiny.config(**(vars(SHAPE) | {"compute_dtype": "bfloat16"}))
    one = curve(tmp_path / "one", shape, 1, {}, 24)
    difference = np.abs(curve(tmp_path / "run", shape, *MESHES[name]) / one - 1)
    print(f"{name}: loss {difference[:, 0].max():.1e}, gradient norm {difference[:, 1].max():.1e}")
    # bfloat16 keeps 8 bits, so each rounding is off by up to 2^-9 = 0.2 %; a loss averages 768 targets, a gradient norm follows the largest
    # entries, and what a different order of sums rounds differently at one step is carried on by the next
    assert difference[:, 0].max() < 2e-3 and difference[:, 1].max() < 3e-2


def test_accumulating_in_bfloat16_stays_close(tmp_path):
    exact = curve(tmp_path / "float32", SHAPE, 2, {}, 1)
    rounded = curve(tmp_path / "bfloat16", SHAPE, 2, {}, 1, accumulation_dtype="bfloat16")
    difference = np.abs(rounded / exact - 1)
    print(f"12 microbatches: loss {difference[:, 0].max():.1e}, gradient norm {difference[:, 1].max():.1e}")
    # twelve sums of 8-bit numbers: about 1 % of a gradient's entries' size
    assert 1e-6 < difference[:, 1].max() < 3e-2 and difference[:, 0].max() < 2e-3
