"""An imported model in the hands of the other commands: packed for, trained on, measured, and taken out again."""

import json
import subprocess
import sys

import pytest

from teleflm_jax import checkpoint
from teleflm_jax.cli import main
from teleflm_jax.observability import curves
from tests.huggingface import folders
from tests.huggingface.importing_test import foreign
from tests.job import BARE, ROOT

DATA = """
data.sources = {{'web': '{root}/web'}}
data.proportions = {{'web': 1.0}}
data.tokenizer = '{root}/model/tokenizer.json'
data.packed = '{root}/packed'
pack.heldout_fraction = 0.3
train.steps = 3
train.batch_size = 8
optimizer.warmup_steps = 1
optimizer.decay_tokens = 100_000
"""


@pytest.fixture(scope="module")
def root(trained, tmp_path_factory):
    """A folder with an imported model of a foreign tokenizer, text, and the configuration of a run that begins from it."""
    root = tmp_path_factory.mktemp("use")
    assert folders.call("export", "--workdir", trained, "--dtype", "float32", "--out", root / "theirs") == 0
    foreign(root / "theirs", bos="<|begin|>", eos="<|end|>")
    assert folders.call("import", "--from", root / "theirs", "--workdir", root / "model") == 0
    (root / "web").mkdir()
    for i in range(40):
        (root / "web" / f"{i}.txt").write_text(f"page {i}: 你好, " + "the time of a house " * (i + 1), encoding="utf-8")
    (root / "data.gin").write_text(DATA.format(root=root))
    return root


def test_a_run_begins_from_it_on_a_mesh_and_its_loss_is_the_imported_model_s(root, capsys, monkeypatch):
    files = ["--gin_file", root / "model" / "config.gin", "--gin_file", root / "data.gin"]
    assert folders.call("pack", *files) == 0
    monkeypatch.setattr(curves, "draw", lambda logs: None)
    changes = (f"train.init_from = '{root}/model@0'", "mesh.tensor = 2", "model.compute_dtype = 'bfloat16'")
    params = [word for change in changes for word in ("--gin_param", change)]
    assert folders.call("train", *files, "--workdir", root / "run", *params) == 0
    rows = [json.loads(line) for line in (root / "run" / "metrics.jsonl").read_text().splitlines()]
    capsys.readouterr()
    measured = []
    for step in (["--workdir", root / "run", "--step", 3], ["--workdir", root / "model", *files]):
        assert main.script("eval", [*map(str, step), "--json"]) == 0
        measured.append(json.loads(capsys.readouterr().out)["domains"]["web"]["loss"])
    after, before = measured
    assert after < before
    # training text and held-out text are of one kind, and three steps are few
    assert rows[0]["loss"] == pytest.approx(before, rel=0.1)


def test_its_own_folder_is_no_run_to_go_on_with(root, capsys):
    if not (root / "packed").exists():
        folders.call("pack", "--gin_file", root / "model" / "config.gin", "--gin_file", root / "data.gin")
    files = ["--gin_file", root / "model" / "config.gin", "--gin_file", root / "data.gin"]
    assert folders.call("train", *files, "--workdir", root / "model") == 2
    told = capsys.readouterr().err
    assert "holds an imported model" in told and "@0" in told


@pytest.mark.distributed
def test_two_processes_import_what_one_does(root, tmp_path):
    launch = ["-m", "teleflm_jax", "launch", "-n", "2", "--devices_per_process", "2", "--", "-m", "teleflm_jax"]
    command = ["import", "--from", str(root / "theirs"), "--workdir", str(tmp_path / "run")]
    subprocess.run([sys.executable, *launch, *command], cwd=ROOT, env=BARE, check=True)
    one, two = (checkpoint.read(folder / "checkpoints", 0) for folder in (root / "model", tmp_path / "run"))
    assert one == two and checkpoint.verify(tmp_path / "run" / "checkpoints", 0) == one
