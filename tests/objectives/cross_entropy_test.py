import chex
import jax
import jax.numpy as jnp
import pytest

from teleflm_jax.objectives import cross_entropy
from teleflm_jax.objectives.objective import Head

B, T, D, V = 3, 20, 8, 101


@pytest.fixture
def problem():
    keys = jax.random.split(jax.random.key(0), 4)
    z = jax.random.normal(keys[0], (B, T, D))
    head = jax.random.normal(keys[1], (D, V))
    targets = jax.random.randint(keys[2], (B, T), 0, V)
    weights = (jax.random.uniform(keys[3], (B, T)) > 0.3).astype(jnp.float32)
    return z, head, targets, weights


def plain(z, head, targets, weights):
    """The definition, with all logits at once."""
    return jnp.sum(weights * -jnp.take_along_axis(jax.nn.log_softmax(z @ head), targets[..., None], axis=-1)[..., 0])


def ours(z, head, targets, weights, chunk):
    """Loss and gradients as the passes call them."""
    given = Head(weight_DV=head, vocab_size=head.shape[1], chunk=chunk)
    return cross_entropy.loss_and_gradients(z, given, {"targets": targets, "weights": weights}, jnp.zeros_like(head))


@pytest.mark.parametrize("chunk", [1, 7, 10, 20, 512])
def test_chunks_equal_the_plain_loss_and_its_gradients(problem, chunk):
    value, *gradient = ours(*problem, chunk)
    expected, expected_gradient = jax.value_and_grad(plain, argnums=(0, 1))(*problem)
    # the bound; float32 sums of 60 terms of about 5 nats
    chex.assert_trees_all_close(value, expected, rtol=1e-6)
    chex.assert_trees_all_close(tuple(gradient), expected_gradient, rtol=1e-5, atol=1e-6)


def test_token_losses_are_what_the_sum_adds_up(problem):
    z, head, targets, weights = problem
    each = cross_entropy.token_losses(z, Head(weight_DV=head, vocab_size=V, chunk=6), targets)
    assert each.shape == (B, T)
    chex.assert_trees_all_close(jnp.sum(each * weights), ours(*problem, 6)[0], rtol=1e-6)


def test_equal_logits_cost_log_of_the_vocabulary():
    uniform = Head(weight_DV=jnp.ones((D, V)), vocab_size=V, chunk=2)
    each = cross_entropy.token_losses(jnp.zeros((1, 5, D)), uniform, jnp.arange(5)[None])
    chex.assert_trees_all_close(each, jnp.full((1, 5), jnp.log(V)), rtol=1e-6)


def test_padding_has_neither_probability_nor_gradient(problem):
    z, head, targets, weights = problem
    padded = Head(weight_DV=jnp.pad(head, ((0, 0), (0, 27)), constant_values=5.0), vocab_size=V, chunk=6)
    value, dz, dhead = cross_entropy.loss_and_gradients(z, padded, {"targets": targets, "weights": weights}, jnp.zeros((D, V + 27)))
    expected = ours(*problem, 6)
    chex.assert_trees_all_close((value, dz, dhead[:, :V]), expected, rtol=1e-5, atol=1e-6)  # sums of other lengths
    assert (dhead[:, V:] == 0).all()


def test_the_head_s_gradient_is_added_to_what_is_there(problem):
    z, head, targets, weights = problem
    given = Head(weight_DV=head, vocab_size=V, chunk=6)
    *_, once = cross_entropy.loss_and_gradients(z, given, {"targets": targets, "weights": weights}, jnp.zeros_like(head))
    *_, twice = cross_entropy.loss_and_gradients(z, given, {"targets": targets, "weights": weights}, once)
    chex.assert_trees_all_close(twice, 2 * once, rtol=1e-5, atol=1e-6)


def test_masked_targets_have_no_gradient(problem):
    weights = problem[3]
    _, gradient, _ = ours(*problem, 4)
    assert (gradient[weights == 0] == 0).all() and (jnp.abs(gradient[weights == 1]).max(axis=-1) > 0).all()


def test_no_array_of_all_logits_exists(problem):
    whole, chunk = f"f32[{B},{T},{V}]", f"f32[{B},4,{V}]"
    chunked = str(jax.make_jaxpr(lambda *problem: ours(*problem, 4))(*problem))
    assert chunk in chunked and whole not in chunked
    assert whole in str(jax.make_jaxpr(plain)(*problem))
