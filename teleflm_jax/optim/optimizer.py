"""AdamW under µP: clip, Adam, masked decoupled decay, then the rate of each weight's role.

Source: report, section 3.5 and table 4. The order is fixed so that decay is scaled by the same per-role rate as the step itself, as in
AdamW; it acts on matrix-like weights only.
"""

import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from flax import nnx

from teleflm_jax.mup import DECAYED, Mup
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.optim.schedule import learning_rate


def make_optimizer(*, beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformationExtraArgs:
    """Make the optimizer. Its `update` takes `rates={role: scalar}`, `clip_norm` and `weight_decay`, numbers or traced scalars.

    What a search varies is an input; betas and epsilon are constants, since 1 - beta would be rounded differently as an input.
    """
    return optax.chain(
        _from_inputs(lambda inputs: optax.clip_by_global_norm(inputs["clip_norm"])),
        optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon),
        _from_inputs(lambda inputs: optax.add_decayed_weights(inputs["weight_decay"], mask=_decayed)),
        _scale_by_role(),
    )


def initial_state(model: Any) -> optax.OptState:
    """Return the optimizer's state before the first update, which depends on the weights' shapes alone."""
    return make_optimizer(beta1=0.0, beta2=0.0, epsilon=1.0).init(model)


def adam(config: OptimizerConfig) -> dict[str, float]:
    """Return the settings that are constants of the optimizer, the arguments of `make_optimizer`."""
    return {"beta1": config.beta1, "beta2": config.beta2, "epsilon": config.epsilon}


def learning_rates(config: OptimizerConfig, mup: Mup, *, tokens: int, tokens_per_step: int) -> dict[str, float]:
    """Return the learning rate of every role for the update that starts after `tokens` tokens.

    It is computed on the host in Python numbers: 2.5T tokens do not fit in the 32-bit integers of a device.
    """
    return {
        role: learning_rate(rule.learning_rate, rule.minimum_learning_rate, tokens=tokens, tokens_per_step=tokens_per_step, config=config)
        for role, rule in mup.rules.items()
    }


def roles(model: Any) -> Any:
    """Return the model's tree with the declared µP role in place of every weight."""
    return jax.tree.map(lambda param: param.role, model, is_leaf=lambda node: isinstance(node, nnx.Variable))


def _decayed(model: Any) -> Any:
    """Return the model's tree with True for weights that decay."""
    return jax.tree.map(lambda role: role in DECAYED, roles(model))


def _from_inputs(make: Callable[[Mapping[str, Any]], optax.GradientTransformation]) -> optax.GradientTransformationExtraArgs:
    """Return the transformation without a state that `make` builds from the inputs of each update."""

    def update(updates, state, params=None, **inputs):
        transformation = make(inputs)
        return transformation.update(updates, transformation.init(typing.cast(optax.Params, params)), params)[0], state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _scale_by_role() -> optax.GradientTransformationExtraArgs:
    def update(updates, state, params=None, **extra):
        rates: Mapping[str, jax.Array] = extra["rates"]
        scaled = jax.tree.map(lambda role, update: jax.tree.map(lambda u: -rates[role] * u, update), roles(params), updates)
        return scaled, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
