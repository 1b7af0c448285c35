"""Joining the processes of a run on many hosts: one function for Slurm, Open MPI, Kubernetes and explicit settings.

Reading a place imports no jax; `join` does. Devices must not have been asked for before.
"""

import dataclasses
import re
from collections.abc import Mapping

from teleflm_jax.errors import UserError

PORTS = range(61_440, 65_536)
"""Where the coordinator listens when nothing says so: chosen by the job's number, so that jobs on one host differ."""
ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
"""Environment of `launch` and of whatever starter we know nothing about; the address also overrides what a cluster says."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """One process among those of a run."""

    coordinator: str
    """HOST:PORT of process 0."""
    count: int
    index: int
    gpu: int | None = None
    """The GPU of this host that is this process's own; None: all of the host's."""


def find(
    environment: Mapping[str, str], coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> Place | None:
    """Read where this process stands; None for a run of one process.

    Args:
        environment: of the process.
        coordinator: HOST:PORT, if it was given as an option.
        count: processes, likewise.
        index: of this process, likewise.

    Raises:
        UserError: part of it is given and part of it missing.
    """
    given = {"--coordinator": coordinator, "--num_processes": count, "--process_id": index}
    if any(value is not None for value in given.values()):
        return _checked(given, coordinator, count, index)
    address = environment.get(ADDRESS)
    if address and COUNT in environment:
        number = environment.get(INDEX, environment.get("JOB_COMPLETION_INDEX"))  # the latter is a Kubernetes indexed job's
        given = {ADDRESS: address, COUNT: environment[COUNT], f"{INDEX} or JOB_COMPLETION_INDEX": number}
        return _checked(given, address, _number(COUNT, environment[COUNT]), _number(INDEX, number))
    if int(environment.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in environment:
        host = re.match(r"([^,\[]+)(?:\[(\d+))?", environment["SLURM_STEP_NODELIST"])
        default = f"{host[1]}{host[2] or ''}:{_port(int(environment['SLURM_JOB_ID']))}"
        per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", "1").partition("(")[0].partition(",")[0]
        gpu = int(environment["SLURM_LOCALID"]) if int(per_node) > 1 else None
        return Place(
            coordinator=address or default, count=int(environment["SLURM_NTASKS"]), index=int(environment["SLURM_PROCID"]), gpu=gpu
        )
    if int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        if not address:
            raise UserError(
                f"got Open MPI without {ADDRESS}; allowed: HOST:PORT of rank 0, which Open MPI does not tell; "
                f"change the call to mpirun -x {ADDRESS}=HOST:PORT"
            )
        gpu = int(environment["OMPI_COMM_WORLD_LOCAL_RANK"]) if int(environment["OMPI_COMM_WORLD_LOCAL_SIZE"]) > 1 else None
        size, rank = int(environment["OMPI_COMM_WORLD_SIZE"]), int(environment["OMPI_COMM_WORLD_RANK"])
        return Place(coordinator=address, count=size, index=rank, gpu=gpu)
    return None


def join(place: Place | None) -> None:
    """Connect to the other processes; returns when all are there. Nothing to do for a run of one."""
    if place is None:
        return
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # of CPU devices only; GPUs use NCCL
    own = None if place.gpu is None else [place.gpu]
    jax.distributed.initialize(place.coordinator, place.count, place.index, local_device_ids=own, cluster_detection_method="deactivate")


def _checked(given: Mapping[str, object], coordinator: str | None, count: int | None, index: int | None) -> Place:
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise UserError(
            f"got {', '.join(name for name in given if name not in missing)} without {', '.join(missing)}; "
            f"allowed: all of {', '.join(given)} or none; add what is missing"
        )
    if not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"got the coordinator {coordinator!r}; allowed: HOST:PORT; change {next(iter(given))}")
    if not 0 <= index < count:
        raise UserError(f"got process {index} of {count}; allowed: 0 to {count - 1}; change {list(given)[2]}")
    return Place(coordinator=coordinator, count=count, index=index)


def _number(name: str, text: str | None) -> int | None:
    if text is not None and not text.isdecimal():
        raise UserError(f"got {name}={text!r}; allowed: a whole number; change {name}")
    return None if text is None else int(text)


def _port(job: int) -> int:
    return PORTS[job % len(PORTS)]
