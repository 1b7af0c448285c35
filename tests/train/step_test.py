import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import mup
from teleflm_jax.errors import UserError
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.optim.optimizer import adam, make_optimizer
from teleflm_jax.train import step as train_step
from teleflm_jax.train.config import TrainConfig
from teleflm_jax.train.state import TrainState, from_arrays, new_state, to_arrays
from tests import tiny

RULES = mup.at_width(tiny.WIDE, 32)
RATES = {mup.MATRIX: np.float32(1e-2), mup.VECTOR: np.float32(2e-2), mup.GAIN: np.float32(3e-2)}


OPTIMIZER = make_optimizer(**adam(OptimizerConfig()))
INPUTS = {"rates": RATES, "clip_norm": 1.0, "weight_decay": 0.0}


def layout_of(devices: int, **mesh) -> rules.Layout:
    return rules.layout(MeshConfig(**mesh), 32, jax.devices()[:devices])


def batch(seed: int = 0) -> dict[str, np.ndarray]:
    """Eight rows, of which some targets do not count, unevenly."""
    drawn = np.asarray(tiny.tokens(8, 17, seed=seed))
    weights = np.ones((8, 16), np.float32)
    weights[0, 3:] = weights[5, :9] = 0.0
    return {"tokens": drawn[:, :-1], "targets": drawn[:, 1:], "segments": np.ones((8, 16), np.int32), "weights": weights}


def step_inputs(layout: rules.Layout, updates: int, host_signals=(0, 0)) -> train_step.StepInputs:
    """The same rates whatever was skipped."""
    rates = {role: (rate, rate) for role, rate in RATES.items()}
    return train_step.step_inputs(
        layout, OptimizerConfig(), RULES, rates=rates, updates=updates, host_signals=host_signals, check_copies=False
    )


@functools.cache
def initial(layout: rules.Layout, config):
    """A compiled function that makes a new state, which a step may consume."""
    build = lambda: layout.to_runtime(new_state(config, RULES, 0))  # noqa: E731
    return jax.jit(build, out_shardings=layout.shardings(jax.eval_shape(build)))


def begin(layout: rules.Layout, microbatch_size: int, config=tiny.CONFIG):
    return initial(layout, config)(), train_step.make(OptimizerConfig(), layout, microbatch_size)


@functools.cache
def run(devices: int, microbatch_size: int, config=tiny.CONFIG, steps: int = 3) -> tuple[list, TrainState]:
    layout = layout_of(devices)
    state, step = begin(layout, microbatch_size, config)
    figures = []
    for seed in range(steps):
        state, out = step(state, layout.place_batch(batch(seed), 8), step_inputs(layout, seed, host_signals=(seed, 1)))
        assert out["host_signals"].tolist() == [[seed, 1]] * devices and not np.any(jax.tree.leaves(out["not_finite"])[0])
        figures.append({name: float(out[name]) for name in ("loss", "grad_norm")})
    return figures, state


@pytest.mark.parametrize(
    "devices, microbatch_size", [(1, 2), (4, 1), *(pytest.param(*one, marks=pytest.mark.distributed) for one in ((1, 1), (2, 2), (8, 1)))]
)
def test_microbatches_and_devices_change_nothing(devices, microbatch_size):
    figures, state = run(devices, microbatch_size)
    expected, expected_state = run(1, 8)
    chex.assert_trees_all_close(figures, expected, rtol=1e-5)
    # Adam divides by the gradient's own size: where a gradient is nearly zero, rounding decides a step's direction, at most the rate
    chex.assert_trees_all_close(jax.tree.leaves(to_arrays(state)["model"]), jax.tree.leaves(to_arrays(expected_state)["model"]), atol=2e-4)


def test_loss_is_the_mean_over_the_targets_that_count():
    (figures, *_), _ = run(4, 1)
    model, rows = tiny.model(), batch()
    nll = -jnp.take_along_axis(jax.nn.log_softmax(tiny.logits(model, rows["tokens"])), rows["targets"][..., None], axis=-1)[..., 0]
    # new_state draws the weights that tiny.model draws
    np.testing.assert_allclose(figures["loss"], (nll * rows["weights"]).sum() / rows["weights"].sum(), rtol=1e-5)


def first_update(optimizer, gradient, model, **inputs):
    """Return the first change of the weights, compiled as a whole."""
    return jax.jit(lambda gradient, model: optimizer.update(gradient, optimizer.init(model), model, **INPUTS | inputs)[0])(gradient, model)


def test_rates_are_applied_by_role_and_decay_to_matrices_alone():
    model = tiny.model()
    zero = jax.tree.map(jnp.zeros_like, model)
    updates = first_update(OPTIMIZER, zero, model, weight_decay=0.5)
    # without a gradient only decay moves a weight: by rate of its role · decay · weight
    chex.assert_trees_all_close(updates.blocks.attention.query[...], -1e-2 * 0.5 * model.blocks.attention.query[...], rtol=1e-6)
    for untouched in (updates.embedding, updates.head, updates.final_norm.gain, updates.blocks.attention_norm.gain):
        assert (untouched[...] == 0).all()
    gradient = jax.tree.map(lambda x: jnp.full_like(x, 1e-3), model)
    plain = make_optimizer(**adam(OptimizerConfig(epsilon=1e-30)))
    updates = first_update(plain, gradient, model)
    # Adam's first step has size one
    for update, role in ((updates.blocks.feed_forward.down, mup.MATRIX), (updates.head, mup.VECTOR), (updates.final_norm.gain, mup.GAIN)):
        np.testing.assert_allclose(update[...], -RATES[role], rtol=1e-4)


