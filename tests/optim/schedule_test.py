"""The schedules: the published values, their shapes, and counters far above 32 bits."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.errors import UserError
from teleflm_jax.optim import config as settings
from teleflm_jax.optim import schedule
from teleflm_jax.optim.config import OptimizerConfig

PEAK, MINIMUM = 1.5e-4, 1.5e-5
TOKENS_PER_STEP = 1_344 * 4_096
REPORT = OptimizerConfig(warmup_steps=2_000, decay_tokens=2_500_000_000_000)


def rate(tokens, config=REPORT, tokens_per_step=TOKENS_PER_STEP):
    return schedule.learning_rate(PEAK, MINIMUM, tokens=tokens, tokens_per_step=tokens_per_step, config=config)


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


@given(step=st.integers(0, 2**40), name=st.sampled_from(settings.SCHEDULES))
def test_it_only_rises_in_the_warmup_and_only_falls_after_it(step, name):
    config = dataclasses.replace(REPORT, schedule=name, stable_tokens=2 * 10**12 if name == "wsd" else 0)
    here, there = (rate(n * TOKENS_PER_STEP, config) for n in (step, step + 1))
    assert 0 < here < there if step < REPORT.warmup_steps - 1 else PEAK >= here >= there >= MINIMUM * (1 - 1e-12)


def test_every_name_has_a_schedule():
    assert set(schedule.SCHEDULES) == set(settings.SCHEDULES)


def test_the_schedules_by_hand():
    def rates(tokens, **config):
        given = OptimizerConfig(warmup_steps=2, decay_tokens=1_000, **config)
        return [schedule.learning_rate(8.0, 4.0, tokens=n, tokens_per_step=100, config=given) for n in tokens]

    assert rates([0, 100, 200, 400, 600, 800, 1_000, 9_999], schedule="linear") == [4, 8, 8, 7, 6, 5, 4, 4]
    assert rates([0, 100, 200, 10**15], schedule="constant") == [4, 8, 8, 8]
    assert rates([0, 100, 200, 599, 600, 700, 800, 1_000, 9_999], schedule="wsd", stable_tokens=600) == [4, 8, 8, 8, 8, 7, 6, 4, 4]


@given(peak=st.floats(1e-6, 1), ratio=st.floats(0, 1), tokens=st.integers(11_010_048_000, 2_000_000_000_000))
def test_the_stable_phase_is_the_peak_to_the_last_bit(peak, ratio, tokens):
    given = dataclasses.replace(REPORT, schedule="wsd", stable_tokens=2_000_000_000_000)
    assert schedule.learning_rate(peak, peak * ratio, tokens=tokens, tokens_per_step=TOKENS_PER_STEP, config=given) == peak
    end = schedule.learning_rate(peak, peak * ratio, tokens=REPORT.decay_tokens, tokens_per_step=TOKENS_PER_STEP, config=given)
    assert end == peak * ratio


def test_tokens_do_not_wrap_at_32_bits():
    around = [rate(tokens) for tokens in (2**31 - 1, 2**31, 2**31 + 1, 2**32, 2**32 + 1)]
    assert around == sorted(around)


def test_a_warmup_as_long_as_the_schedule_is_refused():
    with pytest.raises(UserError, match=r"got optimizer.warmup_steps=10 .*optimizer.decay_tokens=40; allowed.*change"):
        rate(0, OptimizerConfig(warmup_steps=10, decay_tokens=40), tokens_per_step=4)
    with pytest.raises(UserError, match=r"got optimizer.warmup_steps=10 .*optimizer.stable_tokens=40; allowed.*change"):
        rate(0, OptimizerConfig(schedule="wsd", warmup_steps=10, stable_tokens=40, decay_tokens=80), tokens_per_step=4)
    assert rate(36, OptimizerConfig(schedule="constant", warmup_steps=10, decay_tokens=40), tokens_per_step=4) == PEAK


@pytest.mark.parametrize(
    "given, words",
    [
        ({"schedule": "exponential"}, "optimizer.schedule='exponential'; allowed: cosine, linear, constant, wsd; change"),
        ({"schedule": "wsd"}, "optimizer.stable_tokens=0 with optimizer.schedule='wsd'; allowed.*change"),
        ({"schedule": "wsd", "stable_tokens": 10, "decay_tokens": 10}, "allowed: .* less than optimizer.decay_tokens=10"),
        ({"stable_tokens": 10}, "optimizer.stable_tokens=10 with optimizer.schedule='cosine'; allowed: only with wsd"),
    ],
)
def test_settings_that_name_no_schedule_are_refused(given, words):
    with pytest.raises(UserError, match=words):
        OptimizerConfig(**given)


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


def test_where_a_stable_phase_ends_is_told_and_a_constant_rate_has_no_end():
    given = OptimizerConfig(schedule="wsd", warmup_steps=1, stable_tokens=800, decay_tokens=1_000)
    assert schedule.end(given, 10, 100) == (
        "the learning rate stays at its peak up to step 80; the learning rate reaches its minimum at step 100, the last one"
    )
    assert schedule.end(given, 10, 80) == (
        "the run ends at step 80, before the learning rate decays after step 80 "
        "(optimizer.stable_tokens is 800, and the run draws 800 tokens)"
    )
    assert schedule.borders(given, 10) == [10, 800, 1_000]
    given = OptimizerConfig(schedule="constant", warmup_steps=5)
    assert schedule.end(given, 10, 100) == "the learning rate stays at its peak after 5 warm-up steps"
    assert schedule.decay_step(given, 10) is None and schedule.borders(given, 10) == [50]
