"""AdamW under µP: clip, Adam, masked decoupled decay, then the rate of each weight's role.

Source: report, section 3.5 and table 4. The order is fixed so that decay is scaled by the same per-role rate as the step itself, as in
AdamW; it acts on matrix-like weights only.
"""

from collections.abc import Mapping
from typing import Any

import jax
import optax
from flax import nnx

from teleflm_jax.mup import Mup
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.optim.schedule import learning_rate


def make_optimizer(config: OptimizerConfig, mup: Mup) -> optax.GradientTransformationExtraArgs:
    """Make the optimizer; its `update` takes the rates of the step as `rates={role: scalar}`."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=lambda model: jax.tree.map(lambda role: mup.rules[role].decayed, roles(model))),
        _scale_by_role(),
    )


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


def _scale_by_role() -> optax.GradientTransformationExtraArgs:
    def update(updates, state, params=None, **extra):
        rates: Mapping[str, jax.Array] = extra["rates"]
        scaled = jax.tree.map(lambda role, update: jax.tree.map(lambda u: -rates[role] * u, update), roles(params), updates)
        return scaled, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