def test_a_large_gradient_is_clipped_to_norm_one():
    model = tiny.model()
    rule = OPTIMIZER
    huge = jax.tree.map(lambda x: jnp.full_like(x, 100.0), model)
    _, state = jax.jit(lambda gradient, model: rule.update(gradient, rule.init(model), model, **INPUTS))(huge, model)
    # the first moment is (1 - beta1) times the clipped gradient
    np.testing.assert_allclose(optax.tree.norm(optax.tree.get(state, "mu")), 0.1, rtol=1e-4)


def test_state_survives_its_form_as_arrays():
    _, state = run(1, 8, steps=1)
    again = from_arrays(to_arrays(state), state)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    chex.assert_trees_all_equal(jax.tree.leaves(again), jax.tree.leaves(state))
    assert int(to_arrays(state)["optimizer"]["count"]) == 1


def test_a_batch_that_does_not_fit_says_what_does():
    with pytest.raises(UserError, match="batch_size=10 on 8 .*nearest: 8 or 16"):
        rules.microbatch(10, 0, layout_of(8))
    with pytest.raises(UserError, match="microbatch_size=3; allowed: a divisor of the 4"):
        rules.microbatch(8, 3, layout_of(2))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_that_is_not_finite_leaves_weights_moments_and_count_as_they_were(value):
    layout = layout_of(4)
    state, step = begin(layout, 1)
    state, _ = step(state, layout.place_batch(batch(), 8), step_inputs(layout, 0))
    before = [np.array(x) for x in jax.tree.leaves(state)]
    broken = batch(1)
    broken["weights"][1, 3] = value
    state, figures = step(state, layout.place_batch(broken, 8), step_inputs(layout, 1))
    assert not np.isfinite(float(figures["loss"])) and np.any(jax.tree.leaves(figures["not_finite"])[0])
    for old, new in zip(before, jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(old, np.asarray(new))


@pytest.mark.parametrize("devices, microbatch_size", [(1, 8), (1, 2), (4, 1)])
def test_a_batch_without_a_target_leaves_weights_moments_and_count_as_they_were(devices, microbatch_size):
    layout = layout_of(devices)
    state, step = begin(layout, microbatch_size)
    state, _ = step(state, layout.place_batch(batch(), 8), step_inputs(layout, 0))
    before = [np.array(x) for x in jax.tree.leaves(state)]
    empty = batch(1) | {"weights": np.zeros((8, 16), np.float32)}
    state, figures = step(state, layout.place_batch(empty, 8), step_inputs(layout, 1))
    assert [float(figures[name]) for name in ("loss", "grad_norm", "targets")] == [0, 0, 0]
    assert not any(np.any(flags) for flags in jax.tree.leaves(figures["not_finite"]))
    for old, new in zip(before, jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(old, np.asarray(new))
    state, figures = step(state, layout.place_batch(batch(2), 8), step_inputs(layout, 1))
    assert float(figures["targets"]) == batch(2)["weights"].sum() and int(to_arrays(state)["optimizer"]["count"]) == 2


def test_a_microbatch_and_a_rank_without_any_target_change_nothing():
    rows = batch()
    rows["weights"][2:4] = 0.0  # the second of four microbatches; the second of four ranks, and its two microbatches
    found = {}
    for devices, microbatch_size in ((1, 8), (1, 2), (4, 1)):
        layout = layout_of(devices)
        state, step = begin(layout, microbatch_size)
        state, figures = step(state, layout.place_batch(rows, 8), step_inputs(layout, 0))
        found[devices, microbatch_size] = {name: float(figures[name]) for name in ("loss", "grad_norm", "targets")}
    for other in found.values():
        chex.assert_trees_all_close(other, found[1, 8], rtol=1e-5)


def test_the_rate_follows_the_updates_that_were_done():
    layout = layout_of(1)
    state, step = begin(layout, 8)
    rising = {role: (0.0, rate) for role, rate in RATES.items()}
    given = step_inputs(layout, 0)._replace(rates={role: np.array(pair, np.float32) for role, pair in rising.items()})
    start = [np.array(x) for x in jax.tree.leaves(state.model)]
    state, _ = step(state, layout.place_batch(batch(), 8), given)
    for old, new in zip(start, jax.tree.leaves(state.model), strict=True):
        np.testing.assert_array_equal(old, np.asarray(new))
    state, _ = step(state, layout.place_batch(batch(1), 8), given)  # the host still knows of none, the state of one
    assert all((old != np.asarray(new)).any() for old, new in zip(start, jax.tree.leaves(state.model), strict=True))


def test_float16_is_not_trained_in():
    half, settings = tiny.config(compute_dtype="float16"), TrainConfig(steps=1, batch_size=8)
    with pytest.raises(UserError, match="got model.compute_dtype='float16' for training; allowed: bfloat16, float32, .*; set"):
        train_step.microbatch(half, settings, layout_of(1))
    assert train_step.microbatch(tiny.CONFIG, settings, layout_of(1)) == 8
