"""What a step sends is what docs/parallelism.md says it sends: the closed form, against the compiled program's text."""

import pytest

from teleflm_jax.plan import hlo, traffic
from teleflm_jax.plan.compiled import turns
from tests.plan import jobs

FLOAT = 4


_IN_CI = [
    ({"zero": 3}, 1, "none"),
    ({"pipe": 2, "tensor": 2}, 2, "qkv"),
]
_IN_ALL = [
    ({"tensor": 4}, 4, "full"),
    ({"pipe": 2, "interleave": 2}, 2, "none"),
    ({}, 1, "none"),
    ({"zero": 0}, 2, "none"),
    ({"tensor": 4}, 4, "none"),
    ({"tensor": 4}, 4, "qkv_gate_up"),
    ({"tensor": 4, "sequence_parallel": False}, 4, "none"),
    ({"tensor": 4, "sequence_parallel": False}, 4, "qkv"),
    ({"tensor": 4, "sequence_parallel": False}, 4, "full"),
    ({"pipe": 4}, 2, "qkv"),
    ({"pipe": 2, "tensor": 2}, 2, "none"),
    ({"pipe": 2, "zero": 0}, 2, "qkv"),
]


@pytest.mark.parametrize("mesh, microbatch_size, remat", [*_IN_CI, *(pytest.param(*one, marks=pytest.mark.distributed) for one in _IN_ALL)])
def test_bytes_over_each_axis_are_the_closed_form(mesh, microbatch_size, remat):
    job, layout = jobs.job(mesh, microbatch_size=microbatch_size, remat=remat, context_length=32)
    text = jobs.traced(job, layout).lower().compile().as_text()
    found = hlo.Program(text, layout.mesh, turns(job)).sent()
    known = traffic.closed_form(job)
    for key, wanted in known.items():
        least = 0.005 * sum(found.values())  # gradients of the norms' gains, which the closed form leaves out
        assert found[key] == pytest.approx(wanted, rel=0.05, abs=least), (key, wanted, found)
    others = sum(size for key, size in found.items() if key not in known)
    assert others < 0.02 * sum(found.values()), found  # the loss, and the norms' gains


def test_no_message_is_as_large_as_the_logits_of_a_microbatch():
    shape = {"vocab_size": 8192, "num_layers": 2, "num_heads": 8, "num_kv_heads": 8, "context_length": 32}
    job, layout = jobs.job({"tensor": 8}, microbatch_size=4, **shape)
    text, config = jobs.traced(job, layout).lower().compile().as_text(), job.model
    largest = max(hlo.message_bytes(found) for line in text.splitlines() if (found := hlo.COLLECTIVE.search(line)))
    activations = 4 * config.context_length * config.d_model * FLOAT
    assert largest == activations < 4 * config.context_length * config.vocab_size * FLOAT / 10
