"""µP: one table from the role of a weight to its initial std, learning rates and multipliers at any width.

Source: report, section 3.5 and table 4; transfer rule of Tensor Programs V, table 8. A configuration states the searched values once, at
the base width; all other values are derived here, and initialisation and optimizer read only these.
"""

import dataclasses
import math

from teleflm_jax.errors import refuse_outside

MATRIX = "matrix"
"""Both dimensions grow with width: q, k, v, o, gate, up, down."""
VECTOR = "vector"
"""One dimension grows with width: embedding and head."""
GAIN = "gain"
"""Norm gains: the learning rate of vectors, and an initial value of one."""
BIAS = "bias"
"""Output biases, in models that have them: the learning rate of vectors, and an initial value of zero."""
DECAYED = (MATRIX,)
"""Roles to which weight decay, when it is on, applies."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MupConfig:
    """The seven searched hyper-parameters at the base width (rates and minima have one field for each role)."""

    base_width: int = 256
    """Width (d_model) at which the values below hold; if it equals model.d_model, nothing is transferred."""
    learning_rate: float = 1.5e-4
    matrix_learning_rate: float = 4.8e-3
    minimum_learning_rate: float = 1.5e-5
    matrix_minimum_learning_rate: float = 4.8e-4
    std: float = 4e-3
    matrix_std: float = 2.4e-2
    input_multiplier: float = 1.0
    output_multiplier: float = 1.0

    def __post_init__(self):
        least = {field.name: 0 if "minimum" in field.name else None for field in dataclasses.fields(self)}
        refuse_outside("mup", self, **least)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """Values of one role at one width."""

    std: float
    """Standard deviation of the initial truncated normal; 0 for gains and biases, which start at one and at zero."""
    learning_rate: float
    minimum_learning_rate: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mup:
    """All values that depend on the width: a rule for each role, and the two multipliers."""

    rules: dict[str, Rule]
    input_multiplier: float
    output_multiplier: float


def at_width(config: MupConfig, d_model: int) -> Mup:
    """Transfer the searched values to a model of width `d_model`.

    With r = d_model / base_width: matrix-like rates and minima ÷ r, matrix-like std ÷ sqrt(r), output multiplier ÷ r, the rest unchanged.
    """
    r = d_model / config.base_width
    vector = {"learning_rate": config.learning_rate, "minimum_learning_rate": config.minimum_learning_rate}
    matrix = Rule(
        std=config.matrix_std / math.sqrt(r),
        learning_rate=config.matrix_learning_rate / r,
        minimum_learning_rate=config.matrix_minimum_learning_rate / r,
    )
    return Mup(
        rules={MATRIX: matrix, VECTOR: Rule(std=config.std, **vector), GAIN: Rule(std=0.0, **vector), BIAS: Rule(std=0.0, **vector)},
        input_multiplier=config.input_multiplier,
        output_multiplier=config.output_multiplier / r,
    )
