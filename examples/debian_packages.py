"""Files from Debian packages, which are downloaded by name into a folder and read without root, dpkg or unpacking to disk."""

import contextlib
import glob
import gzip
import io
import lzma
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

NETWORK_TIMEOUT_SECONDS = 30


class PackageError(Exception):
    """Error of a package that is not available or cannot be read; the message is one line."""


class Cache:
    """A folder of .deb files, and of apt's package lists if the system has none."""

    def __init__(self, folder: str | os.PathLike) -> None:
        """Open the folder, which need not exist."""
        self.folder = pathlib.Path(folder).absolute()
        self._options: list[str] = []
        self._failure = "" if shutil.which("apt-get") else "there is no apt-get on this machine"

    def get(self, package: str, through: str = "") -> pathlib.Path:
        """Return the package's file, after downloading it unless it exists.

        Args:
            package: Name as apt knows it.
            through: Pattern of the dependency to use instead, for names with a version: `python3-doc` needs
                `python3.11-doc` on one release and `python3.12-doc` on another.

        Raises:
            PackageError: There is no such package, no network, or no apt-get.
        """
        pattern = re.compile((through or re.escape(package)) + r"_[^_]*_\w+\.deb")
        cached = sorted(path for path in self.folder.glob("*.deb") if pattern.fullmatch(path.name))
        if cached:
            return cached[-1]
        if self._failure:
            raise PackageError(self._failure)
        try:
            return self._download(self._dependency(package, through) if through else package)
        except PackageError:
            if self._options:
                raise
        # The system's lists are empty or older than the mirror: fetch lists of our own, which needs no root.
        self._update()
        return self._download(self._dependency(package, through) if through else package)

    def _dependency(self, package: str, through: str) -> str:
        listing = self._run("apt-cache", "depends", package)
        names = re.findall(rf"Depends: ({through})\s", listing)
        if not names:
            raise PackageError(f"apt knows no package that {package} stands for")
        return names[0]

    def _download(self, package: str) -> pathlib.Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as partial:
            self._run("apt-get", "download", package, folder=partial)
            found = glob.glob(f"{partial}/*.deb")
            if not found:
                raise PackageError("apt-get downloaded nothing")
            return pathlib.Path(shutil.move(found[0], self.folder))

    def _update(self) -> None:
        lists, caches = self.folder / "apt" / "lists", self.folder / "apt" / "cache"
        for folder in (lists / "partial", caches / "archives" / "partial"):
            folder.mkdir(parents=True, exist_ok=True)
        self._options = ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={caches}"]
        try:
            self._run("apt-get", "update")
        except PackageError as error:
            self._failure = str(error)
            raise

    def _run(self, program: str, *arguments: str, folder: str | None = None) -> str:
        timeout = str(NETWORK_TIMEOUT_SECONDS)
        options = [*self._options, "-o", f"Acquire::http::Timeout={timeout}", "-o", f"Acquire::https::Timeout={timeout}"]
        if os.geteuid() == 0:
            options += ["-o", "APT::Sandbox::User=root"]  # otherwise apt warns that its own user may not write here
        environment = dict(os.environ, LC_ALL="C")
        done = subprocess.run([program, *options, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
        # `apt-get update` exits with 0 even if it could reach no mirror.
        if done.returncode or "Failed to fetch" in done.stderr:
            lines = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W: Failed"))] or done.stderr.splitlines()
            raise PackageError(lines[0][3:] if lines else f"{program} ended with {done.returncode}")
        return done.stdout


def files(deb: str | os.PathLike, wanted: Callable[[str], object]) -> Iterator[tuple[str, bytes]]:
    """Yield the regular files of a package whose path (`usr/share/...`) is wanted, as (path, content), sorted by path.

    Raises:
        PackageError: The file is not a complete Debian package.
    """
    with open(deb, "rb") as archive, _reported(deb):
        with _data(archive) as data, tarfile.open(fileobj=data, mode="r|", bufsize=1 << 20) as tar:
            for member in tar:
                path = member.name.removeprefix("./")
                if path.startswith("/") or ".." in path.split("/"):
                    raise ValueError(f"the path {path!r}, which leads out of it")
                if member.isfile() and wanted(path):
                    yield path, tar.extractfile(member).read()


@contextlib.contextmanager
def _reported(deb: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, lzma.LZMAError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        raise PackageError(f"{os.path.basename(deb)} is not a complete package ({error}); delete it and run this again") from error


def _data(archive: BinaryIO) -> BinaryIO:
    """Return the decompressed data.tar of a package, an `ar` archive of three members (deb(5))."""
    if archive.read(8) != b"!<arch>\n":
        raise ValueError("not an ar archive")
    while len(header := archive.read(60)) == 60:
        name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
        if name.startswith("data.tar"):
            return _decompressed(io.BytesIO(archive.read(size)), name)
        archive.seek(size + size % 2, os.SEEK_CUR)
    raise ValueError("no data in it")


def _decompressed(data: BinaryIO, name: str) -> BinaryIO:
    if name.endswith(".xz"):
        return lzma.open(data)
    if name.endswith(".gz"):
        return gzip.open(data)
    if name.endswith(".zst"):  # Ubuntu
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(data)
    return data
