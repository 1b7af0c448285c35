"""State that a run carries from step to step: weights, optimizer state, and three counters."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from teleflm_jax.model.config import ModelConfig
from teleflm_jax.model.layers import STD_OF_TRUNCATED
from teleflm_jax.model.transformer import Multipliers, Transformer
from teleflm_jax.mup import Mup, Rule
from teleflm_jax.optim.optimizer import initial_state, roles
from teleflm_jax.passes.indexing import replace


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """Arrays of the state."""

    model: Transformer
    """Weights; without multipliers, which are inputs of each step."""
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


def new_model(config: ModelConfig, mup: Mup, seed: int | jax.Array) -> Transformer:
    """Return a model with initial weights, which depend on the seed and the shape alone."""
    return Transformer(config, mup, rngs=nnx.Rngs(params=seed))


def new_state(config: ModelConfig, mup: Mup, seed: int | jax.Array) -> TrainState:
    """Return initial weights and a new optimizer state; trace it under `jax.jit`, or under `jax.eval_shape` for shapes alone."""
    model = replace(new_model(config, mup, seed), multipliers=None)
    return TrainState(model=model, optimizer=initial_state(model))


def factors(mup: Mup) -> dict[str, np.float32]:
    """Return the factors of `scaled_state`, one for each role that starts from random values."""
    return {role: np.float32(rule.std / STD_OF_TRUNCATED) for role, rule in mup.rules.items() if rule.std}


def scaled_state(config: ModelConfig, factors: Mapping[str, Any], key: jax.Array) -> TrainState:
    """Return the same as `new_state`, of arrays, so that runs of one shape share the program that initialises them.

    Args:
        config: of the model.
        factors: by role, what a unit normal, truncated at two standard deviations, is multiplied with.
        key: `jax.random.key(seed)`.
    """
    unit = {role: Rule(std=STD_OF_TRUNCATED, learning_rate=0.0, minimum_learning_rate=0.0) for role in factors}
    state = new_state(config, Mup(rules=unit, input_multiplier=1.0, output_multiplier=1.0), key)

    def scale(role: str, weight: Any) -> Any:
        return jax.tree.map(lambda x: x * factors[role], weight) if role in factors else weight

    return TrainState(model=jax.tree.map(scale, roles(state.model), state.model), optimizer=state.optimizer)


def complete(model: Transformer, mup: Mup) -> Transformer:
    """Return the model of a state with its multipliers."""
    return replace(model, multipliers=Multipliers.of(mup))


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
