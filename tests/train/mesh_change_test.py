"""A run goes on under any mesh: to the same bits in what is saved, and to the same losses."""

import jax
import numpy as np
import pytest

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import mup
from teleflm_jax.observability import run_log
from teleflm_jax.train import loop, restore
from teleflm_jax.train.config import TrainConfig
from teleflm_jax.train.state import to_arrays
from tests import tiny
from tests.train import runs

CONFIG = tiny.config(num_layers=4, vocab_size=60)
MESHES = {
    "1 device": (1, {}),
    "tensor 2, pipe 2, data 2": (8, {"tensor": 2, "pipe": 2}),
    "pipe 2 interleaved": (2, {"pipe": 2, "interleave": 2}),
    "fsdp 8": (8, {"zero": 3}),
    "data 3, which divides nothing": (3, {}),
    "data 4, nothing split": (4, {"zero": 0}),
}
WRITERS = ("1 device", "tensor 2, pipe 2, data 2", "data 3, which divides nothing")


def layout(name: str) -> rules.Layout:
    devices, mesh = MESHES[name]
    return rules.layout(MeshConfig(**mesh), CONFIG.d_model, jax.devices()[:devices])


def saved(folder, chosen: rules.Layout) -> dict:
    """Return the content of the folder's newest checkpoint as this layout restores it, on the host and in the canonical layout."""
    rule = mup.at_width(tiny.WIDE, CONFIG.d_model)
    found = restore.restore(folder, CONFIG, rule, TrainConfig(steps=1, batch_size=24), chosen, {})
    like = restore.shapes(CONFIG, chosen)
    return jax.tree.map(np.asarray, to_arrays(chosen.to_canonical(like)(found.state))) | {"counters": vars(found.counters)}


@pytest.mark.parametrize(
    "writer, readers",
    [
        ("tensor 2, pipe 2, data 2", ("1 device", "fsdp 8")),
        *(pytest.param(name, tuple(MESHES), marks=pytest.mark.distributed) for name in WRITERS),
    ],
)
def test_a_checkpoint_is_restored_to_the_same_bits_under_every_mesh(tmp_path, writer, readers):
    assert loop.train(runs.plan(tmp_path, CONFIG, layout(writer), steps=4)).outcome == "completed"
    expected = saved(tmp_path, layout(writer))
    assert expected["model"]["embedding"].shape == (60, 32) and expected["counters"]["updates"] == 4
    for name in readers:
        jax.tree.map(np.testing.assert_array_equal, saved(tmp_path, layout(name)), expected)


@pytest.mark.distributed
def test_a_run_that_changes_its_mesh_on_the_way_gives_the_same_losses(tmp_path):
    folder = tmp_path / "run"
    for steps, name in ((3, "tensor 2, pipe 2, data 2"), (5, "fsdp 8"), (6, "pipe 2 interleaved"), (8, "data 3, which divides nothing")):
        assert loop.train(runs.plan(folder, CONFIG, layout(name), steps=steps)).outcome == "completed"
    assert loop.train(runs.plan(tmp_path / "one", CONFIG, layout("1 device"), steps=8)).outcome == "completed"
    mixed, one = (list(run_log.rows(path / run_log.METRICS)) for path in (folder, tmp_path / "one"))
    assert [row["tokens"] for row in mixed] == [row["tokens"] for row in one]
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose([row[name] for row in mixed], [row[name] for row in one], rtol=1e-5)
