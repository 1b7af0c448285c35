"""The coordinate check of µP: what a step does to activations must not depend on width. Source: Tensor Programs V, appendix D.1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import mup
from teleflm_jax.model import attention, layers
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.train import step as train_step
from teleflm_jax.train.state import complete, new_state
from tests import tiny

WIDTHS = (128, 256, 512, 1024)
SEARCHED = mup.MupConfig(base_width=128, learning_rate=2e-3, matrix_learning_rate=8e-3, std=0.02, matrix_std=0.03)
STEPS = 3


def scales(width: int, base_width: int) -> dict[str, float]:
    """Root mean squares at one width: of the last layer's output at the start, and of what three steps change in it and in the logits."""
    config = tiny.config(d_model=width, num_heads=width // 64, num_kv_heads=width // 64, d_ff=2 * width)
    rule = mup.at_width(mup.MupConfig(**(vars(SEARCHED) | {"base_width": base_width})), width)
    layout = rules.layout(MeshConfig(), width, jax.devices()[:1])
    state = jax.jit(lambda: new_state(config, rule, 0), out_shardings=layout.replicated())()
    step = train_step.make(OptimizerConfig(), layout, 8)
    tokens = np.asarray(tiny.tokens(8, 17))
    batch = {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segments": np.ones((8, 16), np.int32),
        "weights": np.ones((8, 16), np.float32),
    }
    rates = {role: (r.learning_rate,) * train_step.RATE_CANDIDATES for role, r in rule.rules.items()}
    inputs = train_step.step_inputs(layout, OptimizerConfig(), rule, rates=rates, updates=0, host_signals=(0, 0), check_copies=False)

    before = activations(complete(state.model, rule), batch["tokens"])
    for _ in range(STEPS):
        state, _ = step(state, layout.place_batch(batch, len(batch["tokens"])), inputs)
    after = activations(complete(state.model, rule), batch["tokens"])
    rms = lambda x: float(jnp.sqrt(jnp.mean(jnp.square(x))))  # noqa: E731
    changes = {f"{name} change": rms(after[name] - before[name]) for name in before}
    return {"stream": rms(before["stream"])} | changes


@jax.jit
def activations(model, tokens):
    """The residual stream after the last layer, and the logits."""
    x, rope = model.embed(tokens), layers.rope_tables(jnp.arange(tokens.shape[1])[None], model.config)
    for layer in range(model.config.num_layers):
        x = jax.tree.map(lambda w: w[layer], model.blocks)(x, rope, attention.causal)  # noqa: B023
    return {"stream": x, "logits": model.logits(model.final(x))}


def slopes(base_width: int | None) -> dict[str, float]:
    """Exponent of width in each scale; None: µP off, every width its own base."""
    table = [scales(width, base_width or width) for width in WIDTHS]
    return {name: np.polyfit(np.log(WIDTHS), np.log([row[name] for row in table]), 1)[0] for name in table[0]}


@pytest.mark.slow
def test_activations_and_their_changes_are_flat_under_mup_and_grow_without_it():
    with_mup, without = slopes(128), slopes(None)
    # random weights and four widths leave an exponent uncertain by about 0.1; without µP theory says about 1/2 to 1
    assert all(abs(slope) < 0.2 for slope in with_mup.values()), with_mup
    assert without["stream"] > 0.4 and without["stream change"] > 0.5 and without["logits change"] > 0.5, without
