"""The same gradients on every mesh, and the same as differentiating the plain model."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import passes
from teleflm_jax.model import transformer
from teleflm_jax.objectives import cross_entropy
from tests import tiny

ROWS, VOCABULARY, SEED = 24, 60, 0
CONFIG = tiny.config(num_layers=4, vocab_size=VOCABULARY)


@functools.cache
def batch() -> dict[str, np.ndarray]:
    """Rows of two documents each, of which some targets do not count, unevenly."""
    drawn = np.asarray(tiny.tokens(ROWS, 17, vocab_size=VOCABULARY))
    weights = np.ones((ROWS, 16), np.float32)
    weights[0, 3:] = weights[5, :9] = weights[23] = 0.0
    segments = 1 + (np.arange(16) >= np.arange(ROWS)[:, None] % 13).astype(np.int32)
    return {"tokens": drawn[:, :-1], "targets": drawn[:, 1:], "segments": segments, "weights": weights}


@functools.cache
def expected(config):
    """Differentiated by JAX as a whole, on one device, with all logits at once."""

    def loss(model):
        nll = -jax.nn.log_softmax(model(batch()["tokens"], batch()["segments"]))
        return (jnp.take_along_axis(nll, batch()["targets"][..., None], -1)[..., 0] * batch()["weights"]).sum() / batch()["weights"].sum()

    return jax.jit(jax.value_and_grad(loss))(tiny.model(config, SEED))


def on_mesh(config, devices, microbatch_size, rows=None, objective=cross_entropy.loss_and_gradients, **mesh):
    rows = rows or batch()
    layout = rules.layout(MeshConfig(**mesh), config.d_model, jax.devices()[:devices])
    canonical = tiny.model(config, SEED)
    like = layout.stored(jax.eval_shape(lambda: canonical))
    model = jax.jit(layout.to_runtime, out_shardings=layout.shardings(like))(canonical)
    loss, gradient, *_ = jax.jit(passes.gradients(layout, microbatch_size, objective=objective))(model, layout.place_batch(rows, ROWS))
    return loss, layout.to_canonical(like)(gradient)


def compare(config, devices, microbatch_size, **mesh):
    assert_close(on_mesh(config, devices, microbatch_size, **mesh), expected(dataclasses.replace(config, remat="none")))


def assert_close(found, expected):
    (loss, gradient), (wanted_loss, wanted) = found, expected
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-6)
    for mine, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted), strict=True):
        chex.assert_equal_shape([mine, theirs])
        # sums in another order, of terms as large as the largest gradient
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=2e-6 * np.abs(theirs).max())


@pytest.mark.parametrize(
    "remat, document_attention",
    [
        *[("none", False), ("full", False), ("qkv_gate_up", True), ("qkv", True)],
        *(
            pytest.param(*one, marks=pytest.mark.distributed)
            for one in (("none", True), ("full", True), ("qkv_gate_up", False), ("qkv", False))
        ),
    ],
)
def test_the_backward_pass_by_hand_is_jax_s(remat, document_attention):
    compare(tiny.config(num_layers=4, vocab_size=VOCABULARY, remat=remat, document_attention=document_attention), 1, 6)


MESHES = {
    "zero 1 over 3, which divide nothing": (3, 4, {}),
    "zero 3": (4, 3, {"zero": 3}),
    "tensor 4, kv heads too": (4, 24, {"tensor": 4}),
    "pipe 4, fewer microbatches than stages": (4, 12, {"pipe": 4}),
    "pipe 2 interleaved": (2, 6, {"pipe": 2, "interleave": 2}),
    "all three": (8, 3, {"tensor": 2, "pipe": 2}),
    "all three, zero 3": (8, 3, {"tensor": 2, "pipe": 2, "zero": 3}),
    "tensor without sequence parallelism, zero 0": (4, 6, {"tensor": 2, "sequence_parallel": False, "zero": 0}),
}


IN_CI = ("all three, zero 3", "pipe 2 interleaved", "zero 1 over 3, which divide nothing")


@pytest.mark.parametrize("name", [*IN_CI, *(pytest.param(name, marks=pytest.mark.distributed) for name in MESHES if name not in IN_CI)])
def test_gradients_are_the_same_on_every_mesh(name):
    devices, microbatch_size, mesh = MESHES[name]
    compare(CONFIG, devices, microbatch_size, **mesh)


def test_grouped_heads_documents_output_biases_and_rematerialisation_on_a_mesh():
    kinds = {"num_kv_heads": 2, "document_attention": True, "output_biases": True, "remat": "qkv"}
    config = tiny.config(num_layers=4, vocab_size=VOCABULARY, **kinds)
    compare(config, 8, 3, tensor=2, pipe=2)


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["all three", "zero 3", "tensor 4, kv heads too", "tensor without sequence parallelism, zero 0"])
def test_output_biases_are_added_once_and_have_their_gradients_on_every_mesh(name):
    devices, microbatch_size, mesh = MESHES[name]
    compare(tiny.config(num_layers=4, vocab_size=VOCABULARY, output_biases=True), devices, microbatch_size, **mesh)


SMOOTHING, DISTILLATION = 0.2, 0.03


@functools.cache
def taught():
    """The same rows with a teacher's hidden states."""
    return batch() | {"teacher": np.random.default_rng(0).normal(size=(ROWS, 16, CONFIG.d_model)).astype(np.float32)}


