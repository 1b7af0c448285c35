"""The folder of a study: whose it is, and what it says when parts of it are missing."""

import json

import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.search import space, study
from tests.runs.conftest import changed
from tests.search.conftest import other


@pytest.fixture
def written(base, search, tmp_path):
    """A study in which nothing is trained."""
    place = tmp_path / "study"
    study.write(place, other(search, rank_by=("loss",)), base, space.read(search).grid())
    return place


def files(folder) -> dict:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_study_is_read_back_and_written_once(written, base, search):
    found, before = study.load(written), files(written)
    assert found.search == other(search, rank_by=("loss",)) and found.config == base and found.folder == written
    assert [(trial.point, trial.values) for trial in found.trials] == list(enumerate(space.read(search).grid()))
    assert {(trial.seed, trial.outcome, trial.loss, trial.heldout, len(trial.rows.step)) for trial in found.trials} == {
        (0, "waiting", None, None, 0)
    }
    study.write(written, other(search, lease_seconds=5.0, limit_points=1), base, space.read(search).grid())
    assert files(written) == before


@pytest.mark.parametrize(
    "fields, sections, message",
    [
        ({"seeds": 2}, {}, r"with another search \(search.seeds=1\)"),
        ({"sampler": "random", "points": 4}, {}, r"with another search \(search.sampler='grid'\)"),
        ({"space": {"mup.std": (0.1,)}}, {}, r"with another search \(search.space={'mup.learning_rate'"),
        ({}, {"train": {"steps": 7}}, r"with another search \(train.steps=4\)"),
        ({}, {"data": {"proportions": {"web": 2.0}}}, r"with another search \(data.proportions={'web': 1.0}\)"),
    ],
)
def test_the_folder_of_another_search_is_refused(written, base, search, fields, sections, message):
    before = files(written)
    with pytest.raises(UserError, match=message) as caught:
        study.write(written, other(search, **fields), changed(base, **sections), [])
    assert str(caught.value).startswith(f"got {written} with") and "change --workdir" in str(caught.value) and files(written) == before


def test_a_machine_that_mounts_the_disk_elsewhere_has_the_same_search(written, base, search):
    study.refuse_other(written, search, changed(base, data={"packed": "/elsewhere/packed", "tokenizer": "/elsewhere/tokenizer.json"}))


def test_a_folder_of_something_else_is_refused(base, search, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="with files that are no search's; allowed: a new folder"):
        study.write(tmp_path, search, base, [])
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    for place, message in ((tmp_path, "without a study"), (tmp_path / "gone", "gone, which is not there")):
        with pytest.raises(UserError, match=message):
            study.load(place)


def test_of_two_searches_that_start_at_the_same_time_one_has_the_folder(base, search, tmp_path, monkeypatch):
    place, refuse = tmp_path / "study", study.refuse_other

    def late(folder, given, run):
        """The other search is written between the check and our own study.json."""
        refuse(folder, given, run)
        monkeypatch.setattr(study, "refuse_other", refuse)
        study.write(place, other(search, seeds=2), base, [])

    monkeypatch.setattr(study, "refuse_other", late)
    with pytest.raises(UserError, match=r"search.seeds=2"):
        study.write(place, search, base, space.read(search).grid())
    assert study.load(place).search.seeds == 2 and study.load(place).trials == ()


def test_a_study_is_rebuilt_from_the_folders_of_its_trials(written, base, search):
    whole = study.load(written)
    (written / study.STUDY).unlink()
    rebuilt = study.load(written)
    assert [(t.point, t.seed, t.values, t.folder) for t in rebuilt.trials] == [(t.point, t.seed, t.values, t.folder) for t in whole.trials]
    assert rebuilt.search.space["mup.std"] == (0.1, 0.4) and rebuilt.search.seeds == 1
    with pytest.raises(UserError, match="with another search; allowed"):
        study.write(written, other(search, seeds=2), base, space.read(search).grid())
    study.write(written, search, base, space.read(search).grid())
    assert study.load(written).search == search


@pytest.mark.parametrize("name", ["study.json", "trials/p00001-s0/trial.json"])
@pytest.mark.parametrize("content", ["", "[]", "{}", '{"point": 0, "seed": 0, "values": {}}', '{"space": 1}'])
def test_a_damaged_file_is_one_line(written, name, content):
    (written / name).write_text(content)
    with pytest.raises(UserError, match=f"got {written / name}, which"):
        study.load(written)


def test_results_are_read_from_the_logs(written):
    place = study.places(written)[0].folder
    rows = [{"step": step, "tokens": 64 * step, "loss": float(40 - step), "grad_norm": 1.0, "step_seconds": 0.25} for step in range(1, 41)]
    (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "evals.jsonl").write_text('{"step": 20, "bpb": 3.0}\n{"step": 40, "bpb": 2.5}\n')
    completed = {"outcome": "completed", "reason": "", "step": 40, "loss": 0.5, "heldout": 2.5, "seconds": 10.0}
    assert study.result(place, study.COMPLETED, "", 40) == completed
    diverged = {"outcome": "diverged", "reason": "spiked", "step": 40, "loss": None, "heldout": None, "seconds": 10.0}
    assert study.result(place, study.DIVERGED, "spiked", 40) == diverged
    study.write_once(place / study.RESULT, json.dumps(completed))
    (trial, *_) = study.load(written).trials
    assert (trial.outcome, trial.loss, trial.heldout, trial.rows.tokens[-1], len(trial.rows.loss)) == ("completed", 0.5, 2.5, 2560, 40)
