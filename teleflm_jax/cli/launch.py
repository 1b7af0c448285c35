"""`launch`: start a command's processes on this machine, with the XLA settings for GPUs."""

import argparse
import contextlib
import ctypes
import math
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time

from teleflm_jax.cli import preflight
from teleflm_jax.distributed import processes, xla
from teleflm_jax.errors import UserError

HELP = "start several processes of a command on this machine, or one of a cluster's, with XLA's GPU settings"

GRACE_SECONDS = 10
"""Time that the other processes get to exit by themselves after one has failed, or after a second signal to stop."""
HOLD_SECONDS = 0.5
LEAVE = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals that make a process save and exit; a second one makes it exit at once. Slurm's `--signal` sends SIGUSR1."""
PASSED_ON = (*LEAVE, signal.SIGUSR2)
"""Signals that are passed to the processes; SIGUSR2 requests a profile."""
PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl that sets the signal which a process gets when its parent dies."""
GOES_ON = "the same command resumes from the newest checkpoint"


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    parser.epilog = (
        f"example: {parser.prog} -n 2 --devices_per_process 1 -- train.py --gin_file configs/runs/quickstart.gin --workdir runs/two\n"
        f"under srun or in a container, which start the processes themselves: {parser.prog} -- train.py ...\n"
        f"outside a checkout: {parser.prog} -- -m teleflm_jax train ..."
    )
    parser.add_argument("-n", type=int, default=1, metavar="N", help="processes on this machine (%(default)s)")
    parser.add_argument(
        "--devices_per_process", type=int, metavar="K", help="use the CPU, with this many devices per process; default: jax's devices"
    )
    parser.add_argument(
        "--preflight", action="store_true", help="first measure every process, and start nothing if one is slow; COMMAND may be left out"
    )
    preflight.add_tolerance(parser)
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="a script, or `-m teleflm_jax train`, and its arguments"
    )


def main(args: argparse.Namespace) -> int:
    """Run the command; return its exit code, or the first exit code of several processes that is not 0."""
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    preflight.refuse_tolerance(args)
    if command or not args.preflight:
        _refuse_no_script(command)
    if args.preflight and any(word.startswith("--coordinator") for word in command):
        raise UserError(
            f"got --preflight and --coordinator; allowed: settings from the environment; change --coordinator to {processes.ADDRESS}, "
            f"{processes.COUNT} and {processes.INDEX}"
        )
    if args.n < 1 or (args.devices_per_process is not None and args.devices_per_process < 1):
        raise UserError(f"got -n {args.n} --devices_per_process {args.devices_per_process}; allowed: 1 or more; change them")
    environment = dict(os.environ)
    if args.devices_per_process:
        environment["JAX_PLATFORMS"] = "cpu"
        kept = [flag for flag in environment.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in flag]
        environment["XLA_FLAGS"] = " ".join([*kept, f"--xla_force_host_platform_device_count={args.devices_per_process}"])
    else:
        environment |= xla.gpu_settings(environment)
    if args.preflight:
        tolerance = [] if args.preflight_tolerance is None else [preflight.TOLERANCE, str(args.preflight_tolerance)]
        measure = ["-m", "teleflm_jax", "preflight", *tolerance]
        code = _run(measure, _environments(args.n, environment))
        if code or not command:
            return code
    if args.n == 1:
        os.execvpe(sys.executable, [sys.executable, *command], environment)
    return _run(command, _environments(args.n, environment))


def _refuse_no_script(command: list[str]) -> None:
    if not command:
        raise UserError("got no command; allowed: -- and a script with its arguments; add, for instance, -- train.py --help")
    if command[0] != "-m" and not pathlib.Path(command[0]).is_file():
        raise UserError(
            f"got the script {command[0]!r}, which does not exist; allowed: train.py, eval.py, another script, or -m teleflm_jax train; "
            "change it"
        )


def _environments(count: int, environment: dict[str, str]) -> list[dict[str, str]]:
    """Return the environment of each process; a single process may belong to a cluster, whose variables number it."""
    if count == 1:
        return [environment]
    common = {processes.ADDRESS: f"localhost:{_free_port()}", processes.COUNT: str(count), processes.SECRET: secrets.token_hex(16)}
    alone = {name: value for name, value in environment.items() if name != processes.BIND}  # a cluster's, where processes listen elsewhere
    return [alone | common | {processes.INDEX: str(i), "JAX_LOCAL_DEVICE_IDS": str(i)} for i in range(count)]


def _run(command: list[str], environments: list[dict[str, str]]) -> int:
    """Start the processes, pass signals on, and wait for all of them."""
    started: list[subprocess.Popen] = []
    asked: list[float] = []  # times of signals to stop

    def pass_on(number: int, _) -> None:
        if number in LEAVE:
            asked.append(time.monotonic())
        for process in started:
            if process.poll() is None:
                process.send_signal(number)

    for index, environment in enumerate(environments):
        errors = subprocess.STDOUT if index else None  # the first speaks for the run, to a terminal if there is one
        pipes = {"stdout": subprocess.PIPE, "stderr": errors}
        # a group of its own: Ctrl-C would reach it twice, from the terminal and from here, and the second one ends it without saving
        started.append(subprocess.Popen([sys.executable, *command], env=environment, process_group=0, preexec_fn=_follow, **pipes))
    failed = threading.Event()
    echoes = [threading.Thread(target=_echo, args=(index, process, failed), daemon=True) for index, process in enumerate(started)]
    for echo in echoes:
        echo.start()
    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    cause, deadline = None, math.inf
    while any(process.poll() is None for process in started):
        if cause is None and (cause := _failure([process.poll() for process in started])):
            failed.set()
            deadline = time.monotonic() + GRACE_SECONDS
            for process in started:
                process.terminate()
        if len(asked) > 1:
            deadline = min(deadline, asked[1] + GRACE_SECONDS)
        if time.monotonic() > deadline:
            for process in started:
                process.kill()
        time.sleep(0.05)
    for echo in echoes:
        echo.join(timeout=2 * HOLD_SECONDS)
    for number, handler in before.items():
        signal.signal(number, handler)
    codes = [process.returncode for process in started]
    cause = cause or _failure(codes)
    if cause is None:
        return max(codes)
    first, code = cause
    if code == processes.HUNG:
        print(f"process {first} ended a start or a step that had hung ({code}), so all were ended; {GOES_ON}", file=sys.stderr)
    elif code < 0:
        print(f"process {first} was killed by signal {-code}, so all were ended; {GOES_ON}", file=sys.stderr)
    return code if code >= 0 else 128 - code


def _follow() -> None:
    """Make a new process save and exit if the launcher is killed; otherwise the run would continue and nobody could stop it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _failure(codes: list[int | None]) -> tuple[int, int] | None:
    """Return the first process that failed, and its exit code; None if no process has failed.

    If several failed since the last check, the most specific exit code is the likeliest cause: a hang, then another code of ours, then a
    signal. A traceback, or an abort by jax's or gloo's threads, can be the consequence of another process's exit.
    """
    failures = [(index, code) for index, code in enumerate(codes) if code not in (None, *processes.ORDERLY)]
    return min(failures, key=lambda failure: (_likelihood(failure[1]), failure[0]), default=None)


