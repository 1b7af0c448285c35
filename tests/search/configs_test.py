"""The searches that come with the project."""

import math
import pathlib

import pytest

from teleflm_jax import config as gin
from teleflm_jax import mup
from teleflm_jax.runs.config import SECTIONS, RunConfig
from teleflm_jax.search import space, widths
from teleflm_jax.search.config import SECTIONS as SEARCHING

RUNS = pathlib.Path(__file__).parents[2] / "configs/runs"


def read(name: str):
    """The base configuration and the search of a file."""
    found = gin.parse([str(RUNS / name)], [], SECTIONS | SEARCHING)
    return RunConfig(**{section: found[section] for section in SECTIONS}), found["search"]


@pytest.mark.parametrize("name", ["search_quickstart.gin", "search_proxy.gin"])
def test_nine_points_lie_around_the_values_of_the_file_and_schedules_end_with_the_trials(name):
    base, search = read(name)
    points = space.read(search).grid()
    assert len(points) == 9 and not space.refuse_large(search)
    middle = space.apply(base, points[4])
    assert middle == base
    tokens = base.train.steps * base.train.batch_size * base.model.context_length
    assert base.optimizer.decay_tokens <= tokens < 1.001 * base.optimizer.decay_tokens
    assert base.optimizer.warmup_steps < base.train.steps / 5
    for trial in (space.apply(base, values) for values in points):
        for role in ("", "matrix_"):
            ratio = getattr(trial.mup, f"{role}minimum_learning_rate") / getattr(trial.mup, f"{role}learning_rate")
            assert math.isclose(ratio, 0.1)


@pytest.mark.parametrize("name", ["transfer_quickstart.gin", "widths_quickstart.gin"])
def test_every_width_has_heads_and_feed_forward_in_proportion(name):
    base, search = read(name)
    for values in widths.points(base, search, space.read(search).grid()):
        model = space.apply(base, values).model
        assert model.head_size == 32 and model.d_ff == 2.5 * model.d_model and model.d_model in search.widths
        assert values["mup.base_width"] in (base.mup.base_width, model.d_model)


def test_the_seven_hyper_parameters_are_searched_together():
    base, search = read("search_seven.gin")
    points = space.read(search).random(search.sampler_seed, search.points)
    assert len(points) == 32 and set(points[0]) == {f"mup.{field}" for field in vars(base.mup)} - {"mup.base_width"}


def test_the_middle_of_the_report_s_search_is_its_table_4_at_width_512():
    base, search = read("search_proxy.gin")
    model, width = base.model, mup.at_width(base.mup, base.model.d_model)
    assert (model.num_layers, model.d_model, model.vocab_size, model.head_size) == (64, 512, 80_000, 128)
    matrix, vector = width.rules[mup.MATRIX], width.rules[mup.VECTOR]
    assert (vector.learning_rate, vector.minimum_learning_rate, vector.std) == (1.5e-4, 1.5e-5, 4e-3)
    assert (matrix.learning_rate, matrix.minimum_learning_rate) == (2.4e-3, 2.4e-4)
    assert matrix.std == pytest.approx(1.697e-2, rel=1e-4)
    assert (width.input_multiplier, width.output_multiplier) == (1.0, 0.5)
    rates = sorted({values["mup.matrix_learning_rate"] / 2 for values in space.read(search).grid()})
    assert rates == [1.2e-3, 2.4e-3, 4.8e-3]
