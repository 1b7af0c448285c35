"""Confinement of this process and its children, as far as the kernel supports it.

Forbidden: reading anything but Python's own files, writing to disks, processes and threads, programs, signals to others, sockets, memory
and queues that outlive a process, and new privileges; memory, CPU and wall time are limited. Four kernel mechanisms overlap, since no
machine is sure to have each: namespaces, Landlock, a system-call filter (seccomp) that admits only what computing needs, and rlimits.

Source: man pages unshare(2), mount(2), mount_setattr(2), setrlimit(2), prctl(2), seccomp(2), capabilities(7) and landlock(7); numbers of
system calls from the kernel's tables for x86-64 and for arm64.
"""

import contextlib
import ctypes
import errno
import os
import resource
import signal
import struct
import sys

NOBODY = 65_534
OPEN_FILES = 32
MOST_OPEN = 1 << 10
"""Upper bound of open descriptors: the starting process passes three."""
FILE_BYTES = 1 << 20
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
"""Folders and files that Python's own modules may need beside Python's folder."""

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
NAMESPACES = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
PRIVATE = ("/proc", "/sys", "/home", "/root", "/tmp", "/var", "/run", "/mnt", "/media", "/srv")
"""Folders with files of users and of the kernel: hidden by empty mounts where possible, as not every kernel has Landlock."""
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, READ_ONLY = 442, -100, 0x8000, 1
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
CAPABILITY_VERSION_3 = 0x20080522
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT, LANDLOCK_VERSION, LANDLOCK_BENEATH = 444, 445, 446, 1, 1
LANDLOCK_FILES = ((1, 0x1FFF), (2, 0x2000), (3, 0x4000), (5, 0x8000))
"""(Landlock version, rights): to run, read, write, remove and make files; to link elsewhere; to truncate; to control devices."""
LANDLOCK_READ_FILE, LANDLOCK_READ_FOLDER = 4, 8
LANDLOCK_TCP, LANDLOCK_SIGNALS = (4, 0b11), (6, 0b11)
"""(Landlock version, rights): to bind and connect; to signal, and reach abstract sockets, beyond the confined processes."""

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine -> its number in seccomp, and the index of its numbers in the tables below."""
CAPSET = (126, 91)
CALLS = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "poll": (7, None),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "readv": (19, 65),
    "writev": (20, 66),
    "access": (21, None),
    "select": (23, None),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "exit": (60, 93),
    "uname": (63, 160),
    "getcwd": (79, 17),
    "readlink": (89, None),
    "gettimeofday": (96, 169),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "time": (201, None),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "getdents64": (217, 61),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "newfstatat": (262, 79),
    "readlinkat": (267, 78),
    "faccessat": (269, 48),
    "pselect6": (270, 72),
    "ppoll": (271, 73),
    "set_robust_list": (273, 99),
    "getrandom": (318, 278),
    "statx": (332, 291),
    "rseq": (334, 293),
    "faccessat2": (439, 439),
}
"""System calls that the filter admits -> their numbers. None of them affects another process or persists."""
OPENS = (("open", (2, None), 1), ("openat", (257, 56), 2))
"""Calls that open files, their numbers, and the index of the flags argument."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | 0o20000000
"""Flags other than reading; the last one creates an unnamed file."""
FCNTL, FCNTL_COMMANDS = (72, 25), (1, 2, 3, 1030)
"""Commands for the flags of a descriptor and for copying it; no locks, no signals to others."""

_libc = ctypes.CDLL(None, use_errno=True)