def distilled(z, head, batch, gradient_DV):
    """An objective: label-smoothed cross-entropy, and squared error to a teacher's hidden states."""
    logits = jnp.einsum("btd,dv->btv", z, head.weight_DV)
    ids = jnp.arange(logits.shape[-1]) + head.group.first_row(logits.shape[-1])
    known, hit = ids < head.vocab_size, ids == batch["targets"][..., None]
    top = head.group.max(jnp.where(known, logits, -jnp.inf).max(axis=-1))[..., None]
    share = jnp.where(known, jnp.exp(logits - top), 0)
    total = head.group.sum(share.sum(axis=-1, keepdims=True))
    wanted = (1 - SMOOTHING) * hit + SMOOTHING / head.vocab_size * known
    losses = (jnp.log(total) + top)[..., 0] - head.group.sum((wanted * logits).sum(axis=-1))
    difference = z - batch["teacher"]
    losses += DISTILLATION / 2 * jnp.square(difference).sum(axis=-1)
    dlogits = (share / total - wanted) * batch["weights"][..., None]
    dz = jnp.einsum("btv,dv->btd", dlogits, head.weight_DV)
    dz += DISTILLATION * difference * batch["weights"][..., None] / head.group.size  # the group's contributions are added up
    own = jnp.einsum("btd,btv->dv", z, dlogits)
    return (losses * batch["weights"]).sum(), dz, gradient_DV.at[: own.shape[0]].add(own)


@functools.cache
def expected_distilled():
    """Differentiated by JAX as a whole."""

    def loss(model):
        rows = taught()
        z, _ = model.forward(rows["tokens"], transformer.plain(model.config, 16))
        nll = -jax.nn.log_softmax(model.logits(z))
        smoothed = (1 - SMOOTHING) * jnp.take_along_axis(nll, rows["targets"][..., None], -1)[..., 0] + SMOOTHING * nll.mean(axis=-1)
        distances = DISTILLATION / 2 * jnp.square(z - rows["teacher"]).sum(axis=-1)
        return ((smoothed + distances) * rows["weights"]).sum() / rows["weights"].sum()

    return jax.jit(jax.value_and_grad(loss))(tiny.model(CONFIG, SEED))


OBJECTIVE_IN_CI = ("all three, zero 3", "tensor without sequence parallelism, zero 0")


@pytest.mark.parametrize(
    "name", [*OBJECTIVE_IN_CI, *(pytest.param(name, marks=pytest.mark.distributed) for name in MESHES if name not in OBJECTIVE_IN_CI)]
)
def test_another_objective_with_arrays_of_its_own_has_its_gradients_on_every_mesh(name):
    devices, microbatch_size, mesh = MESHES[name]
    assert_close(on_mesh(CONFIG, devices, microbatch_size, rows=taught(), objective=distilled, **mesh), expected_distilled())


@pytest.mark.parametrize("mesh", [{}, {"tensor": 2, "pipe": 2}, {"pipe": 4, "zero": 3}])
def test_losses_of_tokens_are_the_same_on_every_mesh(mesh):
    layout = rules.layout(MeshConfig(**mesh), 32)
    model = jax.jit(layout.to_runtime, out_shardings=layout.shardings(tiny.model(CONFIG, SEED)))(tiny.model(CONFIG, SEED))
    tokens, targets = batch()["tokens"], batch()["targets"]
    found = passes.token_losses(layout)(model, *layout.place_batch((tokens, targets), ROWS))
    nll = -jnp.take_along_axis(jax.nn.log_softmax(tiny.logits(tiny.model(CONFIG, SEED), tokens)), targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(found, nll, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mesh", [{"tensor": 2, "pipe": 2, "interleave": 2}, {"data": 3, "zero": 3}, {"data": 3}])
def test_the_runtime_layout_gives_the_canonical_one_back(mesh):
    count = 3 if mesh.get("data") == 3 else 8
    layout = rules.layout(MeshConfig(**mesh), 32, jax.devices()[:count])
    model = tiny.model(CONFIG, SEED)
    like = layout.stored(jax.eval_shape(lambda: model))
    runtime = layout.to_runtime(jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), model, like))
    back = layout.to_canonical(like)(runtime)
    chex.assert_trees_all_equal(jax.tree.leaves(back), jax.tree.leaves(model))
    assert all(x.sharding == y.sharding for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(like), strict=True))
