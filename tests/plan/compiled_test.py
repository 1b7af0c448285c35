"""What is planned is the step that is trained, and the compiler's figures are the closed forms'."""

import dataclasses
import functools
import re

import jax
import pytest

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax.model.attention import QUERY_BLOCK
from teleflm_jax.optim.optimizer import roles
from teleflm_jax.plan import compiled, hlo, memory, roofline
from teleflm_jax.train import loop, restore
from teleflm_jax.train import step as train_step
from tests import tiny
from tests.plan import jobs
from tests.train import runs

MESHES = [
    ({"data": 8}, {"remat": "qkv_gate_up"}),
    ({"data": 8, "zero": 3}, {"remat": "qkv"}),
    ({"data": 8, "zero": 0}, {"remat": "full"}),
    ({"data": 2, "tensor": 4}, {"remat": "qkv_gate_up"}),
    ({"data": 2, "pipe": 2, "tensor": 2}, {"remat": "qkv_gate_up"}),
    # two layers a chunk: of one alone XLA hoists what is computed again out of the loop, so that idle ticks do it too
    ({"data": 2, "pipe": 4, "zero": 3}, {"remat": "full", "num_layers": 8}),
    ({"data": 4, "pipe": 2, "interleave": 2}, {"remat": "qkv", "num_layers": 8}),
    ({"data": 2, "pipe": 2, "tensor": 2}, {"num_kv_heads": 2, "remat": "qkv"}),
]
IN_CI = (0, 5, 7)


@pytest.mark.parametrize(
    "mesh",
    [
        {"data": 2, "pipe": 2, "tensor": 2},
        pytest.param({"data": 8}, marks=pytest.mark.distributed),
        pytest.param({"data": 4, "tensor": 2, "zero": 3}, marks=pytest.mark.distributed),
    ],
)
def test_the_planned_step_is_the_one_that_the_loop_runs(tmp_path, monkeypatch, mesh):
    config = tiny.config(num_layers=4)
    layout = rules.layout(MeshConfig(**mesh), config.d_model)
    ran, make = [], train_step.make

    def recording(*arguments):
        step = make(*arguments)

        def call(*inputs):
            ran.append(step.trace(*inputs))
            return step(*inputs)

        return call

    plan = runs.plan(tmp_path / "run", config, layout, steps=1)
    planned = compiled.trace(config, tiny.WIDE, plan.optimizer, plan.train, layout)
    monkeypatch.setattr(loop.train_step, "make", recording)
    assert loop.train(plan).outcome == "completed"
    assert len(ran) == 1
    assert printed(planned) == printed(ran[0])
    assert jax.tree.leaves(planned.in_avals) == jax.tree.leaves(ran[0].in_avals)


def printed(traced: jax.stages.Traced) -> str:
    """A jaxpr without the addresses of functions."""
    return re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr))


NUMBERS = [pytest.param(i, marks=() if i in IN_CI else pytest.mark.distributed) for i in range(len(MESHES))]


@functools.cache
def found_for(number: int):
    """Job, layout and what the compiler says of one of MESHES; compiled once for all tests."""
    mesh, model = MESHES[number]
    job, layout = jobs.job(mesh, **model)
    return job, layout, compiled.compile_step(jobs.traced(job, layout), job, layout)


@pytest.mark.parametrize("number", NUMBERS)
def test_memory_by_kind_is_the_closed_form(number):
    job, layout, found = found_for(number)
    wanted = memory.closed_form(job)
    # 3 %: norm gains, which the closed form leaves out, are not few beside weights as small as these
    numbers = 4 * jobs.ROWS * job.model.context_length / layout.data
    assert wanted.state + 3 * numbers <= found.memory.state <= 1.03 * wanted.state + 4 * numbers  # segments may be dropped from a batch
    for kind in ("weights", "gradients", "activations"):
        assert getattr(found.memory, kind) == pytest.approx(getattr(wanted, kind), rel=0.03), kind
    assert found.memory.temporaries > 0


@pytest.mark.parametrize("number", NUMBERS)
def test_products_are_the_closed_form_and_none_is_done_twice_unless_asked(number):
    job, _, found = found_for(number)
    useful, again = roofline.product_flops(job)
    # the xla kernel's products count here: queries times keys, weights times values; two for each in a backward pass
    seen = (job.model.context_length + QUERY_BLOCK) / 2 * job.model.d_model / job.mesh.tensor
    passes = 4 + 8 + (4 if job.model.remat != "none" else 0)
    attention = passes * seen * job.positions * job.microbatches * job.layers
    assert found.product_flops == pytest.approx(useful + again + attention, rel=1e-6)
    assert (again > 0) == (job.model.remat in ("qkv", "full"))


def test_arguments_are_the_live_buffers_of_a_run_to_the_byte():
    mesh, model = MESHES[IN_CI[-1]]  # whose step is compiled already
    job, layout = jobs.job(mesh, **model)
    shapes = restore.shapes(job.model, layout)
    state = jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), jax.eval_shape(layout.to_runtime, shapes))
    state = jax.device_put(state, layout.shardings(state))
    stats = jobs.traced(job, layout).lower().compile().memory_analysis()
    live = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))
    rows = jobs.ROWS // layout.data * job.model.context_length
    known = set(jax.tree.leaves(roles(shapes.model)))  # a rate that no weight of this model has is dropped
    inputs = train_step.RATE_CANDIDATES * 4 * len(known) + 4 + 4 * len(train_step.HOST_SIGNALS) + 1  # rates, count, signals, a flag
    inputs += 4 * 4  # two multipliers, norm of clipping, weight decay
    # of the batch's four arrays the segments, which nothing reads without a document mask, may be dropped
    assert stats.argument_size_in_bytes in (live + 3 * 4 * rows + inputs, live + 4 * 4 * rows + inputs)
    assert stats.alias_size_in_bytes == live  # the old state's memory is the new one's


def test_a_wider_accumulator_is_seen():
    wide, layout, found = found_for(IN_CI[0])
    narrow = dataclasses.replace(wide, accumulation_dtype="bfloat16")
    assert found.memory.gradients == 2 * compiled.compile_step(jobs.traced(narrow, layout), narrow, layout).memory.gradients


def test_loops_count_as_often_as_they_run():
    def body(x):
        return jax.lax.fori_loop(0, 3, lambda _, y: jax.lax.fori_loop(0, 5, lambda _, z: jax.numpy.tanh(z @ z), y), x)

    text = jax.jit(body).lower(jax.ShapeDtypeStruct((64, 64), "float32")).compile().as_text()
    program = hlo.Program(text, jax.sharding.Mesh(jax.devices()[:1], ("data",)), {})
    assert program.product_flops() == 15 * 2 * 64**3
    assert program.sent() == {}
