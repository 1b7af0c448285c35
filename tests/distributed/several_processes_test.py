"""Real processes on one machine, joined by gloo: `make test-distributed`."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from teleflm_jax import checkpoint
from teleflm_jax.observability import run_log
from tests import job
from tests.job import BARE, ROOT

pytestmark = pytest.mark.distributed

TRAIN = """
train.steps = 12
train.batch_size = 16
train.microbatch_size = 1
train.checkpoint_every = 5
train.eval_every = 6
train.eval_bytes = 4_000
"""
ALL_THREE = ["--gin_param", "mesh.tensor = 2", "--gin_param", "mesh.pipe = 2"]


def start(*arguments, environment=BARE):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, **pipes)


def launch(processes, devices, *arguments, code=0) -> str:
    process = start("-m", "teleflm_jax", "launch", "-n", processes, "--devices_per_process", devices, "--", *arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return out + err


def rows(folder) -> list[dict]:
    return list(run_log.rows(folder / run_log.METRICS))


def agree(one, other):
    """Equal within float32 summation order."""
    for name in ("step", "tokens", "learning_rate"):
        assert [row[name] for row in rows(one)] == [row[name] for row in rows(other)]
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose([row[name] for row in rows(one)], [row[name] for row in rows(other)], rtol=1e-5)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with packed data and a run's configuration."""
    root = tmp_path_factory.mktemp("job")
    job.write(root, TRAIN, layers=4, heads=4)
    for command in (["tokenizer", "train"], ["pack"]):
        process = start("-m", "teleflm_jax", *command, "--gin_file", root / "run.gin")
        assert process.wait(timeout=120) == 0, process.communicate()
        process.communicate()
    return root


@pytest.fixture(scope="module")
def one_process(root):
    launch(1, 8, "train.py", "--gin_file", root / "run.gin", "--workdir", root / "one", *ALL_THREE)
    return root / "one"


@pytest.mark.parametrize("tensor", [1, 8])
def test_two_processes_hold_the_same_batches_as_one(root, tensor):
    def held(processes, devices):
        text = launch(processes, devices, "tests/distributed/batches.py", root / "run.gin", tensor)
        found = [json.loads(line.removeprefix("[1] ")) for line in text.splitlines() if '"sha256"' in line]
        return {(row["step"], row["name"], row["from"], row["sha256"]) for row in found}

    one = held(1, 8)
    assert one and held(2, 4) == one


def test_two_processes_train_and_evaluate_as_one(root, one_process):
    said = launch(2, 4, "train.py", "--gin_file", root / "run.gin", "--workdir", root / "two", *ALL_THREE)
    agree(root / "two", one_process)
    assert said.count("step 12: bpb") == 1  # the first process speaks for all
    evaluations = [list(run_log.rows(folder / run_log.EVALS)) for folder in (root / "two", one_process)]
    assert [row["step"] for row in evaluations[0]] == [6, 12]
    for two, one in zip(*evaluations, strict=True):
        np.testing.assert_allclose([two[name] for name in sorted(two)], [one[name] for name in sorted(one)], rtol=1e-5)


def test_a_run_goes_on_with_other_processes_and_another_mesh(root, one_process):
    folder, steps = root / "moved", lambda n: ["--gin_param", f"train.steps = {n}"]
    train = ["train.py", "--gin_file", root / "run.gin", "--workdir", folder]
    launch(4, 2, *train, *ALL_THREE, *steps(4))
    launch(2, 4, *train, *steps(8), "--gin_param", "mesh.zero = 3")
    launch(1, 1, *train, *steps(12))
    agree(folder, one_process)


def test_a_signal_to_one_process_stops_all_after_saving_and_the_same_command_goes_on(root, one_process):
    folder = root / "stopped [0] *"  # which Orbax would take for a pattern
    command = ["train.py", "--gin_file", root / "run.gin", "--workdir", folder, *ALL_THREE]
    process = start("-m", "teleflm_jax", "launch", "-n", 2, "--devices_per_process", 4, "--", *command)
    while len(rows(folder)) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGTERM)  # not the first one
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert list(run_log.rows(folder / run_log.EVENTS))[-1]["event"] == "stop"
    assert checkpoint.steps(folder / "checkpoints")[-1] == len(rows(folder))
    launch(2, 4, *command)
    agree(folder, one_process)


