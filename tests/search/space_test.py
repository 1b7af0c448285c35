"""The space of a search: every mistake is one line; the points of grids, random draws and ties."""

import dataclasses
import math

import pytest

from teleflm_jax import config as gin
from teleflm_jax.errors import UserError
from teleflm_jax.runs.config import RunConfig
from teleflm_jax.search import ranking, space
from teleflm_jax.search.config import SECTIONS, SearchConfig

RATE, MATRIX, WARMUP = "mup.learning_rate", "mup.matrix_learning_rate", "optimizer.warmup_steps"


def read(**ranges) -> space.Space:
    return space.read(SearchConfig(space={name.replace("__", "."): given for name, given in ranges.items()}))


def test_a_log_range_has_its_ends_and_even_steps():
    (axis,) = space.read(SearchConfig(space={RATE: {"log": (1e-4, 1e-2, 5)}})).axes
    assert axis.values == (1e-4, 0.000316227766017, 1e-3, 0.00316227766017, 1e-2)
    (axis,) = space.read(SearchConfig(space={WARMUP: {"log": (10, 1000, 3)}})).axes
    assert axis.values == (10, 100, 1000) and all(type(value) is int for value in axis.values)
    (axis,) = space.read(SearchConfig(space={"mup.std": {"linear": (1, 2, 5)}})).axes
    assert axis.values == (1.0, 1.25, 1.5, 1.75, 2.0)


def test_a_grid_is_every_combination_and_ties_follow():
    found = space.read(SearchConfig(space={RATE: (0.5, 0.25), MATRIX: {"times": (RATE, 4)}, WARMUP: (1, 3)}))
    assert found.size == 4
    assert found.grid() == [
        {RATE: 0.5, WARMUP: 1, MATRIX: 2.0},
        {RATE: 0.5, WARMUP: 3, MATRIX: 2.0},
        {RATE: 0.25, WARMUP: 1, MATRIX: 1.0},
        {RATE: 0.25, WARMUP: 3, MATRIX: 1.0},
    ]
    tied = space.read(SearchConfig(space={WARMUP: (10, 15), "optimizer.decay_tokens": {"times": (WARMUP, 1.5)}}))
    assert [point["optimizer.decay_tokens"] for point in tied.grid()] == [15, 22]


