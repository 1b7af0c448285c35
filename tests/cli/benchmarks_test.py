"""Benchmark tasks by eval.py and in training, and several checkpoints in one table."""

import dataclasses
import json
import re
import shutil

import pytest

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax.cli import main, options, training
from teleflm_jax.errors import UserError
from teleflm_jax.evaluate.config import SuiteConfig
from teleflm_jax.observability.config import TelemetryConfig
from teleflm_jax.runs import evaluators
from tests.evaluate import asked

pytestmark = pytest.mark.filterwarnings("default")  # the harness's own warnings are not ours


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    pytest.importorskip("lm_eval", reason="needs requirements-eval.txt")
    return asked.write(tmp_path_factory.mktemp("items"))


@pytest.fixture
def call(trained, capsys):
    def run(*arguments):
        code = main.script("eval", ["--workdir", trained.path, *map(str, arguments)])
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
    evaluator = evaluators.of_run(run, layout, trained.folder, print)
    model = layout.to_runtime(trained.model)
    assert evaluator(3, model, lambda: None) == {"suite/choice": found}
    assert evaluator(2, model, lambda: None).keys() == {"bpb/web", "loss/web", "bpb"}
    assert evaluator(10, model, lambda: None).keys() == {"bpb/web", "loss/web", "bpb", "suite/choice"}
    with pytest.raises(KeyboardInterrupt):
        evaluator(3, model, _interrupt)
    with pytest.raises(UserError, match="got train.suite_every=3 without suite.tasks"):
        evaluators.of_run(dataclasses.replace(run, suite=SuiteConfig()), layout, trained.folder, print)


@pytest.fixture
def stranger(trained, items, tmp_path):
    """A run's folder whose configuration names a task file that calls a function; returns it, the settings, and what the function makes."""
    made, folder = tmp_path / "made", tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    asked.put(folder / "tasks/own.yaml", f"task: own\n{asked.TASKS['choice'].strip()}\nprocess_docs: !function own.act\n")
    asked.put(folder / "tasks/own.py", f"open({str(made)!r}, 'w').close()\ndef act(docs):\n    return docs\n")
    settings = {
        "suite.tasks": "{'own': 0}",
        "suite.data": repr(str(items / "data")),
        "suite.include": f"('{folder / 'tasks'}',)",
        "suite.allow_code": "True",
    }
    return folder, settings, made


def bind(folder, settings):
    """Set fields in a run's own configuration, where all stand already."""
    lines = (folder / "config.gin").read_text().splitlines()
    kept = [line for line in lines if line.split(" = ")[0] not in settings]
    (folder / "config.gin").write_text("\n".join([*kept, *(f"{name} = {value}" for name, value in settings.items())]) + "\n")


def ways(folder, settings, tmp_path):
    """Have a run's own configuration set fields in several manners; yields the arguments that then name the run."""
    whole = (folder / "config.gin").read_text()
    bind(folder, settings)
    yield ["--workdir", folder]
    yield [folder]
    yield ["--workdir", folder, "--gin_file", folder / "config.gin"]
    yield [folder / "config.gin", "--workdir", folder]
    (tmp_path / "mine.gin").write_text(f"include '{folder / 'config.gin'}'\n")
    yield ["--workdir", folder, "--gin_file", tmp_path / "mine.gin"]
    (tmp_path / "link.gin").symlink_to(folder / "config.gin")
    yield ["--workdir", folder, "--gin_file", tmp_path / "link.gin"]
    named = {f"N{i}": value for i, value in enumerate(settings.values())}
    (folder / "config.gin").write_text(whole)
    bind(folder, {name: f"%{macro}" for name, macro in zip(settings, named, strict=True)} | named)
    (folder / "config.gin").write_text((folder / "config.gin").read_text().replace("suite.", "Suite."))
    yield ["--workdir", folder]


def test_a_run_s_own_configuration_runs_no_code(stranger, tmp_path, capsys):
    folder, settings, made = stranger
    for arguments in ways(folder, settings, tmp_path):
        assert main.script("eval", list(map(str, arguments))) == 2, arguments
        err = capsys.readouterr().err
        assert err.startswith(
            "error: got suite.tasks, suite.data, suite.include, suite.allow_code from a run's own config.gin alone; allowed: "
        )
        assert err.count("\n") == 1 and not made.exists()
    assert main.script("eval", [*map(str, arguments), "--packed", "--json"]) == 0  # what does not ask tasks goes on
    assert "domains" in capsys.readouterr().out and not made.exists()


def test_what_runs_code_is_taken_from_the_command_line(stranger, capsys):
    folder, settings, made = stranger
    bind(folder, settings)
    given = [f"--gin_param={name} = {value}" for name, value in settings.items()]
    for left_out in given:
        rest = [one for one in given if one != left_out]
        code, name = main.script("eval", ["--workdir", str(folder), *rest]), left_out.split("=")[1].strip()
        assert code == 2 and f"error: got {name} from a run's own config.gin alone" in capsys.readouterr().err and not made.exists()
    assert main.script("eval", ["--workdir", str(folder), *given[:-1], "--gin_param=suite.allow_code = False", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"].keys() == {"own"} and made.exists()


def test_a_run_beside_another_brings_no_code(stranger, trained, capsys):
    folder, settings, made = stranger
    bind(folder, settings)
    assert main.script("eval", ["--workdir", trained.path, "--beside", str(folder), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["models"]) == 2 and not made.exists()


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"train.suite_every": "5", "suite.tasks": "{'own': 0}", "suite.include": "('tasks',)"}, "suite.tasks, suite.include"),
        ({"telemetry.wandb_project": "'theirs'"}, "telemetry.wandb_project"),
        ({"telemetry.prometheus_port": "9400", "telemetry.prometheus_address": "'0.0.0.0'"}, "telemetry.prometheus_port"),
    ],
)
def test_training_goes_on_with_it_only_where_the_command_line_gives_it(stranger, settings, told, capsys):
    folder, _, made = stranger
    bind(folder, settings)
    parser = options.make_parser("train.py", "")
    options.add_arguments(parser)
    options.add_process_arguments(parser)
    parser.add_argument("--dry_run", action="store_true")

    def train(*given):
        return training.main(parser.parse_args(["--workdir", str(folder), *given]), 0.0)

    assert train() == 2
    assert re.search(f"error: got {told}.* from a run's own config.gin alone", capsys.readouterr().err)
    run = options.load(parser.parse_args([str(folder), *(f"--gin_param={name} = {value}" for name, value in settings.items())]))
    assert run.withheld == () and (run.suite.tasks or run.telemetry != TelemetryConfig()) and not made.exists()
    assert options.load(parser.parse_args([str(folder)])).telemetry == TelemetryConfig()