def test_every_way_to_start_joins_the_processes(root, one_process):
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    slurm = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "localhost"}
    open_mpi = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}
    address = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}"}
    devices = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    ways = {
        "slurm": lambda i: (slurm | address | {"SLURM_PROCID": str(i)}, []),
        "open mpi": lambda i: (open_mpi | address | {"OMPI_COMM_WORLD_RANK": str(i)}, []),
        "kubernetes": lambda i: (address | {"JAX_NUM_PROCESSES": "2", "JOB_COMPLETION_INDEX": str(i)}, []),
        "options": lambda i: ({}, ["--coordinator", f"localhost:{port}", "--num_processes", "2", "--process_id", i]),
    }
    for name, way in ways.items():
        command = ["train.py", "--gin_file", root / "run.gin", "--workdir", root / name, "--gin_param", "train.steps = 2", *ALL_THREE]
        both = [start(*command, *options, environment=BARE | devices | more) for more, options in map(way, (0, 1))]
        outputs = [process.communicate(timeout=200) for process in both]
        assert [process.returncode for process in both] == [0, 0], outputs
        assert [row["loss"] for row in rows(root / name)] == pytest.approx([row["loss"] for row in rows(one_process)[:2]], rel=1e-6)


def on_two_mounts(root, tmp_path, workdir):
    """Train with two processes that find the data under different paths; returns exit codes and what each said."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    devices = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    both = []
    for i, mount in enumerate((root, tmp_path / "mount")):
        paths = {"data.packed": mount / "packed", "data.tokenizer": mount / "tokenizer.json"}
        own = [argument for name, path in paths.items() for argument in ("--gin_param", f"{name} = '{path}'")]
        place = ["--coordinator", f"localhost:{port}", "--num_processes", "2", "--process_id", i]
        command = ["train.py", "--gin_file", root / "run.gin", "--workdir", workdir, "--gin_param", "train.steps = 2", *own, *place]
        both.append(start(*command, environment=BARE | devices))
    said = [process.communicate(timeout=200)[1] for process in both]
    return [process.returncode for process in both], said


def test_processes_may_see_the_data_at_different_places(root, tmp_path, one_process):
    (tmp_path / "mount").symlink_to(root)
    codes, said = on_two_mounts(root, tmp_path, tmp_path / "run")
    assert codes == [0, 0], said
    assert [row["loss"] for row in rows(tmp_path / "run")] == pytest.approx([row["loss"] for row in rows(one_process)[:2]], rel=1e-6)


def test_processes_that_see_other_data_are_refused(root, tmp_path):
    other = tmp_path / "mount"
    shutil.copytree(root / "packed", other / "packed")
    shutil.copy(root / "tokenizer.json", other)
    manifest = other / "packed/json/manifest.json"
    known = json.loads(manifest.read_text())
    known["train"]["bytes"] += 1
    manifest.write_text(json.dumps(known))
    codes, said = on_two_mounts(root, tmp_path, tmp_path / "run")
    assert codes[0] == 2 and codes[1] != 0, said  # the second ends with the first, its coordinator
    assert "got another tokenizer or other packed data on process 1 than on process 0" in said[0] and said[0].count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_error_of_one_process_is_one_line_and_ends_all(root, tmp_path):
    shutil.copytree(root / "packed", tmp_path / "packed")
    next((tmp_path / "packed" / "json").glob("train-*")).unlink()
    arguments = ["--gin_file", root / "run.gin", "--gin_param", f"data.packed = '{tmp_path / 'packed'}'", "--workdir", tmp_path / "run"]
    said = launch(2, 1, "train.py", *arguments, code=2)
    assert said.startswith("error: got damaged packed data") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_batch_that_is_not_finite_is_skipped_by_a_pipeline_over_processes(tmp_path):
    launch(2, 1, pathlib.Path(__file__).parent / "poisoned.py", tmp_path / "run")
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 7))
    (skip,) = (row for row in run_log.rows(tmp_path / "run" / run_log.EVENTS) if row["event"] == "skip")
    assert (skip["step"], skip["data_step"]) == (3, 3) and "blocks/attention/query of layer 3" in (
        tmp_path / "run" / "skipped" / "3.json"
    ).read_text()


def test_a_process_that_dies_ends_all_and_the_same_command_goes_on(root, one_process):
    folder = root / "died"
    command = ["train.py", "--gin_file", root / "run.gin", "--workdir", folder, *ALL_THREE]
    process = start("-m", "teleflm_jax", "launch", "-n", 2, "--devices_per_process", 4, "--", *command)
    while len(rows(folder)) < 7 or not checkpoint.steps(folder / "checkpoints"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode not in (0, 75)
    assert not any(pathlib.Path(f"/proc/{child}").exists() for child in children)
    launch(2, 4, *command)
    agree(folder, one_process)
    assert any(row["event"] == "resume" and row["step"] >= 5 for row in run_log.rows(folder / run_log.EVENTS))
