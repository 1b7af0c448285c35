"""Coordinate check: root mean squares of activations, and of their changes by a few updates, at several widths.

Under µP none of them depends on the width, except that logits at the start fall with it; under standard parametrisation some grow.
Source: Tensor Programs V, appendix D.1.
"""

import dataclasses

import jax
import jax.numpy as jnp

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import mup
from teleflm_jax.model.attention import kernel
from teleflm_jax.model.layers import rope_tables
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.runs import train
from teleflm_jax.runs.config import RunConfig
from teleflm_jax.search import space, widths
from teleflm_jax.search.config import MUP, SearchConfig
from teleflm_jax.train import restore
from teleflm_jax.train import step as train_step
from teleflm_jax.train.state import complete, factors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coordinates:
    """Scales at one width."""

    width: int
    parametrisation: str
    scales: dict[str, float]
    """Name -> root mean square: of embedding, last layer and logits at the start, and of their changes."""


def check(config: RunConfig, search: SearchConfig, steps: int) -> list[Coordinates]:
    """Measure every width of the search under each parametrisation, on one device, at the base configuration's values.

    The updates have the peak rates of the schedule.
    """
    found = []
    for name in search.parametrisations:
        for width in search.widths:
            one = dataclasses.replace(search, widths=(width,), parametrisations=(name,))
            (values,) = widths.points(config, one, [{}])
            found.append(Coordinates(width=width, parametrisation=name, scales=_scales(space.apply(config, values), steps)))
    return found


def exponents(found: list[Coordinates], parametrisation: str = MUP) -> dict[str, float]:
    """Return for each scale the power of the width that it grows with, by least squares of the logarithms."""
    chosen = [one for one in found if one.parametrisation == parametrisation]
    log_widths = jnp.log(jnp.array([one.width for one in chosen]))
    return {
        name: float(jnp.polyfit(log_widths, jnp.log(jnp.array([one.scales[name] for one in chosen])), 1)[0]) for name in chosen[0].scales
    }


def _scales(config: RunConfig, steps: int) -> dict[str, float]:
    width, layout = mup.at_width(config.mup, config.model.d_model), rules.layout(MeshConfig(), config.model.d_model, jax.devices()[:1])
    state = restore.initialise(config.model, layout)(factors(width), jax.random.key(config.train.seed))
    microbatch = train_step.microbatch(config.model, config.train, layout)
    step = train_step.make(config.optimizer, layout, microbatch, config.train.accumulation_dtype)
    rates = {role: (rule.learning_rate,) * train_step.RATE_CANDIDATES for role, rule in width.rules.items()}
    inputs = train_step.step_inputs(layout, config.optimizer, width, rates=rates, updates=0, host_signals=(0, 0), check_copies=False)
    with train.open_data(config).iterate(0, process=0, num_processes=1) as batches:
        batch = next(batches)
        tokens = jnp.asarray(batch["tokens"])
        before = _activations(complete(state.model, width), tokens)
        for _ in range(steps):
            state, _ = step(state, layout.place_batch(batch, config.train.batch_size), inputs)
            batch = next(batches)
        after = _activations(complete(state.model, width), tokens)
    rms = {name: float(jnp.sqrt(jnp.mean(jnp.square(x)))) for name, x in before.items()}
    return rms | {f"change of {name}": float(jnp.sqrt(jnp.mean(jnp.square(after[name] - x)))) for name, x in before.items()}


@jax.jit
def _activations(model: Transformer, tokens_BT: jax.Array) -> dict[str, jax.Array]:
    rope, attend = (
        rope_tables(jnp.arange(tokens_BT.shape[1])[None], model.config),
        kernel(dataclasses.replace(model.config, document_attention=False), None),
    )
    embedded = x_BTD = model.embed(tokens_BT)
    for layer in range(model.config.num_layers):
        x_BTD = jax.tree.map(lambda w: w[layer], model.blocks)(x_BTD, rope, attend)  # noqa: B023
    found = {"embedding": embedded, "last layer": x_BTD, "logits": model.logits(model.final(x_BTD))}
    return {name: x.astype(jnp.float32) for name, x in found.items()}
