"""Importance of settings: main effects computed by hand."""

import itertools

import numpy as np
import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.search.importance import PointLosses, importance


def grid(loss, *, seeds=(0.0,), **levels):
    return [
        PointLosses(values=dict(zip(levels, values, strict=True)), losses=tuple(loss(*values) + d for d in seeds))
        for values in itertools.product(*levels.values())
    ]


def test_main_effects_of_a_grid_by_hand():
    # a moves the loss by ±2, b by ±1: variances 4 and 1 of 5
    found = importance(grid(lambda a, b: 2 * a + b, a=(-1, 1), b=(-1, 1)), samples=5)
    assert found.settings == ("a", "b") and found.shares == pytest.approx([0.8, 0.2])
    assert found.method == "means at each value of a full grid"


def test_an_interaction_belongs_to_no_setting():
    found = importance(grid(lambda a, b: a * b, a=(-1, 1), b=(-1, 1)), samples=5)
    assert found.shares == pytest.approx([0, 0])


def test_points_that_are_no_grid_are_fitted_in_log():
    generator = np.random.default_rng(0)
    values = np.exp(generator.uniform(-6, 0, (200, 3)))
    points = [PointLosses(values={"rate": r, "std": s, "none": n}, losses=(np.log(r) ** 2 / 4 + np.log(s),)) for r, s, n in values]
    found = importance(points, samples=50)
    parts = np.array([(np.log(values[:, 0]) ** 2 / 4).var(), np.log(values[:, 1]).var()])
    total = np.array([point.losses[0] for point in points]).var()
    assert found.settings[2] == "none" and found.shares[2] < 1e-3
    assert dict(zip(found.settings, found.shares, strict=True)) == pytest.approx(
        {"rate": parts[0] / total, "std": parts[1] / total, "none": 0}, abs=0.01
    )
    assert np.all(found.intervals[:, 0] <= found.shares + 1e-6) and np.all(found.shares <= found.intervals[:, 1] + 1e-3)


def test_a_setting_that_does_not_vary_has_no_share():
    assert importance(grid(lambda a, b: a, a=(1, 2, 3, 4), b=(1,)), samples=5).settings == ("a",)


def test_a_grid_without_a_diverged_point_is_fitted_and_noted():
    points = grid(lambda a, b: 2 * a + b, a=(-1, 0, 1), b=(-1, 0, 1))
    found = importance([PointLosses(values=points[0].values, losses=()), *points[1:]], samples=20)
    assert found.method == "quadratic fit without products" and "1 of 9 points" in found.notes[0]
    assert found.settings == ("a", "b") and found.shares[0] > 3 * found.shares[1]


def test_seeds_give_the_interval_and_comparisons_a_probability():
    found = importance(grid(lambda a, b: 2 * a + b, seeds=(-0.1, 0.1), a=(-1, 1), b=(-1, 1)), samples=200)
    assert found.intervals[0, 0] < 0.8 < found.intervals[0, 1] and found.intervals[0, 1] - found.intervals[0, 0] < 0.3
    assert found.more_than(["a"], ["b"]) == 1.0 and found.more_than(["b"], ["a"]) == 0.0


def test_more_settings_than_points_can_tell_apart_are_noted():
    names = ["a", "b", "c", "d", "e", "f", "g"]
    values = np.random.default_rng(0).normal(size=(9, 7))
    points = [PointLosses(values=dict(zip(names, row, strict=True)), losses=(row[0],)) for row in values]
    found = importance(points, samples=5)
    assert found.notes == ("9 points for 7 settings: settings that move together share what either explains",)


def test_what_has_no_importance_is_refused():
    with pytest.raises(UserError, match="got 3 points with a completed trial; allowed: at least 4"):
        importance(grid(lambda a: a, a=(1, 2, 3)))
    with pytest.raises(UserError, match="no setting varies"):
        importance([PointLosses(values={"a": 1.0}, losses=(1.0,))] * 4)
