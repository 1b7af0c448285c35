"""`train.py` in its own process: what a run's folder needs from elsewhere, and from where it may be called."""

import functools
import json
import shutil
import time

import pytest

from teleflm_jax import checkpoint
from teleflm_jax.cli import main, options, training
from teleflm_jax.hardware import throughput
from teleflm_jax.observability import curves, run_log
from teleflm_jax.runs.config import SAVED_CONFIG, saved_config

EXACT = ("step", "tokens", "loss", "grad_norm", "learning_rate", "matrix_learning_rate")


def train(*arguments):
    parser = options.make_parser("train.py", "")
    options.add_arguments(parser), options.add_process_arguments(parser)
    parser.add_argument("--dry_run", action="store_true")
    return options.run_command(lambda: training.main(parser.parse_args([*map(str, arguments)]), time.monotonic()))


def exact_rows(folder):
    return [tuple(row[name] for name in EXACT) for row in run_log.rows(folder / run_log.METRICS)]


def sums(folder, step):
    return {name: array["checksum"] for name, array in checkpoint.read(folder / checkpoint.FOLDER, step).arrays.items()}


@pytest.fixture(scope="module", autouse=True)
def one_peak_and_no_curves():
    """Measure the device once, and draw nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput, "peak", functools.cache(throughput.peak))
        patch.setattr(curves, "draw", lambda logs: None)
        yield


@pytest.fixture(scope="module")
def project(trained, tmp_path_factory):
    """A folder with everything that a run names by relative paths: data, a tokenizer, and a run whose weights it begins with."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(trained.run.data.packed, project / "packed")
    shutil.copytree(trained.folder, project / "runs/parent")
    shutil.copy(trained.folder / "tokenizer.json", project / "tokenizer.json")
    named = {"data.tokenizer": "tokenizer.json", "data.packed": "packed", "train.init_from": "runs/parent@10"}
    lines = [line for line in (trained.folder / "config.gin").read_text().splitlines() if line.partition(" =")[0] not in named]
    lines += [f"{name} = {value!r}" for name, value in named.items()]
    (project / "run.gin").write_text(
        "\n".join(lines).replace("train.steps = 10", "train.steps = 4").replace("checkpoint_every = 1000", "checkpoint_every = 2")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        assert train("--gin_file", "run.gin", "--workdir", "runs/whole") == 0
    shutil.copytree(project / "runs/whole", project / "runs/half")
    shutil.rmtree(project / "runs/half/checkpoints/4")  # as a kill after step 2 leaves it, but for rows that are cut off on resuming
    return project


def test_a_run_s_folder_is_enough_to_go_on_and_to_be_evaluated_from_anywhere(project, tmp_path, monkeypatch, capsys):
    (project / "runs/parent").rename(project / "runs/archived")
    (project / "tokenizer.json").rename(project / "kept.json")
    monkeypatch.chdir(tmp_path)
    try:
        shutil.move(project / "runs/half", tmp_path / "moved")
        assert train("--workdir", "moved") == 0
        capsys.readouterr()
        assert main.script("eval", ["--workdir", "moved", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["step"] == 4
    finally:
        (project / "runs/archived").rename(project / "runs/parent")
        (project / "kept.json").rename(project / "tokenizer.json")
    assert [row["step"] for row in run_log.rows(tmp_path / "moved" / run_log.EVENTS) if row["event"] == "resume"] == [2]
    assert exact_rows(tmp_path / "moved") == exact_rows(project / "runs/whole")
    assert sums(tmp_path / "moved", 4) == sums(project / "runs/whole", 4)


def test_the_saved_configuration_repeats_the_run(project, tmp_path):
    assert train("--gin_file", project / "runs/whole" / SAVED_CONFIG, "--workdir", tmp_path / "again") == 0
    assert exact_rows(tmp_path / "again") == exact_rows(project / "runs/whole")
    assert (tmp_path / "again" / SAVED_CONFIG).read_text() == (project / "runs/whole" / SAVED_CONFIG).read_text()


def test_what_is_not_there_is_named_from_the_root(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (["--gin_file", project / "run.gin", "--workdir", "new"], f"got the tokenizer {tmp_path}/tokenizer.json (No such file"),
        (["--gin_file", project / "run.gin", "--workdir", project / "runs/whole"], f"got the tokenizer {tmp_path}/tokenizer.json (No such"),
        (["--workdir", project / "runs/whole", "--gin_param", "data.packed = '../packed'"], f"in {tmp_path}/../packed/web (No such file"),
        (["--gin_file", "run.gin", "--workdir", "new"], f"(looked for: {tmp_path}/run.gin, "),
    ):
        assert train(*arguments) == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_goes_on_must_name_the_weights_it_began_with_wherever_they_lie_now(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    command = ["--gin_file", "run.gin", "--workdir", "runs/whole", "--gin_param"]
    for other in ("'runs/parent@5'", "'runs/other@10'", "None"):
        assert train(*command, f"train.init_from = {other}") == 2
        assert f"where the run in runs/whole has '{project}/runs/parent@10'" in capsys.readouterr().err
    assert train(*command, "train.init_from = '/mnt/elsewhere/parent@10'") == 0


def test_without_checkpoints_of_its_own_a_run_needs_its_parent(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert train("--gin_file", "run.gin", "--workdir", tmp_path / "run", "--gin_param", "train.init_from = 'gone@10'") == 2
    assert f"(train.init_from='{project}/gone@10')" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_leave_to_change_the_proportions_holds_for_one_start(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(project)
    folder = tmp_path / "run"
    shutil.copytree(project / "runs/whole", folder)
    shutil.rmtree(folder / "checkpoints/4")
    other, leave = ("--gin_param", "data.proportions = {'web': 2.0}"), ("--gin_param", "data.change_proportions = True")
    assert train("--workdir", folder, *other) == 2
    assert "add --gin_param 'data.change_proportions = True'" in capsys.readouterr().err
    assert train("--workdir", folder, *other, *leave) == 0
    saved = saved_config(folder).data
    assert (saved.proportions, saved.change_proportions) == ({"web": 2.0}, False)
    assert checkpoint.read(folder / checkpoint.FOLDER, 4).mixture == [[0, {"web": 1.0}], [2, {"web": 2.0}]]
    rows, arrays = exact_rows(folder), sums(folder, 4)
    shutil.rmtree(folder / "checkpoints/4")  # as though it was killed before it saved a checkpoint under the other mixture
    assert train("--workdir", folder) == 0
    assert checkpoint.read(folder / checkpoint.FOLDER, 4).mixture == [[0, {"web": 1.0}], [2, {"web": 2.0}]]
    assert (exact_rows(folder), sums(folder, 4)) == (rows, arrays)
    assert train("--workdir", folder, "--gin_param", "data.proportions = {'web': 3.0}") == 2
    assert "add --gin_param 'data.change_proportions = True'" in capsys.readouterr().err


def test_a_branch_goes_on_where_its_parent_was_under_another_schedule(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(project)

    def branch(name, *bindings, parent="runs/whole@2"):
        given = (f"train.init_from = '{parent}'", "train.init_optimizer = True", *bindings)
        capsys.readouterr()
        code = train("--gin_file", "run.gin", "--workdir", tmp_path / name, *(part for text in given for part in ("--gin_param", text)))
        return code, capsys.readouterr().err

    assert branch("same")[0] == 0
    assert exact_rows(tmp_path / "same") == exact_rows(project / "runs/whole")[2:]
    assert sums(tmp_path / "same", 4) == sums(project / "runs/whole", 4)
    assert branch("faster", "optimizer.schedule = 'constant'", "optimizer.warmup_steps = 1", "mup.learning_rate = 0.5")[0] == 0
    assert [row[EXACT.index("learning_rate")] for row in exact_rows(tmp_path / "faster")] == [0.5, 0.5]
    for binding, words in (
        ("data.seed = 7", f"got data.seed=7, where the run in {project}/runs/whole has 0"),
        ("mup.std = 0.5", "remove train.init_optimizer to start with a new optimizer"),
        ("train.batch_size = 4", "got train.batch_size=4 with train.init_optimizer=True, 128 tokens a step"),
        ("train.steps = 2", "got train.steps=2 with train.init_optimizer=True"),
        ("data.proportions = {'web': 2.0}", "add --gin_param 'data.change_proportions = True'"),
    ):
        code, told = branch("refused", binding)
        assert code == 2 and words in told and told.count("\n") == 1 and not (tmp_path / "refused").exists()
    code, told = branch("refused", parent="runs/parent@10")
    assert code == 2 and "which has no optimizer state, as imported models do" in told and not (tmp_path / "refused").exists()
    given = ("data.proportions = {'web': 2.0}", "data.change_proportions = True")
    assert branch("annealed", *given)[0] == 0
    assert checkpoint.read(tmp_path / "annealed" / checkpoint.FOLDER, 4).mixture == [[0, {"web": 1.0}], [2, {"web": 2.0}]]
    rows = exact_rows(tmp_path / "annealed")
    shutil.rmtree(tmp_path / "annealed/checkpoints/4")  # as though it was killed before it saved a checkpoint
    assert train("--workdir", tmp_path / "annealed") == 0
    assert exact_rows(tmp_path / "annealed") == rows


def test_a_record_without_the_counter_of_data_is_refused_in_a_line(project, tmp_path, capsys):
    shutil.copytree(project / "runs/parent", tmp_path / "run")
    command = [f"data.packed = '{project / 'packed'}'", f"data.tokenizer = '{project / 'tokenizer.json'}'"]
    capsys.readouterr()
    assert train("--workdir", tmp_path / "run", "--gin_param", command[0], "--gin_param", command[1]) == 2
    assert "which holds an imported model" in capsys.readouterr().err
