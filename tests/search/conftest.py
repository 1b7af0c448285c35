import dataclasses

import pytest

from teleflm_jax.runs.config import RunConfig
from teleflm_jax.search.config import SearchConfig
from tests.runs.conftest import config, no_curves

__all__ = ["base", "config", "no_curves", "search"]


@pytest.fixture(scope="session")
def base(config) -> RunConfig:  # noqa: F811
    """The base configuration: four steps, a checkpoint every two."""
    return config


@pytest.fixture
def search() -> SearchConfig:
    """Four points with one tie."""
    return SearchConfig(
        space={
            "mup.learning_rate": (1e-3, 1e-2),
            "mup.minimum_learning_rate": {"times": ("mup.learning_rate", 0.1)},
            "mup.std": {"log": (0.1, 0.4, 2)},
        },
    )


def other(search: SearchConfig, **fields) -> SearchConfig:
    """The search with other fields."""
    return dataclasses.replace(search, **fields)
