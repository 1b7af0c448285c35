import glob

import pytest

from sharding import processes, xla
from sharding.processes import Place
from teleflm_jax.errors import UserError

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
        (SLURM, Place(coordinator=f"gpu003:{SLURM_PORT}", count=112, index=5)),
        (SLURM | {"SLURM_STEP_NODELIST": "one,two"}, Place(coordinator=f"one:{SLURM_PORT}", count=112, index=5)),
        (SLURM | {"SLURM_STEP_NODELIST": "n7"} | ADDRESS, Place(coordinator="head:1234", count=112, index=5)),
        (
            SLURM | {"SLURM_STEP_TASKS_PER_NODE": "8(x14)", "SLURM_LOCALID": "6"},
            Place(coordinator=f"gpu003:{SLURM_PORT}", count=112, index=5, gpu=6),
        ),
        ({name: value for name, value in SLURM.items() if "STEP" not in name}, None),  # inside sbatch, without srun
        (
            SLURM | {"SLURM_STEP_TASKS_PER_NODE": "8(x14)", "SLURM_LOCALID": "6", "CUDA_VISIBLE_DEVICES": "6"},
            Place(coordinator=f"gpu003:{SLURM_PORT}", count=112, index=5, gpu=0),
        ),
        (OMPI | SLURM | ADDRESS, Place(coordinator="head:1234", count=16, index=9, gpu=1)),
        (OMPI | ADDRESS, Place(coordinator="head:1234", count=16, index=9, gpu=1)),
        (ADDRESS | {"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}, Place(coordinator="head:1234", count=4, index=3)),
        (ADDRESS | {"JAX_NUM_PROCESSES": "4", "JOB_COMPLETION_INDEX": "0"}, Place(coordinator="head:1234", count=4, index=0)),
    ],
)
def test_every_starter_says_where_a_process_stands(environment, place):
    assert processes.find(environment) == place


def test_options_come_before_the_environment():
    assert processes.find(SLURM, "a:1", 2, 1) == Place(coordinator="a:1", count=2, index=1)


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
