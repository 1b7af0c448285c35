"""Runs a program that nobody has read, as confined as this kernel allows; `sandbox.py` starts it as `python -I -S confined.py`.

It reads one JSON object on stdin (`program`, `seconds`, `memory_bytes`) and writes one on stdout: `passed`, `why`, and `open`, what could
not be shut off. The first process gives up its rights, leaves for namespaces of its own and watches; the second one, which it makes,
confines itself and runs the program. It imports nothing of the project, which the program must not see.

Shut off: processes and threads, memory, CPU and wall time, large and many files, output, the network, writing to any disk, signals to other
processes, new rights. Reading files is not: there is no way out for what was read.

Source: man pages unshare(2), mount_setattr(2), setrlimit(2), prctl(2), seccomp(2), capabilities(7) and landlock(7).
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import secrets
import signal
import struct
import sys

PASSED = "passed"
NOBODY = 65_534
OPEN_FILES = 32
FILE_BYTES = 1 << 20
LINE = 200
"""Characters of what a program's error says that are kept."""

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
NAMESPACES = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, READ_ONLY = 442, -100, 0x8000, 1
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
CAPABILITY_VERSION_3 = 0x20080522
MACHINES = {"x86_64": (0xC000003E, 126, (56, 57, 58, 435)), "aarch64": (0xC00000B7, 91, (220, 435))}
"""Machine -> its number in seccomp; numbers of capset, and of the calls that make processes and threads."""
LANDLOCK_CREATE, LANDLOCK_RESTRICT, LANDLOCK_VERSION = 444, 446, 1
LANDLOCK_WRITES = ((1, 0x1FF2), (2, 0x2000), (3, 0x4000))
"""Since which version of Landlock: rights to write, remove and make files; to link elsewhere; to truncate."""
LANDLOCK_TCP, LANDLOCK_SIGNALS = (4, 0b11), (6, 0b11)
"""Since which version: to bind and connect; to signal, and reach abstract sockets, beyond the confined process."""

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Watch a second process run the program, and tell how it went."""
    task, token = json.load(sys.stdin), secrets.token_hex(16)
    if os.getuid() == 0:
        _give_up_root()
    separate = _libc.unshare(NAMESPACES) == 0
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        _run(task, tell, token, separate)
    os.close(tell)
    signal.signal(signal.SIGALRM, lambda number, frame: _kill(child))
    signal.setitimer(signal.ITIMER_REAL, task["seconds"])
    with os.fdopen(told, "rb") as lines:
        left_open = json.loads(lines.readline(4096) or b"[]")
        verdict = lines.readline(4 * LINE).decode(errors="replace").strip()
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = verdict.removeprefix(token) if verdict.startswith(token) else ""
    why = said or (f"ended by signal {-ended}" if ended < 0 else f"left with code {ended}")
    json.dump({"passed": said == PASSED, "why": why, "open": left_open}, sys.stdout)


def _kill(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
        os.kill(child, signal.SIGKILL)


def _give_up_root() -> None:
    """Become nobody, unless that user could not read Python's own modules."""
    place = os.path.dirname(os.__file__)
    while place != "/":
        if not os.stat(place).st_mode & 1:
            return
        place = os.path.dirname(place)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _run(task: dict, tell: int, token: str, separate: bool) -> None:
    """Confine this process and run the program; never returns."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.closerange(nothing, tell)
    left_open = _confine(separate)
    for limit, value in (
        (resource.RLIMIT_CPU, int(task["seconds"]) + 1),
        (resource.RLIMIT_AS, task["memory_bytes"]),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    os.write(tell, json.dumps(left_open).encode() + b"\n")
    try:
        exec(compile(task["program"], "program", "exec"), {"__name__": "program"})  # what this file is for
        verdict = PASSED
    except BaseException as error:
        verdict = " ".join(f"failed: {type(error).__name__}: {error}".split())[:LINE]
    os.write(tell, f"{token}{verdict}\n".encode(errors="replace"))
    os._exit(0)


def _confine(separate: bool) -> list[str]:
    """Shut off what this kernel can, for this process and all after it; returns what stays open."""
    attributes = (ctypes.c_uint64 * 4)(READ_ONLY, 0, 0, 0)
    read_only = separate and _call(MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, ctypes.sizeof(attributes)) == 0
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    machine = MACHINES.get(os.uname().machine)
    powerless = machine is not None and _call(machine[1], (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()) == 0
    alone = machine is not None and _forbid(machine[0], machine[2])
    version = _landlock()
    return [
        what
        for what, is_open in (
            ("the rights of root", not powerless and os.getuid() == 0),
            ("more processes", not alone and os.getuid() == 0),
            ("writing to this machine's disks", not read_only and version < 1),
            ("rights, owners and times of this user's files", not read_only),
            ("the network" if version < LANDLOCK_TCP[0] else "the network but for TCP", not separate),
            ("signals to this user's other processes", not separate and version < LANDLOCK_SIGNALS[0]),
        )
        if is_open
    ]


def _call(number: int, *arguments) -> int:
    return _libc.syscall(number, *(ctypes.c_long(x) if isinstance(x, int) else x for x in arguments))


def _forbid(machine: int, calls: tuple[int, ...]) -> bool:
    """Let the kernel refuse some calls from now on (seccomp); says whether that worked."""
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    refuse, allow = 0x00050000 | errno.EPERM, 0x7FFF0000
    steps = [(load, 0, 0, 4), (equal, 1, 0, machine), (give, 0, 0, refuse), (load, 0, 0, 0)]
    # from 0x40000000 on: x86's other numbering, which nothing of today needs
    checks = [(at_least, 0x40000000), *((equal, number) for number in calls)]
    steps += [(code, len(checks) - i, 0, k) for i, (code, k) in enumerate(checks)]
    steps += [(give, 0, 0, allow), (give, 0, 0, refuse)]
    program = b"".join(struct.pack("HBBI", *step) for step in steps)
    kept = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(kept)))
    return _libc.prctl(PR_SET_SECCOMP, 2, header, 0, 0) == 0


def _landlock() -> int:
    """Forbid writing, and where the kernel can, TCP and signals to others; returns the version that did, 0 if none."""
    version = max(0, _call(LANDLOCK_CREATE, None, 0, LANDLOCK_VERSION))
    writes = sum(rights for since, rights in LANDLOCK_WRITES if version >= since)
    known = [writes] + [rights for since, rights in (LANDLOCK_TCP, LANDLOCK_SIGNALS) if version >= since]
    asked = (ctypes.c_uint64 * len(known))(*known)
    rules = _call(LANDLOCK_CREATE, asked, ctypes.sizeof(asked), 0) if version else -1
    if rules < 0:
        return 0
    confined = _call(LANDLOCK_RESTRICT, rules, 0) == 0
    os.close(rules)
    return version if confined else 0


if __name__ == "__main__":
    main()
