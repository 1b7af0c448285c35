"""What a step sends is what docs/parallelism.md says it sends: the closed form, against the compiled program's text."""

import jax
import pytest

from sharding import pipeline, rules
from sharding.config import MeshConfig, padded_vocab_size
from teleflm_jax import passes
from tests import tiny
from tests.sharding import traffic

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


def closed_form(config, layout: rules.Layout, microbatch_size: int) -> dict[str, float]:
    """Bytes that a device sends over each axis, as docs/parallelism.md derives them."""
    data, pipe, tensor = (layout.mesh.shape[axis] for axis in ("data", "pipe", "tensor"))
    count = ROWS // data // microbatch_size
    schedule = pipeline.Schedule(stages=pipe, chunks=layout.interleave, microbatches=count)
    matrices = config.num_layers * (4 * config.d_model**2 + 3 * config.d_model * config.d_ff) // pipe // tensor
    ends = 2 * padded_vocab_size(config.vocab_size, tensor) * config.d_model // tensor
    activations = microbatch_size * config.context_length * config.d_model * FLOAT
    position = microbatch_size * config.context_length * FLOAT
    units = count * config.num_layers // pipe
    share = lambda n: (n - 1) / n  # noqa: E731
    if layout.zero == 3:  # each layer's weights in its forward and in its backward pass, its gradients once
        over_data = FLOAT * share(data) * (3 * count * matrices + 2 * ends)
    elif layout.zero == 1:
        over_data = FLOAT * share(data) * 2 * (matrices + ends)
    else:
        over_data = FLOAT * 2 * share(data) * (matrices + ends)
    own_ends = ends / (data if layout.zero else 1)
    over_pipe = 2 * schedule.ticks * activations / (tensor if layout.sequence_parallel else 1) + 2 * share(pipe) * FLOAT * own_ends
    gathers = {"none": 8, "qkv_gate_up": 10, "qkv": 10, "full": 11} if layout.sequence_parallel else {"none": 8, "qkv": 8, "full": 10}
    ends_sent = (4 * activations + 2 * 3 * position) * count
    over_tensor = share(tensor) * (gathers[config.remat] * activations * units + ends_sent)
    return {
        "data": over_data if data > 1 else 0.0,
        "pipe": over_pipe if pipe > 1 else 0.0,
        "tensor": over_tensor if tensor > 1 else 0.0,
    }


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
    count = ROWS // layout.data // microbatch_size
    ticks = pipeline.Schedule(stages=layout.pipe, chunks=layout.interleave, microbatches=count).ticks
    turns = {"head": count / ticks, "embedding": count / ticks, "layers": count * config.num_layers / layout.pipe / ticks}
    found = traffic.sent(text, layout.mesh, turns)
    for axis, wanted in closed_form(config, layout, microbatch_size).items():
        total = sum(size for (axes, _), size in found.items() if axes == axis)
        assert total == pytest.approx(wanted, rel=0.05), (axis, total, wanted, found)
    across = sum(size for (axes, _), size in found.items() if "+" in axes)
    assert across < 0.02 * sum(found.values()), found  # what crosses several axes at once is the loss, and the norms' gains


def test_no_message_is_as_large_as_the_logits_of_a_microbatch():
    config = tiny.config(**(vars(CONFIG) | {"vocab_size": 8192, "num_layers": 2, "num_heads": 8, "num_kv_heads": 8}))
    _, text = compiled(config, 4, {"tensor": 8})
    found = [traffic.COLLECTIVE.search(line) for line in text.splitlines()]
    largest = max(traffic.result_bytes(message[1]) for message in found if message)
    activations = 4 * config.context_length * config.d_model * FLOAT
    assert largest == activations < 4 * config.context_length * config.vocab_size * FLOAT / 10
