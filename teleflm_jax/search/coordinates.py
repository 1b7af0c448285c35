"""Coordinate check: mean absolute values of activations before and after a few updates, at several widths.

Under µP none of them grows with the width; under standard parametrisation some do. Source: Tensor Programs V, appendix D.1.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import mup
from teleflm_jax.model.attention import kernel
from teleflm_jax.model.layers import rope_tables
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.runs import train
from teleflm_jax.runs.config import RunConfig
from teleflm_jax.search import space, widths
from teleflm_jax.search.config import SearchConfig
from teleflm_jax.search.width_pictures import CoordinateRow
from teleflm_jax.train import restore
from teleflm_jax.train import step as train_step
from teleflm_jax.train.state import complete, factors


def check(config: RunConfig, search: SearchConfig, steps: int) -> list[CoordinateRow]:
    """Measure every width of the search under each parametrisation, on one device, at the base configuration's values.

    The updates have the peak rates of the schedule.
    """
    found = []
    for name in search.parametrisations:
        for width in search.widths:
            one = dataclasses.replace(search, widths=(width,), parametrisations=(name,))
            (values,) = widths.points(config, one, [{}])
            for step, sizes in enumerate(_sizes(space.apply(config, values), steps)):
                found += [
                    CoordinateRow(parametrisation=name, width=width, step=step, activation=activation, size=size)
                    for activation, size in sizes.items()
                ]
    return found


def exponents(found: Sequence[CoordinateRow]) -> dict[tuple[str, str, int], float]:
    """Return the power of the width that each (parametrisation, activation, step) grows with, by least squares of the logarithms."""
    keys = dict.fromkeys((row.parametrisation, row.activation, row.step) for row in found)
    own = {key: [row for row in found if (row.parametrisation, row.activation, row.step) == key] for key in keys}
    return {
        key: float(np.polyfit(np.log([row.width for row in rows]), np.log([row.size for row in rows]), 1)[0]) for key, rows in own.items()
    }


def _sizes(config: RunConfig, steps: int) -> Iterator[dict[str, float]]:
    """Yield the mean absolute value of each activation before the first update and after each one."""
    width, layout = mup.at_width(config.mup, config.model.d_model), rules.layout(MeshConfig(), config.model.d_model, jax.devices()[:1])
    state = restore.initializer(config.model, layout)(factors(width), jax.random.key(config.train.seed))
    microbatch = train_step.microbatch(config.model, config.train, layout)
    step = train_step.make(config.optimizer, layout, microbatch, config.train.accumulation_dtype)
    rates = {role: (rule.learning_rate,) * train_step.RATE_CANDIDATES for role, rule in width.rules.items()}
    inputs = train_step.step_inputs(layout, config.optimizer, width, rates=rates, updates=0, host_signals=(0, 0), check_copies=False)
    with train.open_data(config).iterate(0, process=0, num_processes=1) as batches:
        tokens = jnp.asarray(next(batches)["tokens"])
        for _ in range(steps):
            yield _mean_sizes(complete(state.model, width), tokens)
            state, _ = step(state, layout.place_batch(next(batches), config.train.batch_size), inputs)
        yield _mean_sizes(complete(state.model, width), tokens)


def _mean_sizes(model: Transformer, tokens_BT: jax.Array) -> dict[str, float]:
    return {name: float(size) for name, size in _activations(model, tokens_BT).items()}


@jax.jit
def _activations(model: Transformer, tokens_BT: jax.Array) -> dict[str, jax.Array]:
    rope = rope_tables(jnp.arange(tokens_BT.shape[1])[None], model.config)
    attend = kernel(dataclasses.replace(model.config, document_attention=False), None)
    embedded = x_BTD = model.embed(tokens_BT)
    for layer in range(model.config.num_layers):
        x_BTD = jax.tree.map(lambda w: w[layer], model.blocks)(x_BTD, rope, attend)  # noqa: B023
    found = {"embedding": embedded, "last layer": x_BTD, "logits": model.logits(model.final(x_BTD))}
    return {name: jnp.abs(x.astype(jnp.float32)).mean() for name, x in found.items()}
