import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax.cli import main
from teleflm_jax.evaluate import bpb
from teleflm_jax.runs import evaluate as runs_evaluate
from teleflm_jax.runs import load


@pytest.fixture
def call(trained, capsys):
    """Run eval.py's body; returns exit code, stdout and stderr."""

    def run(*arguments):
        code = main.script("eval", ["--workdir", trained.path, *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def refused(result):
    code, out, err = result
    assert code == 2 and out == "" and err.startswith("error: got ") and err.count("\n") == 1
    return err


def test_json_is_one_object_with_every_domain(call, trained):
    code, out, _ = call("--json")
    report = json.loads(out)
    assert code == 0 and report.keys() == {"step", "domains", "weighted"} and report["step"] == 10
    row = report["domains"]["web"]
    assert row.keys() == {"bpb", "loss", "tokens", "bytes"} and 0 < row["tokens"] < row["bytes"]
    assert report["weighted"] == {"proportions": {"bpb": pytest.approx(row["bpb"]), "loss": pytest.approx(row["loss"])}}


def test_a_model_unlike_the_one_that_was_trained_is_refused(call):
    assert "got mup.output_multiplier=2.0, where the run in" in refused(call("--gin_param", "mup.output_multiplier = 2.0"))
    assert "got model.rope_theta=500.0, where the run in" in refused(call("--gin_param", "model.rope_theta = 500"))


def test_a_text_is_one_document_without_special_ids(call, trained, tmp_path):
    text = "the time</s><s> of 你好\r\n\n" * 5
    (tmp_path / "a.txt").write_bytes(text.encode())
    report = json.loads(call("--text", f"mine={tmp_path / 'a.txt'}", "--json")[1])
    document = runs_evaluate.encode(trained.tokenizer, text)
    assert document.tokens.min() > 3
    expected = bpb.measure(
        trained.model, {"mine": [document]}, batch_size=1, layout=rules.layout(MeshConfig(zero=0), trained.run.model.d_model), bos=1
    )["mine"]
    assert report["domains"].keys() == {"mine"} and report["weighted"] == {}
    assert report["domains"]["mine"]["bpb"] == pytest.approx(expected.bpb, rel=1e-6)
    assert report["domains"]["mine"]["bytes"] == len(text.encode())


def test_a_text_equals_the_same_text_packed(call, trained, tmp_path):
    packed = json.loads(call("--json")[1])["domains"]["web"]
    files, newest = [], load.checkpoint(trained.folder)
    for i, document in enumerate(runs_evaluate.packed_documents(newest, trained.tokenizer)["web"]):
        (tmp_path / f"{i}").write_text(trained.tokenizer.decode(document.tokens.tolist()), encoding="utf-8")
        files += ["--text", f"{i}={tmp_path / str(i)}"]
    domains = json.loads(call(*files, "--json")[1])["domains"].values()
    for figure in ("tokens", "bytes"):
        assert sum(row[figure] for row in domains) == packed[figure]
    assert sum(row["bpb"] * row["bytes"] for row in domains) / packed["bytes"] == pytest.approx(packed["bpb"], rel=1e-6)


def test_the_table_names_domains_and_means(call, tmp_path):
    (tmp_path / "a.txt").write_text("the time")
    code, out, _ = call("--text", f"mine={tmp_path / 'a.txt'}", "--packed", "--step", 5)
    assert code == 0 and "step 5" in out and "mine" in out and "web" in out and "mean: proportions" in out


def test_settings_can_be_changed_and_the_folder_is_left_as_it_was(call, trained):
    before = sorted(path for path in trained.folder.rglob("*"))
    whole = json.loads(call("--json")[1])["domains"]["web"]["bytes"]
    some = json.loads(call("--json", "--gin_param", "evaluation.max_bytes = 100")[1])["domains"]["web"]["bytes"]
    assert 90 < some <= 100 < whole
    assert before == sorted(path for path in trained.folder.rglob("*"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--text", "a={tmp}/none.txt"], "none.txt: No such file or directory"),
        (["--text", "a={tmp}"], "Is a directory"),
        (["--text", "a={tmp}/latin.txt"], "which is not UTF-8 (byte 1)"),
        (["--text", "a={tmp}/empty.txt"], "which is empty"),
        (["--text", "a={tmp}/good.txt", "--text", "a={tmp}/good.txt"], "got --text a=… twice"),
        (["--text", "web={tmp}/good.txt", "--packed"], "whose name is also a packed domain"),
        (["--text", "good.txt"], "allowed: NAME=FILE"),
        (["--step", "7"], "got step 7; allowed: 5, 10"),
        (["--step", "x"], "invalid int value: 'x'"),
        (["--gin_param", "model.d_ff = 64"], "got model.d_ff=64, where the run in"),
        (["--gin_param", "model.vocab_size = 380"], "with 390 ids for model.vocab_size=380"),
        (["--gin_param", "evaluation.domains = ('wob',)"], "got evaluation.domains with wob; allowed: web"),
        (["--gin_param", "data.packed = '{tmp}'"], "got no packed data in"),
        (["--text", "a={tmp}/good.txt", "--gin_param", "model.attention = 'cudnn'"], "model.attention='cudnn'"),
    ],
)
def test_wrong_input_is_one_line(call, tmp_path, arguments, message):
    (tmp_path / "latin.txt").write_bytes("dé".encode("latin-1"))
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "good.txt").write_text("the time")
    assert message in refused(call(*(argument.format(tmp=tmp_path) for argument in arguments)))


def test_a_folder_that_is_no_run_is_refused(capsys, trained, tmp_path):
    assert "without config.gin" in refused((main.script("eval", ["--workdir", str(tmp_path)]), *capsys.readouterr()))
    shape = [line for line in (trained.folder / "config.gin").read_text().splitlines() if line.startswith("model.")]
    (tmp_path / "config.gin").write_text("\n".join(shape))
    shutil.copytree(trained.folder / "checkpoints", tmp_path / "checkpoints")
    assert "names no packed text (data.*)" in refused((main.script("eval", [str(tmp_path)]), *capsys.readouterr()))
    shutil.copy(trained.folder / "config.gin", tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    assert "without a finished checkpoint" in refused((main.script("eval", [str(tmp_path)]), *capsys.readouterr()))


def test_the_script_leaves_with_the_commands_exit_code(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "eval.py", "--workdir", str(tmp_path)], cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stderr.startswith("error: got ") and ended.stderr.count("\n") == 1


def test_packed_data_of_another_tokenizer_are_refused(capsys, trained, tmp_path):
    for name in ("config.gin", "tokenizer.json"):
        shutil.copy(trained.folder / name, tmp_path)
    (tmp_path / "checkpoints").symlink_to(trained.folder / "checkpoints")
    with open(tmp_path / "tokenizer.json", "a") as file:
        file.write("\n")
    assert "packed data of another tokenizer" in refused((main.script("eval", [str(tmp_path)]), *capsys.readouterr()))


def test_checkpoints_and_runs_stand_in_the_layout_of_tables_5_and_6(call, trained, tmp_path):
    shutil.copytree(trained.folder, tmp_path / "other")
    arguments = ("--steps", "5,10", "--beside", tmp_path / "other")
    models = json.loads(call(*arguments, "--json")[1])["models"]
    assert [(model["run"], model["step"]) for model in models] == [(trained.path, 5), (trained.path, 10), (str(tmp_path / "other"), 10)]
    assert models[0]["domains"] == models[1]["domains"] == models[2]["domains"]  # the fixture's steps have the same weights
    code, out, _ = call(*arguments)
    assert code == 0 and "Bits per byte" in out and "Loss" in out and out.count("step 10") == 4 and out.count("other, step 10") == 2
    assert "web" in out and "proportions" in out


def test_a_model_of_another_tokenizer_is_measured_on_the_same_text(call, trained, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained.folder, other)
    words = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    words["model"]["merges"] = words["model"]["merges"][:-2]  # the same ids, other tokens
    (other / "tokenizer.json").write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
    first, second = json.loads(call("--beside", other, "--json")[1])["models"]
    assert second["domains"]["web"]["bytes"] == first["domains"]["web"]["bytes"]
    assert second["domains"]["web"]["tokens"] > first["domains"]["web"]["tokens"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--steps", "5,7"], "got step 7; allowed: 5, 10"),
        (["--steps", "new"], "got --steps new; allowed: all, or numbers"),
        (["--steps", "5", "--step", "5"], "got --step and --steps"),
        (["--beside", "{tmp}"], "without config.gin; allowed: the folder of a run that was trained"),
        (["--beside", "{tmp}@x"], "allowed: RUN or RUN@STEP"),
        (["--gin_param", "suite.tasks = {{'a': -1}}"], "got suite.tasks['a']=-1"),
    ],
)
def test_checkpoints_that_are_not_there_are_one_line(call, tmp_path, arguments, message):
    assert message in refused(call(*(argument.format(tmp=tmp_path) for argument in arguments)))
