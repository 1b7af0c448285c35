"""One optimizer update: gradients over the mesh (`passes.py`), then the update rule."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from sharding import rules
from sharding.rules import Layout
from teleflm_jax import passes
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.train.config import TrainConfig
from teleflm_jax.train.state import TrainState

SIZES = ("num_heads", "num_kv_heads", "d_ff", "num_layers", "context_length")
"""Of a model, that a mesh splits."""


def microbatch(model: ModelConfig, train: TrainConfig, layout: Layout) -> int:
    """Sequences that a data-parallel group takes at a time; raises a `UserError` where model or batch do not split over the mesh."""
    rules.refuse_misfit(layout, **{name: getattr(model, name) for name in SIZES})
    return rules.microbatch(train.batch_size, train.microbatch_size, layout)


def make(
    optimizer: optax.GradientTransformationExtraArgs, layout: Layout, microbatch_size: int, accumulation_dtype: str = "float32"
) -> Callable:
    """Compile-ready `step(state, batch, rates, asked) -> (state, {"loss", "grad_norm", "stop"})`; the old state's memory is reused.

    `asked` are the flags of `Layout.place_flags`, and `stop` their sum, by which all processes agree on leaving.

    Args:
        optimizer: from `optim.optimizer.make`.
        layout: the mesh and its use; batches arrive split over its `data` axis, the state in physical form.
        microbatch_size: rows that one data-parallel group takes at a time.
        accumulation_dtype: of the sums of gradients.
    """
    gradients = passes.gradients(layout, microbatch_size, accumulation_dtype)

    def step(state: TrainState, batch: passes.Batch, rates: Mapping[str, jax.Array], asked: jax.Array):
        loss, gradient = gradients(state.model, batch)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.model, rates=rates)
        new = TrainState(model=jax.tree.map(jnp.add, state.model, updates), optimizer=optimizer_state)
        return jax.lax.with_sharding_constraint(new, layout.shardings(new)), {
            "loss": loss,
            "grad_norm": optax.tree.norm(gradient),
            "stop": asked.sum(),
        }

    return jax.jit(step, donate_argnums=0)