def test_random_points_are_within_their_ranges_differ_and_grow_with_their_number():
    found = space.read(SearchConfig(space={RATE: {"log": (1e-4, 1e-2, 3)}, "mup.std": (0.1, 0.2), WARMUP: {"linear": (1, 9, 2)}}))
    points = found.random(7, 40)
    assert found.random(7, 10) == points[:10] and found.random(8, 10) != points[:10]
    assert len({tuple(point.values()) for point in points}) == 40
    assert all(1e-4 <= point[RATE] <= 1e-2 and point["mup.std"] in (0.1, 0.2) and point[WARMUP] in range(1, 10) for point in points)
    logs = sorted(math.log10(point[RATE]) for point in points)
    assert -3.3 < logs[len(logs) // 2] < -2.7  # uniform in log
    with pytest.raises(UserError, match="got search.points=5 from a space of 4 points; allowed: up to 4"):
        space.read(SearchConfig(space={RATE: (1, 2), MATRIX: (1, 2)})).random(0, 5)


def test_a_trial_is_the_base_at_a_point_with_its_seed_added(base):
    trial = space.apply(base, {RATE: 0.5, WARMUP: 2}, seed=3)
    assert (trial.mup.learning_rate, trial.optimizer.warmup_steps, trial.train.seed, trial.data.seed) == (0.5, 2, 3, 3)
    assert dataclasses.replace(trial, mup=base.mup, optimizer=base.optimizer, train=base.train, data=base.data) == base
    with pytest.raises(UserError, match="got optimizer.beta2=1.5"):
        space.apply(base, {"optimizer.beta2": 1.5})
    assert space.apply(RunConfig(), {RATE: 0.5}).mup.learning_rate == 0.5


@pytest.mark.parametrize(
    "ranges, message",
    [
        ({}, "got no search.space"),
        ({"mup.learning_rat": (1.0,)}, "got the unknown setting 'mup.learning_rat' in search.space; .* change it to 'mup.learning_rate'"),
        ({"rates": (1.0,)}, "got the unknown setting 'rates'"),
        ({"model.d_model": (64, 128)}, "got model.d_model in search.space, which changes shapes"),
        ({"model.rope_theta": (1e4, 1e5)}, "got model.rope_theta in search.space, which changes shapes"),
        ({"mesh.data": (1, 2)}, "got mesh.data in search.space, which changes shapes"),
        ({"mup.base_width": (64, 128)}, "got mup.base_width in search.space"),
        ({"optimizer.schedule": (1.0,)}, "got optimizer.schedule in search.space, which does not vary"),
        ({"train.steps": (1, 2)}, "got train.steps in search.space, which does not vary"),
        ({"train.seed": (1, 2)}, "got train.seed in search.space, which search.seeds varies; .* set search.seeds"),
        ({"data.proportions": (1.0,)}, "got data.proportions in search.space, but gradient norms and losses of different mixtures"),
        ({"data.max_epochs": (1.0,)}, "got data.max_epochs in search.space, but .*; allowed: one mixture, fixed over a search"),
        ({RATE: ()}, r"got search.space\['mup.learning_rate'\]=\(\); allowed: different values, at least one"),
        ({RATE: (1.0, 1)}, "allowed: different values"),
        ({RATE: {}}, "allowed: a list, {'log'"),
        ({RATE: {"log10": (1, 2, 3)}}, "allowed: a list, {'log'"),
        ({RATE: {"log": (1, 2)}}, r"allowed: \(low, high, n\)"),
        ({RATE: {"log": (1, 2, 1)}}, "n from 2"),
        ({RATE: {"log": (1, 2, 2.5)}}, "n from 2"),
        ({RATE: {"log": (0.0, 1.0, 3)}}, "a log range above 0, or a linear one"),
        ({RATE: {"log": (-1.0, 1.0, 3)}}, "a log range above 0"),
        ({RATE: {"linear": (2.0, 1.0, 3)}}, "low below high"),
        ({RATE: {"log": (1.0, 1.0, 3)}}, "low below high"),
        ({RATE: {"log": (1.0, math.inf, 3)}}, "finite numbers"),
        ({RATE: ("fast",)}, "with 'fast'; allowed: a number"),
        ({WARMUP: (2, 2.5)}, "with 2.5; allowed: a whole number"),
        ({WARMUP: {"linear": (1, 3, 5)}}, "a range that holds 5 different numbers"),
        ({RATE: {"times": ("mup.std", 1.0)}}, r"allowed: a setting of search.space that is not tied itself \(none is there\)"),
        ({RATE: (1.0,), MATRIX: {"times": (RATE, 0)}}, "a factor other than 0"),
        ({RATE: (1.0,), MATRIX: {"times": (RATE,)}}, "a factor other than 0"),
        ({RATE: {"times": (MATRIX, 2.0)}, MATRIX: {"times": (RATE, 2.0)}}, "not tied itself"),
        ({RATE: (1.0,), MATRIX: {"times": (RATE, 2.0)}, "mup.std": {"times": (MATRIX, 2.0)}}, r"not tied itself \(mup.learning_rate\)"),
    ],
)
def test_a_wrong_space_is_one_line(ranges, message):
    with pytest.raises(UserError, match=message) as caught:
        space.read(SearchConfig(space=ranges))
    assert "\n" not in str(caught.value) and "; allowed: " in str(caught.value)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"sampler": "sobol"}, "got search.sampler='sobol'; allowed: grid, random, tpe"),
        ({"points": 3}, "got search.points=3 with search.sampler='grid'"),
        ({"sampler": "random"}, "got search.points=None with search.sampler='random'"),
        ({"sampler": "tpe", "points": 0}, "got search.points=0 with search.sampler='tpe'"),
        ({"seeds": 0}, "got search.seeds=0"),
        ({"lease_seconds": 0.0}, "got search.lease_seconds=0.0"),
    ],
)
def test_wrong_settings_of_a_search_are_one_line(fields, message):
    with pytest.raises(UserError, match=message):
        SearchConfig(**fields)


def test_the_default_order_of_criteria_is_the_ranking_s():
    assert SearchConfig().rank_by == ranking.RANK_BY


def test_more_grid_points_than_the_limit_are_refused():
    wide = SearchConfig(space={RATE: {"log": (1, 2, 9)}, MATRIX: {"log": (1, 2, 9)}}, seeds=2)
    with pytest.raises(UserError, match=r"got a grid of 81 points, 162 trials; allowed: up to search.limit_points=64 without --yes"):
        space.refuse_large(wide)
    space.refuse_large(dataclasses.replace(wide, limit_points=81))
    space.refuse_large(dataclasses.replace(wide, sampler="random", points=1000))


def test_a_space_is_read_from_gin_and_written_back(tmp_path):
    file = tmp_path / "search.gin"
    file.write_text(
        "search.space = {\n 'mup.std': {'log': (1e-3, 1e-1, 3)},\n 'optimizer.warmup_steps': (1, 2),\n"
        " 'mup.matrix_std': {'times': ('mup.std', 2)},\n}\nsearch.seeds = 2\n"
    )
    found = gin.parse([str(file)], [], SECTIONS)
    assert [axis.values for axis in space.read(found["search"]).axes] == [(1e-3, 1e-2, 1e-1), (1, 2)]
    file.write_text(gin.dump(found))
    assert gin.parse([str(file)], [], SECTIONS) == found
