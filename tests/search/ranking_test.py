"""Ranking of points: each criterion by hand, order, ties, refusals."""

import numpy as np
import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.search import ranking
from teleflm_jax.search.ranking import Curve

TOKENS = np.arange(1.0, 301) * 1_000


def curve(point, seed=0, *, slope=-0.5, level=10.0, heldout=None, outcome="completed", noise=0.0, norm=None, tokens=TOKENS, spike=()):
    generator = np.random.default_rng(100 * point + seed)
    loss = level + slope * np.log(tokens) + noise * generator.normal(size=len(tokens))
    loss[list(spike)] += 5.0
    return Curve(
        point=point,
        seed=seed,
        values={"mup.std": point / 10},
        tokens=tokens,
        loss=loss,
        grad_norm=np.ones(len(tokens)) if norm is None else norm,
        warmup_tokens=20_000,
        heldout=heldout,
        outcome=outcome,
    )


def test_the_slope_is_that_of_loss_against_log_tokens():
    found = ranking.measure(curve(0, slope=-0.5))
    assert found["decrease"].mean == pytest.approx(0.5)
    assert found["residual"].mean == pytest.approx(0, abs=1e-9)
    assert found["loss"].mean == pytest.approx(np.mean(10 - 0.5 * np.log(TOKENS[-14:])))  # a twentieth of the 280 rows after warm-up


def test_rows_of_the_warm_up_are_not_judged():
    wild = curve(0)
    wild.loss[:20] += 3.0
    assert ranking.measure(wild)["decrease"].mean == pytest.approx(0.5)


def test_one_wild_row_does_not_move_the_slope():
    assert ranking.measure(curve(0, spike=[150]))["decrease"].mean == pytest.approx(0.5, abs=1e-3)


def test_long_curves_are_averaged_over_equal_parts_of_log_tokens():
    time, loss = ranking.blocks(np.log(np.arange(1.0, 10_001)), 7 - 2 * np.log(np.arange(1.0, 10_001)))
    assert len(time) <= ranking.BLOCKS and loss == pytest.approx(7 - 2 * time)


def test_the_residual_is_the_scatter_about_the_trend():
    assert ranking.measure(curve(0, noise=0.1))["residual"].mean == pytest.approx(0.1, rel=0.3)  # a σ from at most 256 values


def test_spikes_are_counted_against_the_128_steps_before():
    noise = np.random.default_rng(0).normal(size=300) * 0.01
    loss = 5 + noise
    assert ranking.spikes(loss) == 0
    loss[200] += 1.0
    assert ranking.spikes(loss) == 1
    loss[250] += 5.0
    assert ranking.spikes(loss) == 2
    assert ranking.spikes(loss[:128]) is None and ranking.spikes(loss[:129]) == 0


def test_the_gradient_norm_is_judged_by_its_variation_and_its_slope():
    norm = np.where(np.arange(300) % 2, 3.0, 1.0)
    found = ranking.measure(curve(0, norm=norm))
    assert found["gradient_variation"].mean == pytest.approx(0.5)
    rising = ranking.measure(curve(0, norm=TOKENS**0.7))
    assert rising["gradient_slope"].mean == pytest.approx(0.7)


def test_points_are_ordered_by_held_out_loss_and_then_by_decrease():
    found = ranking.rank(
        [curve(p, s, heldout=h + s * 0.01, slope=k) for p, h, k in ((1, 1.30, -0.4), (2, 1.002, -0.4), (3, 1.00, -0.3)) for s in (0, 1)]
    )
    # seeds lie 0.01 apart: σ = 0.01 / sqrt(2); 1.002 and 1.00 tie, and the steeper of them comes first
    assert found.tolerance["heldout"] == pytest.approx(0.01 / np.sqrt(2))
    assert [(one.point, one.rank, one.tied) for one in found.points] == [(2, 1, True), (3, 1, True), (1, 3, False)]
    assert found.chosen.values == {"mup.std": 0.2}
    assert found.notes == ()


def test_without_spread_nothing_ties():
    found = ranking.rank([curve(p, s, heldout=1 + p * 1e-6) for p in (1, 2) for s in (0, 1)])
    assert [(one.rank, one.tied) for one in found.points] == [(1, False), (2, False)]


def test_the_order_of_criteria_can_be_the_report_s():
    curves = [curve(1, slope=-0.4, heldout=1.0), curve(2, slope=-0.9, level=20, heldout=2.0)]
    assert ranking.rank(curves).chosen.point == 1
    assert ranking.rank(curves, ("decrease", "residual", "gradient_variation", "heldout")).chosen.point == 2


def test_a_falling_gradient_norm_is_as_good_as_a_level_one():
    curves = [curve(1, norm=np.ones(300)), curve(2, norm=TOKENS**-0.5), curve(3, norm=TOKENS**0.5)]
    found = ranking.rank(curves, ("gradient_slope",))
    assert [(one.point, one.rank) for one in found.points] == [(1, 1), (2, 1), (3, 3)]


def test_one_seed_ties_by_the_scatter_of_the_run_and_says_so():
    found = ranking.rank([curve(1, heldout=1.00, noise=0.1), curve(2, heldout=1.01, noise=0.1), curve(3, heldout=2.0, noise=0.1)])
    assert [one.rank for one in found.points] == [1, 1, 3]
    assert found.notes[0].startswith("one seed a point")


def test_a_point_with_a_diverged_seed_comes_last_and_unfinished_ones_are_marked():
    found = ranking.rank(
        [curve(1, 0, heldout=1.0), curve(1, 1, outcome="diverged"), curve(2, 0, heldout=2.0), curve(2, 1, outcome="running")]
        + [curve(3, seed, outcome="waiting", tokens=TOKENS[:0]) for seed in (0, 1)]
    )
    assert [(one.point, one.rank, one.diverged, one.unfinished) for one in found.points] == [(2, 1, 0, 1), (3, None, 0, 2), (1, None, 1, 0)]
    assert "provisional: some trials have not finished" in found.notes


def test_the_training_loss_takes_the_place_of_a_missing_held_out_loss():
    found = ranking.rank([curve(1, level=11.0), curve(2, level=10.0)])
    assert found.chosen.point == 2 and found.rank_by[0] == "loss"
    assert found.notes[0].startswith("not every trial has a held-out loss")


def test_short_runs_say_that_spikes_were_not_counted():
    found = ranking.rank([curve(1, tokens=TOKENS[:100]), curve(2, tokens=TOKENS[:100])])
    assert "spikes" not in found.rank_by and any("more than 128 steps" in note for note in found.notes)


@pytest.mark.parametrize(
    "curves, rank_by, message",
    [
        ([curve(1, outcome="waiting")], ranking.RANK_BY, "without a completed trial"),
        ([curve(1), curve(2, tokens=TOKENS[:150])], ranking.RANK_BY, "got trials of 150000 and of 300000 tokens; allowed: one horizon"),
        ([curve(1), curve(1, 1, outcome="diverged")], ranking.RANK_BY, "each point has a trial that diverged"),
        ([curve(1)], ("speed",), "got search.rank_by with 'speed'; allowed: heldout, loss"),
        ([curve(1)], ("loss", "loss"), "each criterion at most once"),
        ([curve(1)], (), "at least one"),
        ([curve(1, tokens=TOKENS[:22])], ("loss",), "got 2 finite rows after warm-up in point 1, seed 0"),
    ],
)
def test_what_cannot_be_ranked_is_refused(curves, rank_by, message):
    with pytest.raises(UserError, match=message):
        ranking.rank(curves, rank_by)
