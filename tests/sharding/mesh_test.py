import types

import jax
import numpy as np
import pytest

from sharding import axes, mesh, rules
from sharding.config import MeshConfig
from teleflm_jax.errors import UserError

FITS = {"num_heads": 8, "num_kv_heads": 4, "d_ff": 64, "num_layers": 8, "context_length": 32}


def layout(devices: int = 8, width: int = 32, **config) -> rules.Layout:
    return rules.layout(MeshConfig(**config), width, jax.devices()[:devices])


def test_all_devices_are_data_parallel_unless_told_otherwise():
    assert mesh.make(MeshConfig()).shape == {"data": 8, "pipe": 1, "tensor": 1}
    assert mesh.make(MeshConfig(pipe=2, tensor=2)).shape == {"data": 2, "pipe": 2, "tensor": 2}


def test_tensor_groups_are_neighbours_and_stages_are_far_apart():
    numbers = np.vectorize(lambda device: device.id)(mesh.make(MeshConfig(pipe=2, tensor=2)).devices)
    assert numbers.tolist() == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]


@pytest.mark.parametrize(
    "config, words",
    [
        ({"data": 3}, r"mesh of 3 x 1 x 1 .* on 8 device.*such as mesh.data=8"),
        ({"data": 2, "pipe": 2, "tensor": 4}, r"mesh of 2 x 2 x 4 .*such as mesh.data=1"),
        ({"tensor": 3}, r"such as 8 x 1 x 1"),
        ({"pipe": 16}, r"such as 8 x 1 x 1"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_says_what_does(config, words):
    with pytest.raises(UserError, match=words):
        layout(**config)


@pytest.mark.parametrize(
    "config, sizes, words",
    [
        ({"tensor": 8}, {"num_heads": 12}, r"model.num_heads=12 over mesh.tensor=8; allowed: a multiple of 8 \(nearest: 8 or 16\)"),
        ({"tensor": 8}, {}, r"model.num_kv_heads=4 over mesh.tensor=8.*nearest: 8\)"),
        ({"tensor": 4}, {"d_ff": 66}, r"model.d_ff=66.*nearest: 64 or 68"),
        ({"tensor": 4}, {"context_length": 30}, r"model.context_length=30.*nearest: 28 or 32"),
        ({"pipe": 8}, {"num_layers": 12}, r"num_layers=12 over mesh.pipe=8 x mesh.interleave=1.*nearest: 8 or 16"),
        ({"pipe": 4, "interleave": 3}, {}, r"num_layers=8 over mesh.pipe=4 x mesh.interleave=3.*nearest: 12"),
    ],
)
def test_a_model_that_does_not_fit_the_mesh_says_what_does(config, sizes, words):
    with pytest.raises(UserError, match=words):
        rules.refuse_misfit(layout(**config), **FITS | sizes)
    rules.refuse_misfit(layout(), **FITS | sizes)


def test_without_sequence_parallelism_the_context_need_not_divide():
    rules.refuse_misfit(layout(tensor=4, sequence_parallel=False), **FITS | {"context_length": 30})


def test_interleaving_needs_whole_groups_of_microbatches():
    with pytest.raises(UserError, match=r"got 6 microbatches for mesh.interleave=2 over mesh.pipe=4.*nearest: 4 or 8"):
        rules.microbatch(12, 1, layout(pipe=4, interleave=2))
    assert rules.microbatch(16, 1, layout(pipe=4, interleave=2)) == 1


@pytest.mark.parametrize("config", [{"zero": 2}, {"interleave": 2}, {"pipe": 0}, {"data": -1}])
def test_settings_out_of_range_are_refused(config):
    with pytest.raises(UserError, match=r"got mesh\."):
        MeshConfig(**config)


@pytest.mark.parametrize(
    "config, per_process, shares",
    [
        ({"tensor": 2}, 4, [(0, 2), (1, 2)]),  # two groups each
        ({"tensor": 4, "pipe": 2}, 4, [(0, 1), (0, 1)]),  # the same group at other stages
        ({"tensor": 8}, 4, [(0, 1), (0, 1)]),  # one group across processes
        ({"pipe": 2}, 2, [(0, 2), (1, 2), (0, 2), (1, 2)]),
        ({}, 1, [(i, 8) for i in range(8)]),
    ],
)
def test_processes_of_one_group_read_the_same_rows(config, per_process, shares):
    numbers = np.vectorize(lambda device: device.id)(mesh.make(MeshConfig(**config)).devices)
    seen = on_processes(numbers, per_process)
    assert [mesh.data_share(seen, process) for process in range(8 // per_process)] == shares


def test_irregular_shares_are_refused_on_every_process():
    seen = on_processes(np.arange(12).reshape(4, 1, 3), 4)  # the second of three processes has parts of groups 1 and 2
    for process in range(3):
        with pytest.raises(UserError, match=r"devices of process 1 in the data-parallel groups \[1, 2\] of 4.*adjoining"):
            mesh.data_share(seen, process)


def on_processes(numbers: np.ndarray, per_process: int):
    """A mesh of numbered devices, of which each process has so many."""
    places = np.vectorize(lambda number: types.SimpleNamespace(process_index=number // per_process))(numbers)
    return types.SimpleNamespace(devices=places, shape=dict(zip(axes.NAMES, numbers.shape, strict=True)))


def test_vocabulary_and_width_are_padded_as_stated():
    # facts: the released 52B and 102B have 80,384 rows, and 81,920 at 32 ways of 1T
    assert layout(4, tensor=4).padded((80_000, 32), ("vocab", "embed")) == (80_384, 32)
    assert layout(8, tensor=8).padded((32, 80_000), ("embed", "vocab")) == (32, 80_896)
    assert layout(3).padded((60, 32), ("vocab", "embed")) == (60, 33)
    assert layout(3, zero=0).padded((60, 32), ("vocab", "embed")) == (60, 32)
    assert layout(1).padded((60, 32), ("vocab", "embed")) == (60, 32)
