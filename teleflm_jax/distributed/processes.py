"""Connection of the processes of a run on many hosts, for Slurm, Open MPI, Kubernetes and explicit settings.

`find` does not import jax; `join` does, and must come before anything that uses devices.
"""

import contextlib
import dataclasses
import ipaddress
import os
import pathlib
import re
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import NoReturn

from teleflm_jax.distributed import rendezvous
from teleflm_jax.errors import UserError

PORTS = range(61_440, 65_536)
"""Default ports of the coordinator, chosen by the job's number, so that jobs on one host differ."""
ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
"""Variables set by `launch`, or by an unknown launcher; the address also overrides a cluster's."""

BIND = "JAX_COORDINATOR_BIND_ADDRESS"
"""Variable of jax: address at which process 0 listens, if the others connect to another one."""
SECRET = "TELEFLM_START_SECRET"
"""Variable with a secret that the processes of a run prove to each other at the start."""

ORDERLY = (0, 75)
"""Exit codes with which all processes exit together: done, or stopped after saving."""
FINAL = (2, 3)
"""Exit codes after which a restart does not help: wrong input, and a run that diverged."""
FINAL_FILE = "TELEFLM_FINAL_FILE"
"""Variable with a file in which a process records such an exit code, since srun reports the highest code of all processes."""
HUNG = 70
"""Exit code of a start or a step that hung; the launcher should start the processes again."""

