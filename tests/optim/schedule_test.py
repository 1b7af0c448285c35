"""The schedule: the published values, its shape, and counters far above 32 bits."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.errors import UserError
from teleflm_jax.optim import schedule
from teleflm_jax.optim.config import OptimizerConfig

PEAK, MINIMUM = 1.5e-4, 1.5e-5
TOKENS_PER_STEP = 1_344 * 4_096
REPORT = OptimizerConfig(warmup_steps=2_000, decay_tokens=2_500_000_000_000)


def rate(tokens, config=REPORT, tokens_per_step=TOKENS_PER_STEP):
    return schedule.cosine(PEAK, MINIMUM, tokens=tokens, tokens_per_step=tokens_per_step, config=config)


def test_the_52b_run():
    assert rate(0) == rate(TOKENS_PER_STEP - 1) == pytest.approx(PEAK / 2_000, rel=1e-15)
    assert rate(999 * TOKENS_PER_STEP) == pytest.approx(PEAK / 2, rel=1e-15)
    assert rate(1_999 * TOKENS_PER_STEP) == rate(2_000 * TOKENS_PER_STEP - 1) == rate(2_000 * TOKENS_PER_STEP) == PEAK
    assert rate(2_001 * TOKENS_PER_STEP) < PEAK
    assert f"{rate(2_000_000_000_000):.2e}" == "2.80e-05"
    assert f"{rate(2_018_000_000_000):.2e}" == "2.71e-05"
    assert rate(2_500_000_000_000) == pytest.approx(MINIMUM, rel=1e-12)
    assert rate(10**19) == pytest.approx(MINIMUM, rel=1e-12)


def test_one_trillion_tokens_by_hand():
    done = (1e12 - 11_010_048_000) / (2.5e12 - 11_010_048_000)
    assert rate(1_000_000_000_000) == pytest.approx(1.5e-5 + 13.5e-5 * (1 + math.cos(math.pi * done)) / 2, rel=1e-12)


def test_half_way_down_is_the_mean():
    config = OptimizerConfig(warmup_steps=10, decay_tokens=1_010)
    assert rate(510, config, tokens_per_step=1) == pytest.approx((PEAK + MINIMUM) / 2, rel=1e-12)


def test_without_warmup_it_starts_at_the_peak():
    assert rate(0, OptimizerConfig(warmup_steps=0)) == PEAK


def test_a_warmup_of_one_step_is_none():
    config, none = (OptimizerConfig(warmup_steps=steps, decay_tokens=1_000) for steps in (1, 0))
    assert rate(0, config, tokens_per_step=4) == rate(4, config, tokens_per_step=4) == rate(0, none, tokens_per_step=4) == PEAK


@given(step=st.integers(0, 2**40))
def test_it_only_rises_in_the_warmup_and_only_falls_after_it(step):
    here, there = rate(step * TOKENS_PER_STEP), rate((step + 1) * TOKENS_PER_STEP)
    assert 0 < here < there if step < REPORT.warmup_steps - 1 else here >= there >= MINIMUM * (1 - 1e-12)


def test_tokens_do_not_wrap_at_32_bits():
    around = [rate(tokens) for tokens in (2**31 - 1, 2**31, 2**31 + 1, 2**32, 2**32 + 1)]
    assert around == sorted(around)


def test_a_warmup_as_long_as_the_schedule_is_refused():
    with pytest.raises(UserError, match=r"got optimizer.warmup_steps=10 .*optimizer.decay_tokens=40; allowed.*change"):
        rate(0, OptimizerConfig(warmup_steps=10, decay_tokens=40), tokens_per_step=4)


def test_where_the_decay_ends_against_the_run_s_last_step():
    config = OptimizerConfig(warmup_steps=1, decay_tokens=1_000)
    assert [schedule.decay_step(config, n) for n in (1, 10, 11, 999, 1_000, 1_001)] == [1_000, 100, 91, 2, 1, 1]
    assert schedule.end(config, 10, 100) == "the learning rate reaches its minimum at step 100, the last one"
    drawn = "(optimizer.decay_tokens is 1,000, and the run draws {} tokens)"
    assert schedule.end(config, 11, 200) == (
        "the learning rate reaches its minimum at step 91 of 200 and stays there " + drawn.format("2,200")
    )
    assert schedule.end(config, 10, 40) == (
        "the run ends at step 40, before the learning rate reaches its minimum at step 100 " + drawn.format("400")
    )
