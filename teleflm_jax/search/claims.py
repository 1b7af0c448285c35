"""Claims on trials by the folder alone, on one host or many.

The holder of a trial is the worker that made its newest `claim-N.json`, and renews it by setting the file's time of modification. A claim
that is stale is succeeded by `claim-N+1.json`, which is created exclusively: of several workers one gets it, and the former holder sees it.
No claim is ever renamed or removed to take a trial over, because between the check and the removal another worker could have replaced it.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

from teleflm_jax import foreign

LONGEST = 10_000
"""Bytes of a claim."""
RENEWALS = 4
"""Renewals in the time of a lease."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owner:
    """A worker process."""

    host: str
    """Host name and PID namespace, in which the process id is meant."""
    pid: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A trial that this worker holds."""

    folder: pathlib.Path
    number: int
    descriptor: int
    """Open file of the claim, which is renewed whatever its path names now."""

    def renew(self) -> bool:
        """Renew the claim; return False if another worker has taken the trial over."""
        os.utime(self.descriptor)
        return _newest(self.folder) == self.number and _same_file(self.folder / _name(self.number), self.descriptor)

    def release(self, *, finished: bool) -> None:
        """Give the trial back: for good if it has its result, otherwise as a stale claim that any worker may succeed."""
        if _newest(self.folder) == self.number:
            if finished:
                for number in _numbers(self.folder):
                    (self.folder / _name(number)).unlink(missing_ok=True)
            else:
                os.utime(self.descriptor, (0, 0))
        os.close(self.descriptor)


class LostError(Exception):
    """Another worker has taken over the trial, because its claim was not renewed in time."""


def this_process() -> Owner:
    """Return the owner of claims that this process makes."""
    return Owner(host=f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}", pid=os.getpid())


def take(folder: pathlib.Path, owner: Owner, lease_seconds: float) -> Claim | None:
    """Claim the trial in a folder; return None if a worker holds it or another was faster."""
    newest = _newest(folder)
    if newest and not _is_stale(folder / _name(newest), owner, lease_seconds, _disk_time(folder)):
        return None
    try:
        descriptor = os.open(folder / _name(newest + 1), os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return None
    os.write(descriptor, json.dumps(dataclasses.asdict(owner)).encode())
    for number in _numbers(folder):
        if number <= newest:
            (folder / _name(number)).unlink(missing_ok=True)
    return Claim(folder=folder, number=newest + 1, descriptor=descriptor)


def is_held(folder: pathlib.Path, owner: Owner, lease_seconds: float) -> bool:
    """Return whether a worker holds the trial, by this machine's clock, so that nothing is written."""
    newest = _newest(folder)
    return bool(newest) and not _is_stale(folder / _name(newest), owner, lease_seconds, time.time())


@contextlib.contextmanager
def renewing(claim: Claim, lease_seconds: float) -> Iterator[Callable[[], None]]:
    """Renew a claim from a thread while the block lasts; yield a function that raises `LostError` once the claim is lost.

    The function renews the claim itself if the thread is late, as after a suspension of the whole process.
    """
    ended, lost = threading.Event(), threading.Event()
    renewed = time.monotonic()

    def renew() -> None:
        nonlocal renewed
        with contextlib.suppress(OSError):  # a disk that is away for a while; the next renewal shows whether the claim was lost meanwhile
            if not claim.renew():
                lost.set()
            renewed = time.monotonic()

    def repeat() -> None:
        while not ended.wait(lease_seconds / RENEWALS) and not lost.is_set():
            renew()

    def check() -> None:
        if time.monotonic() - renewed > 2 * lease_seconds / RENEWALS:
            renew()
        if lost.is_set():
            raise LostError

    thread = threading.Thread(target=repeat, name="renewal of a claim", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        ended.set()
        thread.join()


def _name(number: int) -> str:
    return f"claim-{number}.json"


def _numbers(folder: pathlib.Path) -> list[int]:
    found = (path.stem.removeprefix("claim-") for path in folder.glob("claim-*.json"))
    return sorted(int(number) for number in found if number.isascii() and number.isdecimal())


def _newest(folder: pathlib.Path) -> int:
    """Return the number of the newest claim; 0 if there is none."""
    return max(_numbers(folder), default=0)


def _same_file(path: pathlib.Path, descriptor: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False


def _disk_time(folder: pathlib.Path) -> float:
    """Return the time by the clock of the disk, which is a server's on a shared one."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b".")
        file.flush()
        return os.fstat(file.fileno()).st_mtime


def _is_stale(path: pathlib.Path, owner: Owner, lease_seconds: float, now: float) -> bool:
    """Return whether a claim was given back or not renewed for the time of a lease, or its process on this host is gone.

    The file is opened because that is when a network file system asks the server for its attributes.
    """
    try:
        with foreign.open_plain(path) as file:
            content, renewed = file.read(LONGEST), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return True
    if now - renewed > lease_seconds:
        return True
    with contextlib.suppress(ValueError, KeyError, TypeError):  # a claim that is being written has no content yet
        holder = Owner(**json.loads(content))
        return holder.host == owner.host and not pathlib.Path(f"/proc/{int(holder.pid)}").exists()
    return False
