"""What a step sends is what docs/parallelism.md says it sends: the closed form, against the compiled program's text."""

import jax
import pytest

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import passes
from teleflm_jax.plan import hlo, traffic
from teleflm_jax.plan.compiled import turns
from teleflm_jax.plan.job import Job
from tests import tiny

ROWS, FLOAT = 32, 4
CONFIG = tiny.config(num_layers=4, d_model=64, d_ff=128, vocab_size=512, context_length=32)


def compiled(config, microbatch_size: int, mesh: dict) -> tuple[rules.Layout, str]:
    layout = rules.layout(MeshConfig(**mesh), config.d_model)
    shapes = jax.eval_shape(lambda: tiny.model(config))
    placed = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), jax.eval_shape(layout.physical, shapes), layout.shardings(shapes)
    )
    sharding = jax.sharding.NamedSharding(layout.mesh, rules.BATCH)
    kinds = {"tokens": "int32", "targets": "int32", "segments": "int32", "weights": "float32"}
    batch = {name: jax.ShapeDtypeStruct((ROWS, config.context_length), kind, sharding=sharding) for name, kind in kinds.items()}
    return layout, jax.jit(passes.gradients(layout, microbatch_size)).lower(placed, batch).compile().as_text()


def job_of(config, layout: rules.Layout, microbatch_size: int, mesh: dict) -> Job:
    return Job(model=config, mesh=MeshConfig(**mesh | {"data": layout.data}), batch_size=ROWS, microbatch_size=microbatch_size)


@pytest.mark.parametrize(
    "mesh, microbatch_size, remat",
    [
        ({}, 1, "none"),
        ({"zero": 0}, 2, "none"),
        ({"zero": 3}, 1, "none"),
        ({"tensor": 4}, 4, "none"),
        ({"tensor": 4}, 4, "qkv_gate_up"),
        ({"tensor": 4}, 4, "full"),
        ({"tensor": 4, "sequence_parallel": False}, 4, "none"),
        ({"tensor": 4, "sequence_parallel": False}, 4, "qkv"),
        ({"tensor": 4, "sequence_parallel": False}, 4, "full"),
        ({"pipe": 4}, 2, "qkv"),
        ({"pipe": 2, "interleave": 2}, 2, "none"),
        ({"pipe": 2, "tensor": 2}, 2, "none"),
        ({"pipe": 2, "tensor": 2}, 2, "qkv"),
    ],
)
def test_bytes_over_each_axis_are_the_closed_form(mesh, microbatch_size, remat):
    config = tiny.config(**(vars(CONFIG) | {"remat": remat}))
    layout, text = compiled(config, microbatch_size, mesh)
    job = job_of(config, layout, microbatch_size, mesh)
    found = hlo.Program(text, layout.mesh, turns(job)).sent()
    for key, wanted in traffic.closed_form(job).items():
        least = 0.005 * sum(found.values())  # gradients of the norms' gains, which the closed form leaves out
        assert found[key] == pytest.approx(wanted, rel=0.05, abs=least), (key, wanted, found)
    across = sum(size for (axes, _), size in found.items() if "+" in axes)
    assert across < 0.02 * sum(found.values()), found  # what crosses several axes at once is the loss, and the norms' gains


def test_no_message_is_as_large_as_the_logits_of_a_microbatch():
    config = tiny.config(**(vars(CONFIG) | {"vocab_size": 8192, "num_layers": 2, "num_heads": 8, "num_kv_heads": 8}))
    _, text = compiled(config, 4, {"tensor": 8})
    largest = max(hlo.message_bytes(found) for line in text.splitlines() if (found := hlo.COLLECTIVE.search(line)))
    activations = 4 * config.context_length * config.d_model * FLOAT
    assert largest == activations < 4 * config.context_length * config.vocab_size * FLOAT / 10
