import chex
import jax
import jax.numpy as jnp
import pytest

from teleflm_jax import losses

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


@pytest.mark.parametrize("chunk", [1, 7, 10, 20, 512])
def test_chunks_equal_the_plain_loss_and_its_gradients(problem, chunk):
    z, head, targets, weights = problem
    value, gradient = jax.value_and_grad(losses.cross_entropy, argnums=(0, 1))(z, head, targets, weights, chunk)
    expected, expected_gradient = jax.value_and_grad(plain, argnums=(0, 1))(*problem)
    # the bound; float32 sums of 60 terms of about 5 nats
    chex.assert_trees_all_close(value, expected, rtol=1e-6)
    chex.assert_trees_all_close(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(losses.cross_entropy(z, head, targets, weights, chunk), value, rtol=1e-6)


def test_token_losses_are_what_the_sum_adds_up(problem):
    z, head, targets, weights = problem
    each = losses.token_losses(z, head, targets, 6)
    assert each.shape == (B, T)
    chex.assert_trees_all_close(jnp.sum(each * weights), losses.cross_entropy(z, head, targets, weights, 6), rtol=1e-6)


def test_equal_logits_cost_log_of_the_vocabulary():
    each = losses.token_losses(jnp.zeros((1, 5, D)), jnp.ones((D, V)), jnp.arange(5)[None], 2)
    chex.assert_trees_all_close(each, jnp.full((1, 5), jnp.log(V)), rtol=1e-6)


def test_gradient_scales_with_what_follows(problem):
    z, head, targets, weights = problem
    halved = jax.grad(lambda z: 0.5 * losses.cross_entropy(z, head, targets, weights, 4))(z)
    chex.assert_trees_all_close(halved, 0.5 * jax.grad(losses.cross_entropy)(z, head, targets, weights, 4), rtol=1e-6)


def test_masked_targets_have_no_gradient(problem):
    z, head, targets, weights = problem
    gradient = jax.grad(losses.cross_entropy)(z, head, targets, weights, 4)
    assert (gradient[weights == 0] == 0).all() and (jnp.abs(gradient[weights == 1]).max(axis=-1) > 0).all()


def test_no_array_of_all_logits_exists(problem):
    z, head, targets, weights = problem
    whole, chunk = f"f32[{B},{T},{V}]", f"f32[{B},4,{V}]"
    loss = lambda z, head: losses.cross_entropy(z, head, targets, weights, 4)  # noqa: E731
    chunked = str(jax.make_jaxpr(jax.value_and_grad(loss, argnums=(0, 1)))(z, head))
    assert chunk in chunked and whole not in chunked
    assert whole in str(jax.make_jaxpr(plain)(z, head, targets, weights))
