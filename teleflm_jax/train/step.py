"""One optimizer update: gradients over microbatches and data-parallel groups, then the update rule."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from sharding import rules
from teleflm_jax.losses import cross_entropy
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.train.state import TrainState

Batch = Mapping[str, jax.Array]
"""`tokens`, `targets`, `segments` int32 and `weights` float32, each [B, T] (docs/architecture.md)."""


def total_loss(model: Transformer, batch: Batch) -> jax.Array:
    """Sum over the weighted targets of the batch of their negative log-likelihood, in nats."""
    z_BTD = model.hidden(batch["tokens"], batch["segments"])
    return cross_entropy(z_BTD, model.head[...], batch["targets"], batch["weights"], model.config.loss_chunk_tokens)


def loss_and_gradients(model: Transformer, batch: Batch, microbatch_size: int) -> tuple[jax.Array, Transformer]:
    """Mean loss per weighted target of the global batch, and its gradient; runs once per data-parallel group on that group's rows.

    Microbatches are `microbatch_size` rows each. Sums are divided by the targets of the whole update only at the end, so that any split
    into microbatches and groups gives what one large batch gives.
    """
    split = jax.tree.map(lambda x: x.reshape(-1, microbatch_size, *x.shape[1:]), dict(batch))

    def accumulate(total, microbatch):
        return jax.tree.map(jnp.add, total, jax.value_and_grad(total_loss)(model, microbatch)), None

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, model))
    total, _ = jax.lax.scan(accumulate, zero, split)
    targets = rules.sum_over_data(batch["weights"].sum())
    return jax.tree.map(lambda x: x / targets, rules.sum_over_data(total))


def make(optimizer: optax.GradientTransformationExtraArgs, mesh: jax.sharding.Mesh, microbatch_size: int) -> Callable:
    """Compile-ready `step(state, batch, rates) -> (state, {"loss", "grad_norm"})`; the old state's memory is reused.

    Args:
        optimizer: from `optim.optimizer.make`.
        mesh: batches arrive split over its `data` axis, weights whole on every device.
        microbatch_size: rows that one device takes at a time.
    """
    gradients = rules.over_data(lambda model, batch: loss_and_gradients(model, batch, microbatch_size), mesh)

    def step(state: TrainState, batch: Batch, rates: Mapping[str, jax.Array]):
        loss, gradient = gradients(state.model, batch)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.model, rates=rates)
        model = jax.tree.map(jnp.add, state.model, updates)
        return TrainState(model=model, optimizer=optimizer_state), {"loss": loss, "grad_norm": optax.tree.norm(gradient)}

    return jax.jit(step, donate_argnums=0)
