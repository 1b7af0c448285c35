"""Points by Optuna: as many as asked for, from the results so far, the same when its journal is lost."""

import dataclasses
import json
import math
import sys

import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.search import space, study, tpe, worker
from teleflm_jax.search.config import SearchConfig

RATE = "mup.learning_rate"
SEARCH = SearchConfig(
    space={
        RATE: {"log": (1e-4, 1.0, 2)},
        "mup.matrix_learning_rate": {"times": (RATE, 2)},
        "optimizer.warmup_steps": {"linear": (1, 9, 2)},
    },
    sampler="tpe",
    points=30,
    seeds=2,
)


def finish(folder, best: float = 1e-2):
    """Give every trial a result that is best at one rate; rates above a half diverge."""
    for trial in study.places(folder):
        rate = trial.values[RATE]
        outcome = "diverged" if rate > 0.5 else "completed"
        loss = None if rate > 0.5 else abs(math.log10(rate / best)) + 0.01 * trial.seed
        result = {"outcome": outcome, "heldout": None, "loss": loss}
        study.write_once(trial.folder / study.RESULT, json.dumps(result))


def test_a_search_has_its_points_once_and_does_not_need_its_journal(base, tmp_path):
    pytest.importorskip("optuna", reason="requirements-search.txt is not installed")
    place = tmp_path / "study"
    study.write(place, SEARCH, base, [])
    for _ in range(20):
        assert tpe.suggest(base, SEARCH, place)
        finish(place)
    trials = study.places(place)
    assert [(trial.point, trial.seed) for trial in trials] == [(point, seed) for point in range(20) for seed in range(2)]
    for trial in trials:
        assert trial.values["mup.matrix_learning_rate"] == pytest.approx(2 * trial.values[RATE], rel=1e-11)
        assert 1e-4 <= trial.values[RATE] <= 1 and trial.values["optimizer.warmup_steps"] in range(1, 10)
    for damage in (lambda journal: journal.unlink(), lambda journal: journal.write_bytes(journal.read_bytes()[:-9] + b"\n{}\n")):
        damage(place / tpe.JOURNAL)
        assert tpe.suggest(base, SEARCH, place)
    for _ in range(8):
        assert tpe.suggest(base, SEARCH, place)  # also before the others are finished
        finish(place)
    assert not tpe.suggest(base, SEARCH, place) and len(study.places(place)) == 60


def test_a_point_follows_from_the_results_whether_the_journal_is_rebuilt_or_not(base, tmp_path):
    pytest.importorskip("optuna", reason="requirements-search.txt is not installed")
    points = {}
    for name, best in {"kept": 1e-2, "lost": 1e-2, "other results": 3e-4}.items():
        place = tmp_path / name
        study.write(place, SEARCH, base, [])
        for values in space.read(dataclasses.replace(SEARCH, sampler="random")).random(3, 14):
            study.write_point(place, SEARCH, base, len(study.places(place)) // 2, values)
        finish(place, best)
        assert tpe.suggest(base, SEARCH, place)
        if name == "lost":
            (place / tpe.JOURNAL).unlink()
        assert tpe.suggest(base, SEARCH, place)
        points[name] = [trial.values for trial in study.places(place)]
    assert points["kept"] == points["lost"] != points["other results"]
    assert points["kept"][:28] == points["other results"][:28]


def test_without_optuna_it_is_one_line_before_anything_is_written(base, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr(sys.modules["importlib.util"], "find_spec", lambda name: None)
    with pytest.raises(UserError, match="got no module optuna; .*requirements-search.txt"):
        worker.work(base, SEARCH, tmp_path / "study")
    assert list(tmp_path.iterdir()) == []
