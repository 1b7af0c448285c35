"""The main job as a user does it: commands in processes of their own, real text (the interpreter's own library), a kill -9 in between."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from teleflm_jax import checkpoint
from teleflm_jax.cli import main, options
from teleflm_jax.observability import run_log
from tests import job

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRAIN = """
train.steps = 20
train.batch_size = 32
train.microbatch_size = 1
train.checkpoint_every = 7
"""
EXACT = ("step", "tokens", "loss", "grad_norm", "learning_rate", "matrix_learning_rate")


def command(*arguments, **options):
    """Start a command of the project's on one CPU device."""
    environment = job.BARE | {"JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, **pipes, **options)


def run(*arguments) -> str:
    process = command(*arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


@pytest.fixture
def refused(capfd):
    """Call `train` in this process, which refuses it; returns the one line that it prints."""

    def call(*arguments) -> str:
        code = options.run_command(lambda: main.main(["train", *map(str, arguments)]))
        err = capfd.readouterr().err
        assert code == 2 and err.startswith("error: got ") and err.count("\n") == 1, err
        return err

    return call


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    gin = job.write(tmp_path_factory.mktemp("job"), TRAIN, layers=2, heads=2)
    for name in (["tokenizer", "train"], ["pack"]):
        assert options.run_command(lambda: main.main([*name, "--gin_file", str(gin)])) == 0  # noqa: B023
    return gin


@pytest.fixture(scope="module")
def uninterrupted(configuration):
    folder = configuration.parent / "whole"
    run("train.py", "--gin_file", configuration, "--workdir", folder)
    return folder


def exact_rows(folder) -> list[tuple]:
    return [tuple(row[name] for name in EXACT) for row in run_log.rows(folder / run_log.METRICS)]


def test_a_run_killed_with_9_and_started_again_equals_one_that_was_not(configuration, uninterrupted):
    folder = configuration.parent / "killed"
    process = command("train.py", "--gin_file", configuration, "--workdir", folder)
    while not checkpoint.steps(folder / "checkpoints") or len(list(run_log.rows(folder / run_log.METRICS))) < 9:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 9 <= len(list(run_log.rows(folder / run_log.METRICS))) < 20
    run("train.py", "--gin_file", configuration, "--workdir", folder)
    assert exact_rows(folder) == exact_rows(uninterrupted)
    assert [row["event"] for row in run_log.rows(folder / run_log.EVENTS)].count("resume") == 1


def test_a_signal_leaves_with_75_after_saving(configuration):
    folder = configuration.parent / "stopped"
    process = command("train.py", "--gin_file", configuration, "--workdir", folder)
    while len(list(run_log.rows(folder / run_log.METRICS))) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 75, process.communicate()
    process.communicate()
    assert list(run_log.rows(folder / run_log.EVENTS))[-1]["event"] == "stop"


def test_what_was_trained_is_evaluated_and_generates(uninterrupted, configuration):
    found = json.loads(run("eval.py", "--workdir", uninterrupted, "--json", "--text", f"mine={configuration}", "--packed"))
    assert set(found) == {"step", "domains", "weighted"} and set(found["domains"]) == {"email", "json", "mine"}
    assert found["step"] == 20 and found["domains"]["mine"]["bytes"] == configuration.stat().st_size
    last = list(run_log.rows(uninterrupted / run_log.EVALS))[-1]
    assert found["domains"]["email"]["bpb"] == pytest.approx(last["bpb/email"], rel=1e-6)
    text = run("-m", "teleflm_jax", "generate", uninterrupted, "--prompt", "def ", "--max_tokens", "8", "--seed", "3")
    assert text.startswith("def ") and len(text) > 6


def test_another_run_lends_its_weights_only_with_its_tokenizer(uninterrupted, configuration, refused):
    lend = ["--gin_param", f"train.init_from = '{uninterrupted}@20'", "--gin_param", "train.steps = 2"]
    borrower = configuration.parent / "borrower"
    (uninterrupted / "tokenizer.json").rename(uninterrupted / "own.json")
    (uninterrupted / "tokenizer.json").write_text("another")
    assert "of train.init_from" in refused("--gin_file", configuration, *lend, "--workdir", borrower)
    assert not borrower.exists()
    (uninterrupted / "own.json").rename(uninterrupted / "tokenizer.json")
    assert options.run_command(lambda: main.main(["train", "--gin_file", str(configuration), *lend, "--workdir", str(borrower)])) == 0
    first, last = list(run_log.rows(borrower / run_log.METRICS))[0], list(run_log.rows(uninterrupted / run_log.METRICS))[-1]
    assert first["step"] == 1 and first["loss"] < last["loss"] + 0.2


@pytest.mark.parametrize(
    "changes, words",
    [
        (["model.d_ff = 72"], "got model.d_ff=72, where the run in"),
        (["optimizer.clip_norm = 2.0"], "got optimizer.clip_norm=2.0, where the run in"),
        (["model.context_length = 128"], "context longer than the packed records"),
        (["model.vocab_size = 500"], "token ids up to 511"),
        (["train.microbatch_size = 3"], "got train.microbatch_size=3"),
        (["train.batchsize = 129"], "change it to train.batch_size"),
        (["mesh.tensor = 3"], "x 1 x 3 (data, pipe, tensor) on 8 device"),
        (["data.packed = '/nowhere'"], "python -m teleflm_jax pack"),
        (["data.tokenizer = '/nowhere.json'"], "/nowhere.json"),
        (["data.max_epochs = {'json': 0.05}"], "runs out at step"),
    ],
)
def test_wrong_input_is_one_line_and_harms_nothing(uninterrupted, configuration, refused, changes, words):
    before = {path: path.read_bytes() for path in uninterrupted.iterdir() if path.is_file()}
    parameters = [argument for change in changes for argument in ("--gin_param", change)]
    message = refused("--gin_file", configuration, *parameters, "--workdir", uninterrupted)
    assert "; allowed" in message and words in message
    assert {path: path.read_bytes() for path in uninterrupted.iterdir() if path.is_file()} == before


def test_a_folder_that_cannot_be_written_is_one_line(configuration, refused, tmp_path):
    (tmp_path / "file").write_text("")
    refused("--gin_file", configuration, "--workdir", tmp_path / "file" / "run")
    assert "mount the store" in refused("--gin_file", configuration, "--workdir", "gs://bucket/run")
