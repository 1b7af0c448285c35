"""µP's transfer: the searched values at the base width give the whole published table."""

import pytest

from teleflm_jax import mup
from teleflm_jax.errors import UserError

# Width -> std, rate and minimum of matrix-like weights, output multiplier. 256, 512 and 8,192 as published (4.242e-3 is printed for
# 2.4e-2 / sqrt(32) = 4.2426e-3, cut and not rounded); 10,240 and 20,480 by the same rule.
PUBLISHED = {
    256: (2.4e-2, 4.8e-3, 4.8e-4, 1.0),
    512: (1.697e-2, 2.4e-3, 2.4e-4, 0.5),
    8_192: (4.2426e-3, 1.5e-4, 1.5e-5, 3.125e-2),
    10_240: (3.795e-3, 1.2e-4, 1.2e-5, 2.5e-2),
    20_480: (2.683e-3, 6.0e-5, 6.0e-6, 1.25e-2),
}


@pytest.mark.parametrize("d_model", PUBLISHED)
def test_the_published_table(d_model):
    std, rate, minimum, multiplier = PUBLISHED[d_model]
    values = mup.at_width(mup.MupConfig(), d_model)
    matrix = values.rules[mup.MATRIX]
    assert matrix.std == pytest.approx(std, rel=2e-4), "four printed digits"
    assert matrix.learning_rate == pytest.approx(rate, rel=1e-12)
    assert matrix.minimum_learning_rate == pytest.approx(minimum, rel=1e-12)
    assert values.output_multiplier == pytest.approx(multiplier, rel=1e-12)
    assert values.input_multiplier == 1.0
    for role in (mup.VECTOR, mup.GAIN, mup.BIAS):
        rule = values.rules[role]
        assert (rule.learning_rate, rule.minimum_learning_rate) == (1.5e-4, 1.5e-5)
    assert values.rules[mup.VECTOR].std == 4e-3
    assert values.rules[mup.GAIN].std == values.rules[mup.BIAS].std == 0.0


def test_the_released_1t_scales_its_logits_by_two_eightieths():
    assert mup.at_width(mup.MupConfig(output_multiplier=2.0), 20_480).output_multiplier == 2.0 / 80


def test_at_the_base_width_nothing_is_transferred():
    config = mup.MupConfig(base_width=1_000)
    values = mup.at_width(config, 1_000)
    assert values.rules[mup.MATRIX].std == config.matrix_std
    assert values.rules[mup.MATRIX].learning_rate == config.matrix_learning_rate
    assert values.output_multiplier == config.output_multiplier


@pytest.mark.parametrize("field", ["learning_rate", "matrix_std", "base_width", "output_multiplier"])
@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan")])
def test_values_that_train_nothing_are_refused(field, value):
    with pytest.raises(UserError, match=f"mup.{field}"):
        mup.MupConfig(**{field: value})
