"""A compiled program's text is read right in all the forms that compilers print."""

# ruff: noqa: E501  (lines as a compiler prints them)

import jax
import pytest

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax.plan import hlo

TEXT = """HloModule step, is_scheduled=true

%twice (x: f32[8,16]) -> f32[8,16] {
  %x = f32[8,16]{1,0} parameter(0)
  ROOT %reduced = f32[8,16]{1,0} all-reduce(%x), replica_groups=[4,2]<=[8], to_apply=%add, metadata={op_name="jit(step)/layers/psum"}
}

%inner (carry: (f32[8,16])) -> (f32[8,16]) {
  %a = f32[8,16]{1,0} parameter(0)
  %b = f32[16,4]{1,0} parameter(1)
  %product = f32[8,4]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(step)/layers/dot"}
}

%body (carry: (f32[8,16])) -> (f32[8,16]) {
  %gather-start = ((bf16[4,16]{1,0}, bf16[2]{0}), (bf16[8,16]{1,0}, bf16[4]{0})) all-gather-start(%p, %q), replica_groups={{0,1},{2,3},{4,5},{6,7}}
  %gemm = (f32[8,4]{1,0}, s8[64]{0}) custom-call(%gathered, %w), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %gathered = bf16[8,16]{1,0} parameter(0)
  %gather-done = (bf16[8,16]{1,0}, bf16[4]{0}) all-gather-done(%gather-start)
  %scatter-start = ((f32[8,16]{1,0}), f32[2,16]{1,0}) reduce-scatter-start(%r), replica_groups=[2,4]<=[4,2]T(1,0)
  %scatter-done = f32[2,16]{1,0} reduce-scatter-done(%scatter-start)
  %send-start = (bf16[8,16]{1,0}, bf16[8,16]{1,0}, u32[], u32[]) collective-permute-start(%s), source_target_pairs={{0,4},{1,5}}
  %loop = (f32[8,16]{1,0}) while(%t), condition=%until, body=%inner, metadata={op_name="jit(step)/while/body/layers"}
  %call = f32[8,16]{1,0} call(%u), to_apply=%twice
  %again = f32[8,16]{1,0} call(%u), to_apply=%twice
}

ENTRY %main (x: f32[8,16]) -> f32[8,16] {
  %outer = (f32[8,16]{1,0}) while(%t), condition=%until, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %norm = f32[] all-reduce(%n), replica_groups={}, to_apply=%add
  ROOT %named = f32[8,16]{1,0} all-gather(%x), replica_groups=mesh['data'=4,'tensor'=2] {'tensor'}, dimensions={0}
}
"""


@pytest.fixture(scope="module")
def program():
    mesh = rules.layout(MeshConfig(data=2, pipe=2, tensor=2), 16).mesh
    return hlo.Program(TEXT.replace("mesh['data'=4,'tensor'=2]", "mesh['data'=2,'pipe'=2,'tensor'=2]"), mesh, {"layers": 3.0})


def test_messages_are_weighed_by_the_loops_around_them(program):
    sent = program.sent()
    pair, four, eight = 1 / 2, 3 / 4, 7 / 8
    assert sent["tensor", "all-gather"] == 5 * pair * 2 * (8 * 16 + 4) + pair * 4 * 8 * 16  # results only, not the operands beside them
    assert sent["data+pipe", "reduce-scatter"] == 5 * four * 4 * (4 * 2 * 16)
    assert sent["data", "collective-permute"] == 5 * 2 * 8 * 16  # neither the buffer it came from nor its flags
    assert sent["tensor", "all-reduce"] == 5 * 2 * 2 * pair * 4 * 8 * 16  # called twice
    assert sent["data+pipe+tensor", "all-reduce"] == 2 * eight * 4


def test_products_are_counted_with_the_turns_that_only_the_run_knows(program):
    assert program.product_flops() == 5 * 3 * 2 * 8 * 4 * 16 + 5 * 2 * 8 * 4 * 16


def test_what_runs_beside_a_message_stands_between_its_start_and_its_end(program):
    gather, scatter = program.beside()
    assert (gather.axes, gather.runs, gather.product_flops) == ("tensor", 5, 2 * 8 * 4 * 16)
    assert (scatter.axes, scatter.runs, scatter.product_flops) == ("data+pipe", 5, 0)


def test_unknown_groups_are_no_guess(program):
    odd = "ENTRY %m (x: f32[2]) -> f32[2] {\n  %r = f32[2]{0} all-reduce(%x), replica_groups=odd[1], to_apply=%add\n}\n"
    with pytest.raises(ValueError, match="unknown form of device groups"):
        hlo.Program(odd, program.mesh, {}).sent()


def test_loops_are_sorted_by_what_they_carry():
    text = (
        jax.jit(lambda x: jax.lax.fori_loop(0, 9, lambda _, y: y @ y, x)).lower(jax.ShapeDtypeStruct((8, 8), "float32")).compile().as_text()
    )
    (loop,) = hlo.Program(text, jax.sharding.Mesh(jax.devices()[:1], ("data",)), {}).loops()
    assert loop["f32", (8, 8)] >= 1