START_TIMEOUT, START_SECONDS = "TELEFLM_START_TIMEOUT", 300
"""Variable with the seconds that processes wait for each other at the start, and its default."""
HEARTBEAT_SECONDS = 600
"""Seconds without a heartbeat from a process after which jax aborts the others; long, so that the watchdog reports first."""
NOTICE_SECONDS = 2.0
"""Seconds before a process repeats the error of process 0; a launcher ends it within that time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessInfo:
    """Index and connection of a process among those of a run."""

    coordinator: str
    """HOST:PORT of process 0."""
    count: int
    index: int
    gpu: int | None = None
    """GPU of this host that belongs to this process; None: all of them."""


def find(
    environment: Mapping[str, str], coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> ProcessInfo | None:
    """Read this process's index and connection; return None for a run of one process.

    Args:
        environment: environment variables of the process.
        coordinator: HOST:PORT, if given as an option.
        count: number of processes, likewise.
        index: index of this process, likewise.

    Raises:
        UserError: only a part of it is given.
    """
    options = {"--coordinator": coordinator, "--num_processes": count, "--process_id": index}
    if any(value is not None for value in options.values()):
        return _checked(options, coordinator, count, index)
    address = environment.get(ADDRESS)
    number = environment.get(INDEX, environment.get("JOB_COMPLETION_INDEX"))  # the latter is a Kubernetes indexed job's
    known = {ADDRESS: address, COUNT: environment.get(COUNT), f"{INDEX} or JOB_COMPLETION_INDEX": number}
    if COUNT in environment or INDEX in environment:
        return _checked(known, address, _optional(COUNT, environment.get(COUNT)), _optional(INDEX, number))
    if _of(environment, "OMPI_COMM_WORLD_SIZE", 1) > 1:  # before Slurm, whose variables inside mpirun are those of its daemons
        if not address:
            raise UserError(
                f"got Open MPI without {ADDRESS}; allowed: HOST:PORT of rank 0, which Open MPI does not provide; "
                f"change the call to mpirun -x {ADDRESS}=HOST:PORT"
            )
        size, rank, local, per_host = (_of(environment, f"OMPI_COMM_WORLD_{name}") for name in ("SIZE", "RANK", "LOCAL_RANK", "LOCAL_SIZE"))
        return ProcessInfo(coordinator=address, count=size, index=rank, gpu=_own_gpu(environment, local, per_host))
    # started by srun, not just inside sbatch; a job's step may have fewer tasks than the job, down to one in an interactive shell
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    if _of(environment, tasks, 1) > 1 and "SLURM_STEP_NODELIST" in environment:
        host = re.match(r"([^,\[]+)(?:\[(\d+))?", environment["SLURM_STEP_NODELIST"])
        per_host = re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))
        if host is None or per_host is None:
            raise UserError(
                "got a SLURM_STEP_NODELIST without a host, or a SLURM_STEP_TASKS_PER_NODE without a number; allowed: what srun sets; start "
                "with srun, or unset them"
            )
        default = f"{host[1]}{host[2] or ''}:{_port(_of(environment, 'SLURM_JOB_ID'))}"
        size, rank, local = (_of(environment, name) for name in (tasks, "SLURM_PROCID", "SLURM_LOCALID"))
        return ProcessInfo(coordinator=address or default, count=size, index=rank, gpu=_own_gpu(environment, local, int(per_host[0])))
    return _checked(known, address, None, None) if address else None


def join(process: ProcessInfo | None) -> None:
    """Connect to the other processes: wait until all have connected, or end this process with `HUNG` after `TELEFLM_START_TIMEOUT`.

    A run of one process needs no connection.
    """
    if process is None:
        return
    seconds = _start_seconds(os.environ)
    bind = bind_address(process.coordinator, os.environ)
    try:
        problem = rendezvous.meet(
            process.coordinator, process.count, process.index, seconds, _log, secret=os.environ.get(SECRET, ""), bind=bind
        )
    except OSError as error:
        raise UserError(
            f"got {bind}, where process 0 cannot listen ({error.strerror}); allowed: a free port of its host; change {ADDRESS} or {BIND}"
        ) from error
    if problem:
        time.sleep(NOTICE_SECONDS * (process.index > 0))
        _end_hung(problem)
    import jax

    jax.config.update("jax_enable_preemption_service", False)  # it would replace our handler of SIGTERM
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # of CPU devices only; GPUs use NCCL
    own = None if process.gpu is None else [process.gpu]
    missing = f"got all {process.count} processes, but no connection to jax's service at {process.coordinator} in {seconds} s"
    stuck = f"{missing}; allowed: all of them; look at the others' logs and start them again"
    alarm = threading.Timer(seconds, _end_hung, [stuck])
    alarm.daemon = True
    alarm.start()
    jax.distributed.initialize(
        process.coordinator,
        process.count,
        process.index,
        local_device_ids=own,
        cluster_detection_method="deactivate",
        coordinator_bind_address=bind,
        initialization_timeout=2 * seconds,  # jax would abort; the alarm comes first
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )
    alarm.cancel()


def bind_address(coordinator: str, environment: Mapping[str, str]) -> str:
    """Return HOST:PORT for process 0 to listen at: only the address that the others need, if possible.

    A name may resolve to another address on its own host, often a loopback address, than elsewhere: except for `localhost`, process 0
    listens at all addresses then.
    """
    if given := environment.get(BIND):
        _refuse_no_address(given, BIND)
        return given
    host, port = rendezvous.split(coordinator)
    if host == "localhost":
        return coordinator
    try:
        ip = ipaddress.ip_address(host)
        with socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET, socket.SOCK_STREAM) as tried:
            tried.bind((host, 0))
        return coordinator
    except (ValueError, OSError):  # a name, or an address behind a translation
        return f"[::]:{port}"


def leave(code: int, process: ProcessInfo | None) -> int:
    """Return the exit code, or end the process at once if it is one of several and has failed.

    A regular exit would wait for the others, which wait for this one.
    """
    if code in FINAL and FINAL_FILE in os.environ:
        with contextlib.suppress(OSError):
            pathlib.Path(os.environ[FINAL_FILE]).write_text(f"{code}\n")
    if process is not None and code not in ORDERLY:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _start_seconds(environment: Mapping[str, str]) -> int:
    seconds = _of(environment, START_TIMEOUT, START_SECONDS)
    if not seconds:
        raise UserError(f"got {START_TIMEOUT}=0; allowed: 1 second or more; change {START_TIMEOUT}")
    return seconds


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _end_hung(problem: str) -> NoReturn:
    """End the process without an exception: jax may be waiting in it, and a regular exit would wait for the others."""
    _log(f"error: {problem}")
    sys.stdout.flush()
    os._exit(HUNG)


def _checked(given: Mapping[str, object], coordinator: str | None, count: int | None, index: int | None) -> ProcessInfo:
    missing = [name for name, value in given.items() if value is None]
    if missing or coordinator is None or count is None or index is None:
        raise UserError(
            f"got {', '.join(name for name in given if name not in missing)} without {', '.join(missing)}; "
            f"allowed: all of {', '.join(given)} or none; add what is missing"
        )
    _refuse_no_address(coordinator, next(iter(given)))
    if not 0 <= index < count:
        raise UserError(f"got process {index} of {count}; allowed: 0 to {count - 1}; change {list(given)[2]}")
    return ProcessInfo(coordinator=coordinator, count=count, index=index)


def _refuse_no_address(address: str, name: str) -> None:
    if not re.fullmatch(r".+:\d{1,5}", address) or not 0 < int(address.rpartition(":")[2]) < 65_536:
        raise UserError(f"got the coordinator {address!r}; allowed: HOST:PORT, ports up to 65535; change {name}")


def _own_gpu(environment: Mapping[str, str], local: int, per_host: int) -> int | None:
    """Return which of the visible GPUs belongs to this process; a launcher may show it only that one."""
    seen = environment.get("CUDA_VISIBLE_DEVICES")
    return None if per_host == 1 else local % len(seen.split(",")) if seen else local


def _of(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """Return a number that a launcher has set."""
    if name in environment:
        return _number(name, environment[name])
    if default is None:
        raise UserError(
            f"got an environment without {name}; allowed: all that srun or mpirun sets; start with one of them, or unset the rest"
        )
    return default


def _optional(name: str, text: str | None) -> int | None:
    return None if text is None else _number(name, text)


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"got {name}={text!r}; allowed: a whole number; change {name}")
    return int(text)


def _port(job: int) -> int:
    return PORTS[job % len(PORTS)]
