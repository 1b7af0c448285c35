"""State that a run carries from step to step: weights, optimizer state, and three counters."""

import dataclasses
import typing

import jax
import optax
from flax import nnx

from teleflm_jax.model.config import ModelConfig
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.mup import Mup


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """Arrays of the state."""

    model: Transformer
    optimizer: optax.OptState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counters:
    """Counters of the state, Python integers on the host: tokens pass 2^31 after 390 steps of the 52B run."""

    updates: int = 0
    """Optimizer updates done; the `step` of logs and checkpoints."""
    data_step: int = 0
    """Batches drawn; the next one is batch(data_step)."""
    tokens: int = 0
    """Tokens drawn."""


def new_model(config: ModelConfig, mup: Mup, seed: int) -> Transformer:
    """Return a model with initial weights, which depend on the seed and the shape alone."""
    return Transformer(config, mup, rngs=nnx.Rngs(params=seed))


def new_state(config: ModelConfig, mup: Mup, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """Return initial weights and a new optimizer state; trace it under `jax.jit`, or under `jax.eval_shape` for shapes alone."""
    model = new_model(config, mup, seed)
    return TrainState(model=model, optimizer=optimizer.init(typing.cast(optax.Params, model)))


def to_arrays(state: TrainState) -> dict:
    """Return the state as nested dictionaries of arrays, named as the weights are declared: the two parts of a checkpoint."""
    moments = {name: weights_of(optax.tree.get(state.optimizer, name)) for name in ("mu", "nu")}
    return {"model": weights_of(state.model), "optimizer": {**moments, "count": optax.tree.get(state.optimizer, "count")}}


def from_arrays(arrays: dict, like: TrainState) -> TrainState:
    """Undo `to_arrays`; `like` (arrays or shapes) gives the structure."""
    moments = {name: with_weights(like.model, arrays["optimizer"][name]) for name in ("mu", "nu")}
    optimizer = optax.tree.set(like.optimizer, count=arrays["optimizer"]["count"], **moments)
    return TrainState(model=with_weights(like.model, arrays["model"]), optimizer=optimizer)


def weights_of(model: nnx.Module) -> dict:
    """Return a model's arrays (or shapes) as nested dictionaries."""
    return nnx.to_pure_dict(nnx.state(model))


def with_weights(model: Transformer, weights: dict) -> Transformer:
    """Return the model with other arrays in the same places."""
    graph, state = nnx.split(model)
    nnx.replace_by_pure_dict(state, weights)
    return nnx.merge(graph, state)
