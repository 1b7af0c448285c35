"""The commands of `search`, from a run file to pages and the file that a wide model's run includes."""

import json
import math
import re

import pytest

from teleflm_jax import config as gin
from teleflm_jax import mup
from teleflm_jax.cli import main
from teleflm_jax.errors import UserError
from teleflm_jax.model import size
from teleflm_jax.runs.config import SECTIONS
from teleflm_jax.search import space, study, widths, worker
from teleflm_jax.search.config import SearchConfig
from tests.runs.conftest import changed

RATE = "mup.matrix_learning_rate"
RATES = {RATE: (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)}


def finished(place, base, search, loss):
    """A study whose trials have ended, with `loss(config, seed)` as their final losses."""
    study.write(place, search, base, worker.planned(base, search))
    for trial in study.places(place):
        value = loss(space.apply(base, trial.values), trial.seed)
        rows = [{"step": i, "tokens": 256 * i, "loss": value + 1 / i, "grad_norm": 1.0, "step_seconds": 0.1} for i in range(1, 41)]
        (trial.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        ended = {"outcome": "completed", "reason": "", "step": 40, "loss": value, "heldout": None, "seconds": 4.0}
        (trial.folder / "result.json").write_text(json.dumps(ended))
    return str(place)


def parameters(config):
    return sum(size.parameters(config.model).values())


def law(count):
    return 40.0 * count**-0.3 + 2.0


def numbers(text):
    return [float(number) for number in re.findall(r"[-+]?\d+\.\d+", text)]


def test_a_search_is_trained_ranked_and_taken_over_by_a_wide_model(base, tmp_path, monkeypatch, capsys, no_curves):
    (tmp_path / "run.gin").write_text(gin.dump(base.sections()) + "search.space = {'mup.output_multiplier': (0.5, 1.0)}\n")
    monkeypatch.chdir(tmp_path)
    assert main.main(["search", "run", "--gin_file", "run.gin", "--workdir", "one"]) == 0
    assert "one: this worker finished 2 trials; 2 completed, 0 diverged, 0 left" in capsys.readouterr().out
    main.main(["search", "report", "one"])
    best = min(study.load("one").trials, key=lambda trial: trial.loss)
    page = (tmp_path / "one/report.html").read_text()
    assert f"Point {best.point} is in" in capsys.readouterr().out and page.count("data:image/png") >= 2 and "52b" in page
    wide = gin.parse([str(tmp_path / "one/chosen.gin")], [], {"mup": SECTIONS["mup"]})["mup"]
    assert wide == widths.with_values(base.mup, best.values) and "Chosen by the search in" in (tmp_path / "one/chosen.gin").read_text()
    chosen = ["--gin_file", "configs/runs/pretrain_52b.gin", "--gin_file", "one/chosen.gin", "--json"]
    main.main(["info", *chosen])
    shown = json.loads(capsys.readouterr().out)["mup"]
    assert shown["output_multiplier"] == mup.at_width(wide, 8_192).output_multiplier


def test_transfer_shows_that_the_best_rate_stays_under_mup_and_falls_under_standard(base, tmp_path, capsys):
    search = SearchConfig(space=RATES, widths=(32, 64, 128), parametrisations=("mup", "standard"), seeds=2)

    def loss(config, seed):
        """The best rate is 4e-3 at the base width, and half of it at twice the width unless it is transferred."""
        return 3.0 + 0.1 * math.log2(config.mup.matrix_learning_rate / (4e-3 * 32 / config.mup.base_width)) ** 2 + 1e-3 * seed

    place = finished(tmp_path / "study", changed(base, mup={"base_width": 32}), search, loss)
    assert main.main(["search", "transfer", "--workdir", place]) == 0
    table = capsys.readouterr().out.split("Best rate at each width")[0].splitlines()
    drift = {name: numbers(line)[0] for line in table for name in ("µP", "standard") if line.strip().startswith(name)}
    assert drift == pytest.approx({"µP": 0.0, "standard": -1.0}, abs=0.01)
    assert (tmp_path / "study/transfer.html").read_text().count("data:image/png") == 2


def test_a_prediction_holds_the_widest_width_out(base, tmp_path, capsys):
    search = SearchConfig(space={RATE: (4e-3,)}, widths=(32, 48, 64, 96, 128, 256))
    place = finished(tmp_path / "study", changed(base, model={"d_ff": 64}), search, lambda config, seed: law(parameters(config)))
    main.main(["search", "predict", place])
    out = capsys.readouterr().out
    widest = parameters(space.apply(base, {"model.d_model": 256, "model.d_ff": 512, "model.num_heads": 16, "model.num_kv_heads": 16}))
    assert f"{law(widest):.4f}" in out and "+0.00%" in out and "prediction.html" in out
    main.main(["search", "predict", place, "--width", "512"])
    assert "–" in capsys.readouterr().out  # nothing was measured there


@pytest.mark.parametrize(
    "command, message",
    [
        (["run", "--gin_param", "search.space = {'mup.learning_rat': (1.0,)}"], "unknown setting 'mup.learning_rat'.*change it to"),
        (["run", "--gin_param", "search.space = {'model.d_model': (64,)}"], "model.d_model in search.space, which changes shapes"),
        (["run", "--gin_param", "search.space = {'mup.std': {'log': (0.0, 1.0, 3)}}"], "allowed: a log range above 0"),
        (["run", "--gin_param", "search.space = {'mup.std': ()}"], "allowed: different values, at least one"),
        (["run", "--gin_param", "search.space = {'mup.std': {'linear': (0.1, 0.2, 99)}}"], "a grid of 99 points.*--yes"),
        (["run", "--gin_param", "train.steps = 1_000", "--gin_param", "data.max_epochs = {'web': 1.0}"], "train.steps"),
        (["transfer"], r"search.widths=\(\); allowed: at least two"),
        (["transfer", "--gin_param", "search.widths = (32, 33)"], "search.widths with 33, where model"),
    ],
)
def test_wrong_searches_are_one_line_and_write_nothing(command, message, base, tmp_path):
    (tmp_path / "run.gin").write_text(gin.dump(base.sections()) + "search.space = {'mup.std': (0.1, 0.2)}\n")
    name, *rest = command
    with pytest.raises(UserError, match=message):
        main.main(["search", name, "--gin_file", str(tmp_path / "run.gin"), "--workdir", str(tmp_path / "study"), *rest])
    assert not (tmp_path / "study").exists()


def test_studies_that_do_not_fit_the_command_are_refused(base, tmp_path):
    waiting = SearchConfig(space=RATES)
    study.write(tmp_path / "waiting", waiting, base, worker.planned(base, waiting))
    with pytest.raises(UserError, match="of whose 5 trials none is finished"):
        main.main(["search", "report", str(tmp_path / "waiting")])
    narrow = SearchConfig(space={RATE: (4e-3,)}, widths=(32, 64, 128))
    with pytest.raises(UserError, match="got 2 widths; allowed: at least 4 for a law"):
        main.main(["search", "predict", finished(tmp_path / "narrow", base, narrow, lambda config, seed: law(parameters(config)))])
    several = SearchConfig(space=RATES, widths=(32, 64))
    with pytest.raises(UserError, match="got no --rate for .*0.001, 0.002, 0.004, 0.008, 0.016; allowed: one of these"):
        main.main(["search", "predict", finished(tmp_path / "several", base, several, lambda config, seed: 3.0)])
    with pytest.raises(UserError, match="without a study|which is not there"):
        main.main(["search", "report", str(tmp_path / "nothing")])
