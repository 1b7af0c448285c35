import ast
import glob
import os
import subprocess
import sys

import pytest

from teleflm_jax.distributed import processes, xla
from teleflm_jax.distributed.processes import ProcessInfo
from teleflm_jax.errors import UserError
from tests.distributed.rendezvous_test import free_port
from tests.job import ROOT

SLURM = {
    "SLURM_JOB_ID": "70001",
    "SLURM_NTASKS": "112",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "gpu[003-114],spare7",
    "SLURM_STEP_TASKS_PER_NODE": "1(x112)",
}
OMPI = {"OMPI_COMM_WORLD_SIZE": "16", "OMPI_COMM_WORLD_RANK": "9", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "8"}
ADDRESS = {"JAX_COORDINATOR_ADDRESS": "head:1234"}
SLURM_PORT = 61_440 + 70_001 % 4_096


@pytest.mark.parametrize(
    "environment, place",
    [
        ({}, None),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        (SLURM, ProcessInfo(coordinator=f"gpu003:{SLURM_PORT}", count=112, index=5)),
        (SLURM | {"SLURM_STEP_NODELIST": "one,two"}, ProcessInfo(coordinator=f"one:{SLURM_PORT}", count=112, index=5)),
        (SLURM | {"SLURM_STEP_NODELIST": "n7"} | ADDRESS, ProcessInfo(coordinator="head:1234", count=112, index=5)),
        (
            SLURM | {"SLURM_STEP_TASKS_PER_NODE": "8(x14)", "SLURM_LOCALID": "6"},
            ProcessInfo(coordinator=f"gpu003:{SLURM_PORT}", count=112, index=5, gpu=6),
        ),
        ({name: value for name, value in SLURM.items() if "STEP" not in name}, None),  # inside sbatch, without srun
        (
            SLURM | {"SLURM_STEP_TASKS_PER_NODE": "8(x14)", "SLURM_LOCALID": "6", "CUDA_VISIBLE_DEVICES": "6"},
            ProcessInfo(coordinator=f"gpu003:{SLURM_PORT}", count=112, index=5, gpu=0),
        ),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),  # a shell of one task in a job of many
        (SLURM | {"SLURM_STEP_NUM_TASKS": "8"}, ProcessInfo(coordinator=f"gpu003:{SLURM_PORT}", count=8, index=5)),
        (OMPI | SLURM | ADDRESS, ProcessInfo(coordinator="head:1234", count=16, index=9, gpu=1)),
        (OMPI | ADDRESS, ProcessInfo(coordinator="head:1234", count=16, index=9, gpu=1)),
        (ADDRESS | {"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}, ProcessInfo(coordinator="head:1234", count=4, index=3)),
        (ADDRESS | {"JAX_NUM_PROCESSES": "4", "JOB_COMPLETION_INDEX": "0"}, ProcessInfo(coordinator="head:1234", count=4, index=0)),
    ],
)
def test_every_starter_says_where_a_process_stands(environment, place):
    assert processes.find(environment) == place


def test_options_come_before_the_environment():
    assert processes.find(SLURM, "a:1", 2, 1) == ProcessInfo(coordinator="a:1", count=2, index=1)


@pytest.mark.parametrize(
    "environment, options, words",
    [
        ({}, ("a:1", None, 1), "got --coordinator, --process_id without --num_processes"),
        ({}, ("a", 2, 1), "got the coordinator 'a'; allowed: HOST:PORT"),
        ({}, ("a:99999", 2, 1), "ports up to 65535"),
        ({"SLURM_NTASKS": "x"}, (), "SLURM_NTASKS='x'"),
        ({name: value for name, value in SLURM.items() if name != "SLURM_LOCALID"}, (), "without SLURM_LOCALID"),
        ({}, ("a:1", 2, 2), "got process 2 of 2; allowed: 0 to 1; change --process_id"),
        (ADDRESS | {"JAX_NUM_PROCESSES": "2"}, (), "without JAX_PROCESS_ID or JOB_COMPLETION_INDEX"),
        (ADDRESS | {"JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "1"}, (), "JAX_NUM_PROCESSES='two'"),
        (ADDRESS, (), "got JAX_COORDINATOR_ADDRESS without JAX_NUM_PROCESSES, JAX_PROCESS_ID"),
        (ADDRESS | {"JAX_PROCESS_ID": "1"}, (), "without JAX_NUM_PROCESSES"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, (), "without JAX_COORDINATOR_ADDRESS"),
        (OMPI, (), "mpirun -x JAX_COORDINATOR_ADDRESS=HOST:PORT"),
    ],
)
def test_what_is_missing_is_named(environment, options, words):
    with pytest.raises(UserError, match=words):
        processes.find(environment, *options)


def test_gpu_settings_leave_what_the_user_set_in_force(monkeypatch):
    own = {"XLA_FLAGS": "--xla_gpu_enable_triton_gemm=true", "NCCL_NVLS_ENABLE": "1"}
    added = xla.settings(own)
    assert "NCCL_NVLS_ENABLE" not in added and added["XLA_FLAGS"].endswith("--xla_gpu_enable_triton_gemm=true")  # the last one counts
    assert "--xla_gpu_enable_latency_hiding_scheduler=true" in added["XLA_FLAGS"]
    assert all(reason for _, reason in (*xla.FLAGS.values(), *xla.ENVIRONMENT.values()))
    monkeypatch.setattr(glob, "glob", lambda pattern: [])
    assert xla.gpu_settings(own) == {}
    monkeypatch.setattr(glob, "glob", lambda pattern: ["/dev/nvidia0"])
    assert xla.gpu_settings({"JAX_PLATFORMS": "cpu"}) == {} and xla.gpu_settings({}) == xla.settings({})


def test_a_start_that_never_completes_ends_with_70_and_one_line():
    script = "import os\nfrom teleflm_jax.distributed import processes\nprocesses.join(processes.find(os.environ))"
    run = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": "3", "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environments = [os.environ | run | {"JAX_PROCESS_ID": str(index), "TELEFLM_START_TIMEOUT": "3"} for index in (0, 2)]
    two = [subprocess.Popen([sys.executable, "-c", script], env=environment, cwd=ROOT, **pipes) for environment in environments]
    said = [process.communicate(timeout=60) for process in two]
    assert [process.returncode for process in two] == [processes.HUNG] * 2 == [70] * 2, said
    assert said[0] == (
        "",
        "error: got 2 of 3 processes after 3 s; missing: process 1; allowed: all of them; start it, or look at its log and its host\n",
    )
    assert said[1][1].count("\n") == 1


def test_the_time_to_wait_is_a_whole_number_above_0(monkeypatch):
    for wrong in ("0", "-1", "soon"):
        monkeypatch.setenv(processes.START_TIMEOUT, wrong)
        with pytest.raises(UserError, match="got TELEFLM_START_TIMEOUT="):
            processes.join(ProcessInfo(coordinator="localhost:1", count=2, index=1))


@pytest.mark.parametrize("code, said", [(0, None), (2, "2\n"), (3, "3\n"), (70, None), (75, None)])
def test_what_starting_again_does_not_mend_is_said_where_a_scheduler_looks(tmp_path, monkeypatch, code, said):
    file = tmp_path / "final"
    monkeypatch.setenv(processes.FINAL_FILE, str(file))
    assert processes.leave(code, None) == code
    assert (file.read_text() if file.exists() else None) == said


@pytest.mark.parametrize(
    "coordinator, environment, bound",
    [
        ("localhost:7", {}, "localhost:7"),
        ("127.0.0.1:7", {}, "127.0.0.1:7"),
        ("node7:7", {}, "[::]:7"),
        ("192.0.2.1:7", {}, "[::]:7"),  # of no host: as if it were translated on the way
        ("node7:7", {"JAX_COORDINATOR_BIND_ADDRESS": "10.0.0.1:8"}, "10.0.0.1:8"),
    ],
)
def test_process_0_listens_where_the_others_look_for_it(coordinator, environment, bound):
    assert processes.bind_address(coordinator, environment) == bound


def test_an_address_to_listen_at_has_a_port():
    with pytest.raises(UserError, match="change JAX_COORDINATOR_BIND_ADDRESS"):
        processes.bind_address("a:1", {"JAX_COORDINATOR_BIND_ADDRESS": "10.0.0.1"})


def test_the_service_of_a_local_launch_is_not_to_be_reached_from_elsewhere(tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux has /proc")
    script = tmp_path / "listeners.py"
    script.write_text(
        "import os, pathlib\n"
        "from teleflm_jax.distributed import processes\n"
        "place = processes.find(os.environ)\n"
        "assert len(os.environ[processes.SECRET]) == 32\n"
        "processes.join(place)\n"
        "port = f'{int(place.coordinator.split(\":\")[1]):04X}'\n"
        "rows = [row.split() for name in ('tcp', 'tcp6') for row in pathlib.Path('/proc/net', name).read_text().splitlines()[1:]]\n"
        "if place.index == 0: print([row[1] for row in rows if row[1].endswith(':' + port) and row[3] == '0A'])\n"
    )
    command = [sys.executable, "-m", "teleflm_jax", "launch", "-n", "2", "--devices_per_process", "1", "--", str(script)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert found.returncode == 0, found.stderr
    loopback = ("0100007F:", "00000000000000000000000001000000:", "0000000000000000FFFF00000100007F:")
    listening = ast.literal_eval(found.stdout.strip())
    assert listening and all(address.startswith(loopback) for address in listening), listening
