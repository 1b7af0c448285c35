"""Benchmark tasks by eval.py and in training, and several checkpoints in one table."""

import dataclasses
import json
import shutil

import pytest

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax.cli import evaluate, evaluators
from teleflm_jax.errors import UserError
from teleflm_jax.evaluate.config import SuiteConfig
from tests.evaluate import asked

pytestmark = pytest.mark.filterwarnings("default")  # the harness's own warnings are not ours


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    pytest.importorskip("lm_eval", reason="needs requirements-eval.txt")
    return asked.write(tmp_path_factory.mktemp("items"))


@pytest.fixture
def call(trained, capsys):
    def run(*arguments):
        code = evaluate.entry(["--workdir", trained.path, *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def suite_file(items, tasks, extra=""):
    """A gin file of the suite alone: all else comes from the run's folder."""
    path = items / "suite.gin"
    path.write_text(f"suite.tasks = {tasks}\nsuite.data = '{items / 'data'}'\nsuite.include = ('{items / 'tasks'}',)\n{extra}")
    return path


def test_tasks_of_one_checkpoint_as_json_and_as_a_table(call, items, trained):
    before = sorted(trained.folder.rglob("*"))
    gin = suite_file(items, {"choice": 1, "humaneval": 0})
    code, out, err = call("--gin_file", gin, "--json")
    report = json.loads(out)
    assert code == 0 and report["step"] == 10 and report["tasks"].keys() == {"choice"}
    assert "humaneval is not measured" in err and "Traceback" not in err
    score = report["tasks"]["choice"]
    assert score["metric"] == "acc,none" and score["items"] == 8 and score["shots"] == 1 and 0 <= score["value"] <= 1
    code, out, _ = call("--gin_file", gin)
    assert code == 0 and "choice" in out and f"{score['value']:.4f}" in out
    assert before == sorted(trained.folder.rglob("*"))


def test_checkpoints_and_runs_stand_in_one_table(call, items, trained, tmp_path):
    shutil.copytree(trained.folder, tmp_path / "other")
    both = ["--steps", "all", "--beside", f"{tmp_path / 'other'}@5"]
    models = json.loads(call("--gin_file", suite_file(items, {"choice": 0}), *both, "--json")[1])["models"]
    assert [(model["run"], model["step"]) for model in models] == [
        (trained.path, 5),
        (trained.path, 10),
        (str(tmp_path / "other"), 5),
    ]
    assert models[0]["tasks"] == models[2]["tasks"]
    code, out, _ = call("--gin_file", suite_file(items, {"choice": 0}), *both)
    assert code == 0 and "choice" in out and out.count("step") == 3


def _interrupt():
    raise KeyboardInterrupt


def test_training_finds_the_scores_that_eval_py_finds(call, items, trained):
    found = json.loads(call("--gin_file", suite_file(items, {"choice": 1}), "--json")[1])["tasks"]["choice"]["value"]
    run = dataclasses.replace(
        trained.run,
        data=dataclasses.replace(trained.run.data, tokenizer=str(trained.folder / "tokenizer.json")),
        train=dataclasses.replace(trained.run.train, suite_every=3, eval_every=2),
        suite=SuiteConfig(tasks={"choice": 1}, data=str(items / "data"), include=(str(items / "tasks"),)),
    )
    layout = rules.layout(MeshConfig(data=2, tensor=2, pipe=2, zero=1), run.model.d_model)
    evaluator = evaluators.of_run(run, layout, trained.folder)
    model = layout.physical(trained.model)
    assert evaluator(3, model, lambda: None) == {"suite/choice": found}
    assert evaluator(2, model, lambda: None).keys() == {"bpb/web", "loss/web", "bpb"}
    assert evaluator(10, model, lambda: None).keys() == {"bpb/web", "loss/web", "bpb", "suite/choice"}
    with pytest.raises(KeyboardInterrupt):
        evaluator(3, model, _interrupt)
    with pytest.raises(UserError, match="got train.suite_every=3 without suite.tasks"):
        evaluators.of_run(dataclasses.replace(run, suite=SuiteConfig()), layout, trained.folder)
