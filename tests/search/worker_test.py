"""Workers of a search: real trials of a tiny model, claimed and finished once each, whoever trains them."""


import numpy as np
import pytest

from teleflm_jax import checkpoint
from teleflm_jax.search import study, worker


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory):
    """A study of four points that one worker trained."""
    from teleflm_jax.search.config import SearchConfig

    place = tmp_path_factory.mktemp("study") / "alone"
    search = SearchConfig(space={"mup.learning_rate": (1e-3, 1e-2), "mup.std": {"log": (0.1, 0.4, 2)}})
    summary = worker.work(base, search, place)
    assert summary == worker.Summary(trained=4, completed=4, diverged=0, left=0)
    return place


def test_a_grid_by_one_worker(alone, base):
    found = study.load(alone)
    assert [(trial.point, trial.seed, trial.outcome) for trial in found.trials] == [(point, 0, "completed") for point in range(4)]
    for trial in found.trials:
        assert np.array_equal(trial.rows.step, np.arange(1, 7))
        assert trial.loss == trial.rows.loss[-1] and trial.heldout is not None and 0 < trial.heldout < 20
        assert checkpoint.steps(trial.folder / checkpoint.FOLDER)[-1] == 6
        assert not list(trial.folder.glob("claim-*"))
    assert len({trial.loss for trial in found.trials}) == 4