def _likelihood(code: int) -> int:
    """Return a rank of an exit code: the lower, the likelier it is the cause and not a consequence."""
    if code == processes.HUNG:
        return 0
    if code > 1:
        return 1
    if code in (-signal.SIGABRT, -signal.SIGTERM):
        return 4
    return 2 if code < 0 else 3


def _echo(index: int, process: subprocess.Popen, failed: threading.Event) -> None:
    """Print the output of a process, except for gloo's connection messages.

    Output of other processes than the first is delayed for a moment and dropped if one has failed by then, since it reports only that.
    """
    stream, own = sys.stderr if index else sys.stdout, f"[{index}] " if index else ""
    assert process.stdout is not None  # it was started with a pipe
    rest, ended = b"", False
    while not ended:
        chunk = os.read(process.stdout.fileno(), 1 << 16)
        ended = not chunk
        *lines, rest = (rest + chunk).split(b"\n") if chunk else (rest, b"")
        if index and failed.wait(HOLD_SECONDS) and process.poll() in (None, -signal.SIGTERM, -signal.SIGABRT):
            continue
        for line in (line.decode(errors="replace") for line in lines if line or not ended):
            if "[Gloo]" not in line and "peer ranks" not in line:
                with contextlib.suppress(OSError):  # the reader of our output has closed it; the run continues
                    print(f"{own}{line}", file=stream, flush=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]
