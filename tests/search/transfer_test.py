"""Transfer across widths: hand-made parabolas, intervals, refusals."""

import math

import numpy as np
import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.search import transfer
from teleflm_jax.search.transfer import RateRun

RATES = [2.0**-k for k in range(12, 5, -1)]


def run(width, rate, loss, *, seed=0, name="mup", base=256, **shape):
    return RateRun(width=width, rate=rate, seed=seed, loss=loss, parametrisation=name, base_width=base, shape=shape)


def parabolas(best, *, name="mup", seeds=1, noise=0.0, draw=0, rates=RATES):
    """Runs whose loss is 3 + (log2 rate - best[width])² / 10 - log2(width) / 10."""
    generator = np.random.default_rng(draw)
    return [
        run(
            width,
            rate,
            3 + (math.log2(rate) - place) ** 2 / 10 - math.log2(width) / 10 + noise * generator.normal(),
            seed=seed,
            name=name,
            base=256 if name == "mup" else width,
        )
        for width, place in best.items()
        for rate in rates
        for seed in range(seeds)
    ]


def test_the_optimum_of_a_parabola_is_found_between_the_rates():
    (found,) = transfer.judge(parabolas({256: -9.3, 512: -9.3, 1024: -9.3}))
    for one in found.optima:
        assert math.log2(one.rate) == pytest.approx(-9.3)
        assert one.loss == pytest.approx(3 - math.log2(one.width) / 10)
    assert found.drift == pytest.approx(0, abs=1e-9) and found.penalty == pytest.approx(0, abs=1e-9)
    assert any("one seed" in note for note in found.notes)


def test_drift_is_in_octaves_per_doubling():
    mup, standard = transfer.judge(
        parabolas({256: -9.0, 512: -9.0, 1024: -9.0}) + parabolas({256: -8.0, 512: -9.0, 1024: -10.0}, name="standard"),
    )
    assert (mup.parametrisation, standard.parametrisation) == ("mup", "standard")
    assert mup.drift == pytest.approx(0, abs=1e-9)
    assert standard.drift == pytest.approx(-1) and standard.shift == pytest.approx(-2)
    assert standard.penalty == pytest.approx(0.4)  # two octaves off, (2²)/10


def test_a_rate_that_diverges_at_the_widest_width_costs_everything():
    narrow = [run(256, 2.0**k, 3 + (k - 3) ** 2) for k in range(5)]
    wide = [run(512, 2.0**k, 3 + (k - 1) ** 2 if k < 3 else math.nan) for k in range(5)]
    (found,) = transfer.judge(narrow + wide)
    assert found.penalty == math.inf and found.shift == pytest.approx(-2)


def test_published_optima_drift_by_one_octave():
    # Best rates at widths 128 … 2,048 under standard parametrisation. Source: NVIDIA/Megatron-LM#3058.
    best = {128: 9.8e-4, 256: 4.9e-4, 512: 2.4e-4, 1024: 1.2e-4, 2048: 6.1e-5}
    rates = [2.0**-k for k in range(17, 6, -1)]
    (found,) = transfer.judge(parabolas({width: math.log2(rate) for width, rate in best.items()}, name="standard", rates=rates))
    assert found.drift == pytest.approx(-1, abs=0.01)


def test_intervals_hold_the_truth_and_grow_with_the_noise():
    lengths, inside = [], []
    for noise in (0.002, 0.02):
        for draw in range(8):
            (found,) = transfer.judge(parabolas({256: -9.0, 512: -9.0, 1024: -9.0}, seeds=3, noise=noise, draw=draw), samples=100)
            inside += [one.low < 2**-9 < one.high for one in found.optima]
        lengths.append(found.drift_high - found.drift_low)
    assert sum(inside) >= 42  # of 48; 45.6 are expected of 95 % intervals
    assert lengths[1] > 4 * lengths[0]


def test_an_optimum_at_the_edge_is_not_bracketed_and_not_used():
    (found,) = transfer.judge(parabolas({256: -9.0, 512: -9.0, 1024: -5.0}))
    assert [one.bracketed for one in found.optima] == [True, True, False]
    assert math.isnan(found.optima[2].low) and found.optima[2].rate == RATES[-1]
    assert found.drift == pytest.approx(0, abs=1e-9)
    assert "width 1024: not bracketed, the best rate is the highest tried (0.0156)" in found.notes[0]


def test_a_diverged_rate_brackets_from_above_but_is_not_fitted():
    runs = [run(width, rate, loss) for width in (256, 512) for rate, loss in zip((1, 2, 4, 8), (3.2, 3.1, 3.0, math.nan), strict=True)]
    (found,) = transfer.judge(runs)
    assert [(one.bracketed, one.rate) for one in found.optima] == [(True, 4.0)] * 2


def test_wider_is_compared_at_the_narrowest_width_s_rate():
    base = {256: [3.00, 3.02], 512: [2.90, 2.92], 1024: [3.10, 3.12]}
    runs = [run(w, r, x + abs(math.log2(r)), seed=i) for w, xs in base.items() for r in (0.5, 1.0, 2.0) for i, x in enumerate(xs)]
    (found,) = transfer.judge(runs)
    assert found.chosen_rate == 1.0
    better, worse = found.steps
    assert better.difference == pytest.approx(-0.1) and not better.worse
    assert worse.difference == pytest.approx(0.2) and worse.worse
    assert worse.allowed == pytest.approx(2 * math.sqrt(2 * 0.0002 / 2))  # variance of two seeds 0.02 apart is 0.0002


def test_a_difference_within_two_standard_errors_is_not_worse():
    assert not transfer.WidthStep(narrow=1, wide=2, difference=0.01, allowed=0.02).worse
    assert transfer.WidthStep(narrow=1, wide=2, difference=0.01, allowed=math.nan).worse


@pytest.mark.parametrize("name", ["head size", "layers", "vocabulary", "batch tokens", "steps"])
def test_runs_that_differ_in_more_than_width_are_refused(name):
    runs = [run(width, rate, 3.0, **{name: 4 if width == 256 else 8}) for width in (256, 512) for rate in (1, 2, 4)]
    with pytest.raises(UserError, match=f"got runs with {name} 4 and 8; allowed: one"):
        transfer.judge(runs)


@pytest.mark.parametrize(
    "runs, message",
    [
        ([], "got no finished run"),
        ([run(w, r, 3.0, base=w) for w in (256, 512) for r in (1, 2, 4)], r"base widths \[256, 512\]; allowed: one"),
        ([run(w, r, 3.0, name="standard") for w in (256, 512) for r in (1, 2, 4)], "mup.base_width = 256; allowed: its own width"),
        ([run(256, r, 3.0) for r in (1, 2, 4)], "got 1 widths and 3 rates"),
        ([run(w, r, 3.0) for w in (256, 512) for r in (1, 2)], "got 2 widths and 2 rates"),
        ([run(w, r, 3.0, name="ntk") for w in (256, 512) for r in (1, 2, 4)], "got parametrisation 'ntk'"),
        ([run(w, r, math.nan) for w in (256, 512) for r in (1, 2, 4)], "only diverged runs at width 256"),
    ],
)
def test_what_cannot_be_judged_is_refused(runs, message):
    with pytest.raises(UserError, match=message):
        transfer.judge(runs)


def test_narrow_and_shallow_models_are_noted():
    (found,) = transfer.judge([run(w, r, 3.0 + abs(math.log2(r)), layers=2) for w in (64, 128) for r in (0.5, 1, 2)])
    assert any("below 256" in note for note in found.notes) and any("2 layers" in note for note in found.notes)