def confine() -> list[str]:
    """Apply all restrictions except the system-call filter of `limit`; returns those that this machine does not support."""
    if os.getuid() == 0:
        _give_up_root()
    separate = _libc.unshare(NAMESPACES) == 0
    for place in PRIVATE if separate else ():
        if not os.path.dirname(os.__file__).startswith(f"{place}/"):
            _libc.mount(b"none", place.encode(), b"tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, None)
    attributes = (ctypes.c_uint64 * 4)(READ_ONLY, 0, 0, 0)
    read_only = separate and _call(MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, ctypes.sizeof(attributes)) == 0
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    version = _landlock()
    machine = MACHINES.get(os.uname().machine)
    powerless = machine is not None and _drop_capabilities(CAPSET[machine[1]])
    _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # neither traced nor looked into by others of this user
    filtered = machine is not None  # else `limit` raises, and no program passes
    root = os.getuid() == 0
    return [
        what
        for what, is_open in (
            ("the rights of root", root and not powerless),
            ("more processes", root and not filtered),
            ("reading this user's files", version < 1),
            ("writing to this machine's disks", not (read_only or version >= 1 or filtered)),
            ("rights, owners and times of this user's files", not (read_only or filtered)),
            ("the network" if version < LANDLOCK_TCP[0] else "the network but for TCP", not (separate or filtered)),
            ("signals to this user's other processes", not (separate or version >= LANDLOCK_SIGNALS[0] or filtered)),
            ("memory, semaphores and queues that stay", not (separate or filtered)),
        )
        if is_open
    ]


def keep_only(nothing: int, *descriptors: int) -> None:
    """Close every other descriptor and die with the parent process; 0, 1 and 2 become `nothing` unless they are kept."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for stream in {0, 1, 2} - {*descriptors}:
        os.dup2(nothing, stream)
    kept = sorted({0, 1, 2, *descriptors})
    for low, high in zip(kept, [*kept[1:], MOST_OPEN], strict=True):
        os.closerange(low + 1, high)


def limit(seconds: float, memory_bytes: int) -> None:
    """Set this process's limits and filter its system calls; raises an `OSError` if the kernel refuses."""
    for kind, value in (
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    if machine := MACHINES.get(os.uname().machine):
        _filter(*machine)


def _give_up_root() -> None:
    """Become the user nobody, unless that user cannot read Python's own modules."""
    place = os.path.dirname(os.__file__)
    while place != "/":
        if not os.stat(place).st_mode & 1:
            return
        place = os.path.dirname(place)
    with contextlib.suppress(OSError):  # a container's namespace may lack that user; its root is not the machine's root then
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def _drop_capabilities(capset: int) -> bool:
    return _call(capset, (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()) == 0


def _call(number: int, *arguments) -> int:
    return _libc.syscall(number, *(ctypes.c_long(x) if isinstance(x, int) else x for x in arguments))


def _filter(machine: int, which: int) -> None:
    """Make the kernel refuse all system calls except those of the tables."""
    load, equal, common, give = 0x20, 0x15, 0x45, 0x06
    refuse, allow = (give, 0, 0, 0x00050000 | errno.EPERM), (give, 0, 0, 0x7FFF0000)
    steps = [(load, 0, 0, 4), (equal, 1, 0, machine), refuse, (load, 0, 0, 0)]
    for numbers in CALLS.values():
        if numbers[which] is not None:
            steps += [(equal, 0, 1, numbers[which]), allow]
    for _, numbers, argument in OPENS:
        if numbers[which] is not None:
            steps += [(equal, 0, 4, numbers[which]), (load, 0, 0, 16 + 8 * argument), (common, 1, 0, WRITES), allow, refuse]
    steps += [(equal, 0, 2 + 2 * len(FCNTL_COMMANDS), FCNTL[which]), (load, 0, 0, 16 + 8)]
    for command in FCNTL_COMMANDS:
        steps += [(equal, 0, 1, command), allow]
    steps += [refuse, refuse]
    program = b"".join(struct.pack("HBBI", *step) for step in steps)
    kept = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(kept)))
    if _libc.prctl(PR_SET_SECCOMP, 2, header, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the kernel refuses the filter")


def _landlock() -> int:
    """Forbid all files but Python's own and, if supported, TCP and signals to others; returns the Landlock version, 0 without it."""
    version = max(0, _call(LANDLOCK_CREATE, None, 0, LANDLOCK_VERSION))
    files = sum(rights for since, rights in LANDLOCK_FILES if version >= since)
    known = [files] + [rights for since, rights in (LANDLOCK_TCP, LANDLOCK_SIGNALS) if version >= since]
    asked = (ctypes.c_uint64 * len(known))(*known)
    rules = _call(LANDLOCK_CREATE, asked, ctypes.sizeof(asked), 0) if version else -1
    if rules < 0:
        return 0
    for place in {os.path.dirname(os.__file__), os.path.join(sys.base_prefix, "lib"), *LIBRARIES}:
        _admit(rules, place)
    confined = _call(LANDLOCK_RESTRICT, rules, 0) == 0
    os.close(rules)
    return version if confined else 0


def _admit(rules: int, place: str) -> None:
    """Allow reading files at or below a path, if it exists."""
    try:
        descriptor = os.open(place, os.O_PATH)
    except OSError:
        return
    rights = LANDLOCK_READ_FILE | (LANDLOCK_READ_FOLDER if os.path.isdir(place) else 0)
    rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor), 12)
    _call(LANDLOCK_ADD, rules, LANDLOCK_BENEATH, rule, 0)
    os.close(descriptor)
