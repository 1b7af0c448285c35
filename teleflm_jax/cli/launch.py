"""`launch`: start a command's processes on this machine, with the XLA settings that GPUs want."""

import argparse
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

from sharding import processes, xla
from teleflm_jax.errors import UserError

HELP = "start several processes of a command on this machine, or one of a cluster's, with XLA's GPU settings"

GRACE_SECONDS = 60
"""After one process has failed, the others get so long to leave by themselves."""
GO_ON_LATER = 75
"""Exit code of a run that was stopped after saving."""


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    parser.epilog = (
        f"example: {parser.prog} -n 2 --devices_per_process 4 -- train.py --gin_file configs/runs/quickstart.gin --workdir runs/two\n"
        f"under srun or in a container, which start the processes themselves: {parser.prog} -- train.py ..."
    )
    parser.add_argument("-n", type=int, default=1, metavar="N", help="processes on this machine (%(default)s)")
    parser.add_argument(
        "--devices_per_process", type=int, metavar="K", help="use the CPU, as so many devices a process; default: whatever jax finds"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="a script of this project and its arguments")


def main(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code, of several processes' the first that is not 0."""
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise UserError("got no command; allowed: -- and a script with its arguments; add, for instance, -- train.py --help")
    if command[0] != "-m" and not pathlib.Path(command[0]).is_file():
        raise UserError(f"got the script {command[0]!r}, which is not there; allowed: train.py, eval.py or another; change it")
    if args.n < 1 or (args.devices_per_process is not None and args.devices_per_process < 1):
        raise UserError(f"got -n {args.n} --devices_per_process {args.devices_per_process}; allowed: 1 or more; change them")
    environment = dict(os.environ)
    if args.devices_per_process:
        environment["JAX_PLATFORMS"] = "cpu"
        kept = [flag for flag in environment.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in flag]
        environment["XLA_FLAGS"] = " ".join([*kept, f"--xla_force_host_platform_device_count={args.devices_per_process}"])
    else:
        environment |= xla.gpu_settings(environment)
    if args.n == 1:
        os.execvpe(sys.executable, [sys.executable, *command], environment)
    return _several(args.n, command, environment)


def _several(count: int, command: list[str], environment: dict[str, str]) -> int:
    """Start the processes, pass signals on, and see all of them to their end."""
    address = f"localhost:{_free_port()}"
    started = []
    for index in range(count):
        own = {processes.ADDRESS: address, processes.COUNT: str(count), processes.INDEX: str(index)}
        errors = subprocess.STDOUT if index else None  # the first speaks for the run, to a terminal if there is one
        pipes = {"stdout": subprocess.PIPE, "stderr": errors, "text": True}
        started.append(subprocess.Popen([sys.executable, *command], env=environment | own, **pipes))
    echoes = [threading.Thread(target=_echo, args=item, daemon=True) for item in enumerate(started)]
    for echo in echoes:
        echo.start()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, _: [process.send_signal(number) for process in started if process.poll() is None])
    cause, deadline = None, 0.0
    while any(process.poll() is None for process in started):
        failed = [process.poll() for process in started if process.poll() not in (None, 0, GO_ON_LATER)]
        if failed and cause is None:
            cause, deadline = failed[0], time.monotonic() + GRACE_SECONDS
            for process in started:
                process.terminate()
        if cause is not None and time.monotonic() > deadline:
            for process in started:
                process.kill()
        time.sleep(0.1)
    for echo in echoes:
        echo.join(timeout=1)
    cause = cause or next((process.returncode for process in started if process.returncode), 0)
    return cause if cause >= 0 else 128 - cause


def _echo(index: int, process: subprocess.Popen) -> None:
    """Pass on what a process prints, but for the lines in which gloo counts its connections."""
    for line in process.stdout:
        if "[Gloo] Rank " not in line and not line.startswith("Expected number of connected peer ranks"):
            print(f"[{index}] {line}" if index else line, end="", file=sys.stderr if index else sys.stdout, flush=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]
