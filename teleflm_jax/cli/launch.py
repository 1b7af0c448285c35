"""`launch`: start a command's processes on this machine, with the XLA settings that GPUs want."""

import argparse
import contextlib
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

GRACE_SECONDS = 10
"""After one process has failed, the others get so long to leave by themselves."""
HOLD_SECONDS = 0.5


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    parser.epilog = (
        f"example: {parser.prog} -n 2 --devices_per_process 1 -- train.py --gin_file configs/runs/quickstart.gin --workdir runs/two\n"
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
    started: list[subprocess.Popen] = []
    for index in range(count):
        own = {processes.ADDRESS: address, processes.COUNT: str(count), processes.INDEX: str(index), "JAX_LOCAL_DEVICE_IDS": str(index)}
        errors = subprocess.STDOUT if index else None  # the first speaks for the run, to a terminal if there is one
        pipes = {"stdout": subprocess.PIPE, "stderr": errors}
        # a group of its own: Ctrl-C would reach it twice, from the terminal and from here, and the second one ends it without saving
        started.append(subprocess.Popen([sys.executable, *command], env=environment | own, process_group=0, **pipes))
    failed = threading.Event()
    echoes = [threading.Thread(target=_echo, args=(index, process, failed), daemon=True) for index, process in enumerate(started)]
    for echo in echoes:
        echo.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: [process.send_signal(number) for process in started if process.poll() is None])
    cause, deadline = None, 0.0
    while any(process.poll() is None for process in started):
        codes = [process.poll() for process in started]
        if cause is None and any(code not in (None, *processes.ORDERLY) for code in codes):
            first, cause = next((i, code) for i, code in enumerate(codes) if code not in (None, *processes.ORDERLY))
            failed.set()
            deadline = time.monotonic() + GRACE_SECONDS
            for process in started:
                process.terminate()
        if cause is not None and time.monotonic() > deadline:
            for process in started:
                process.kill()
        time.sleep(0.05)
    for echo in echoes:
        echo.join(timeout=2 * HOLD_SECONDS)
    if cause is not None and cause < 0:
        print(
            f"process {first} was killed by signal {-cause}, so all were ended; the same command goes on from the newest checkpoint",
            file=sys.stderr,
        )
    cause = cause or next((process.returncode for process in started if process.returncode), 0)
    return cause if cause >= 0 else 128 - cause


def _echo(index: int, process: subprocess.Popen, failed: threading.Event) -> None:
    """Pass on what a process prints, but for gloo's counting of connections.

    What others than the first say is held back for a moment: if one has failed by then, they only say that they noticed.
    """
    stream, own = sys.stderr if index else sys.stdout, f"[{index}] " if index else ""
    rest, ended = b"", False
    while not ended:
        chunk = os.read(process.stdout.fileno(), 1 << 16)
        ended = not chunk
        *lines, rest = (rest + chunk).split(b"\n") if chunk else (rest, b"")
        if index and failed.wait(HOLD_SECONDS) and process.poll() in (None, -signal.SIGTERM, -signal.SIGABRT):
            continue
        for line in (line.decode(errors="replace") for line in lines if line or not ended):
            if "[Gloo]" not in line and "peer ranks" not in line:
                with contextlib.suppress(OSError):  # whoever read it has left; the run goes on
                    print(f"{own}{line}", file=stream, flush=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]
