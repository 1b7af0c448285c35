"""Shared parts of the commands: options that name a run, and how errors end a command.

Importing this imports no jax, so that `--help`, `tokenizer` and `pack` start at once.
"""

import argparse
import difflib
import errno
import io
import os
import pathlib
import select
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from teleflm_jax import foreign, open_files
from teleflm_jax.distributed import processes, variables
from teleflm_jax.errors import UserError
from teleflm_jax.runs.config import SAVED_CONFIG, RunConfig, read_config, read_sections, refuse_no_run

WRONG_INPUT = 2
"""Exit code: the input is wrong."""
STDOUT = 1
"""The file descriptor."""
INTERRUPTED = 128 + 2
"""Exit code: Ctrl-C before or outside the training loop, as a shell reports it."""
PIPE_CLOSED = 128 + 13
"""Exit code if the reader of our output has closed it, as a shell reports a death by SIGPIPE."""

_REMEDIES = {
    errno.ENOENT: ("something that exists", "correct the path or make it first"),
    errno.EACCES: ("what this user may read and write", "change its permissions or choose another path"),
    errno.EPERM: ("what this user may read and write", "change its permissions or choose another path"),
    errno.EISDIR: ("a file", "name a file in that folder"),
    errno.ENOTDIR: ("a folder", "name a folder"),
    errno.EEXIST: ("a folder, or a name that is free", "change the path"),
    errno.ELOOP: ("a path without a circle of links", "correct the link"),
    errno.ENAMETOOLONG: ("a shorter name", "change the path"),
    errno.ENOSPC: ("a disk with room left", "free some space or choose a folder on another disk"),
    errno.EDQUOT: ("a disk with room left", "free some of your quota or choose a folder on another disk"),
    errno.EIO: ("a disk that answers", "look at the machine and its mounts, then give the same command again"),
    errno.ESTALE: ("a disk that answers", "look at the machine and its mounts, then give the same command again"),
    errno.ETIMEDOUT: (
        "a save within twenty minutes by a clock that does not jump",
        "look at the disk and the clock, then give the same command again; finished checkpoints are unharmed",
    ),
    errno.EMFILE: (
        "as many as the process's limit (RLIMIT_NOFILE), which is {limit:,}",
        "raise it where the process is started: `ulimit -n 65536`, or what the scheduler or the container calls it",
    ),
    errno.ENFILE: ("fewer open files on this machine", "end what holds them open, or raise the machine's limit (sysctl fs.file-max)"),
    errno.EROFS: ("a disk that can be written", "choose a folder on another disk"),
}


def make_parser(prog: str, description: str, example: str = "--gin_file configs/runs/quickstart.gin") -> argparse.ArgumentParser:
    """Return a parser that raises `UserError`s and whose `--help` ends with an example.

    Args:
        prog: the command as the user typed it.
        description: one line.
        example: arguments of a call that works.
    """
    return _Parser(prog=prog, description=description, epilog=f"example: {prog} {example}")


def add_arguments(parser: argparse.ArgumentParser):
    """Add the options that name a run: `--gin_file`, `--gin_param`, `--workdir`, or a folder or gin file as a positional argument."""
    parser.add_argument("run", nargs="?", type=path, metavar="RUN", help="a run's folder, whose config.gin is read, or a gin file")
    parser.add_argument(
        "--gin_file", action="append", default=[], type=path, metavar="FILE", help="configuration; a later file overrides an earlier one"
    )
    parser.add_argument(
        "--gin_param", action="append", default=[], metavar="'SECTION.FIELD = VALUE'", help="override one value; repeatable"
    )
    parser.add_argument("--workdir", type=path, metavar="FOLDER", help="the run's folder; its config.gin is read if no --gin_file is given")


def add_process_arguments(parser: argparse.ArgumentParser):
    """Add the options that number this process among those of a run; `launch` and cluster schedulers set the environment instead."""
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, if none of the known launchers is used")
    parser.add_argument("--num_processes", type=int, metavar="N", help="number of processes of the run")
    parser.add_argument("--process_id", type=int, metavar="I", help="number of this process, from 0")


def load(args: argparse.Namespace, optional: Collection[str] = (), before: Sequence[str] = ()) -> RunConfig:
    """Read the configuration that the options of `add_arguments` name.

    Args:
        args: parsed arguments.
        optional: sections that the command does not need.
        before: gin files that are read first.

    Raises:
        UserError: the configuration has a mistake, or no option names one.
    """
    files, saved = _files(args)
    return read_config([*before, *files], args.gin_param, optional, saved=saved)


def load_sections(
    args: argparse.Namespace,
    sections: Mapping[str, type],
    optional: Collection[str] = (),
    *,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
) -> dict[str, Any]:
    """Read other sections like `load`, as a dictionary; the gin files `before` and `after` are read first and last."""
    files, saved = _files(args)
    return read_sections([*before, *files, *after], args.gin_param, sections, optional, saved=saved)


def _files(args: argparse.Namespace) -> tuple[list[str], str | None]:
    """Return the gin files that the options name, and which path would be the run's own configuration."""
    folder, files = places(args)
    if not files and folder:
        if not (folder / SAVED_CONFIG).is_file():
            raise UserError(
                f"got {folder} without {SAVED_CONFIG}; allowed: a run's folder, or a gin file; add --gin_file FILE or change the folder"
            )
        files = [str(folder / SAVED_CONFIG)]
    if not files and not args.gin_param:
        raise UserError("got no configuration; allowed: --gin_file FILE or a run's folder; add --gin_file configs/runs/quickstart.gin")
    return files, str(folder / SAVED_CONFIG) if folder else None


def path(text: str) -> str:
    """Expand `~` at the start of a path, which the shell leaves alone in `--workdir=~/run`."""
    return os.path.expanduser(text)


def load_trained(args: argparse.Namespace, before: Sequence[str] = ()) -> tuple[RunConfig, pathlib.Path]:
    """Return configuration and folder of a run that was trained or imported; an imported one has no `data` and `train`.

    Args:
        args: parsed arguments.
        before: gin files that are read first.

    Raises:
        UserError: as `load`; or the folder is not a run's, whatever gin files are given.
    """
    folder = workdir(args)
    refuse_no_run(folder)
    return load(args, ("data", "train"), before), folder


def workdir(args: argparse.Namespace) -> pathlib.Path:
    """Return the run's folder, which need not exist yet."""
    folder, _ = places(args)
    if folder is None:
        raise UserError("got no folder for the run; allowed: --workdir FOLDER; add --workdir runs/NAME")
    return folder


def places(args: argparse.Namespace) -> tuple[pathlib.Path | None, list[str]]:
    """Return the run's folder and the gin files, from options and the positional argument."""
    plain = [args.run] if args.run else []
    files = [place for place in plain if place.endswith(".gin") or os.path.isfile(place)]
    folders = [place for place in (*plain, args.workdir) if place and place not in files]
    if len(folders) > 1:
        raise UserError(f"got two folders, {folders[0]} and --workdir {folders[1]}; allowed: one run's folder; remove one of them")
    return (pathlib.Path(folders[0]) if folders else None), files + args.gin_file


class _Parser(argparse.ArgumentParser):
    """A strict parser; `add_subparsers` makes the same kind."""

    def __init__(self, **settings):
        super().__init__(**{"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **settings})

    def error(self, message):
        raise UserError(f"got {message}; allowed: {' '.join(self.format_usage().split())}; see {self.prog} --help")

    def parse_known_args(self, args=None, namespace=None):
        """Refuse unknown arguments here and not in `parse_args`, so that a sub-command's parser names its own options."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            wrong = unknown[0].split("=")[0]
            near = difflib.get_close_matches(wrong, self._option_string_actions, n=1)
            change = f"change it to {near[0]}" if near else f"remove it, or see {self.prog} --help"
            allowed = ", ".join(name for name in self._option_string_actions if name.startswith("--"))
            raise UserError(f"got the unknown argument {wrong!r}; allowed: {allowed}; {change}")
        return namespace, unknown


def run_command(main: Callable[[], int | None], hesitate: float = 0.0) -> int:
    """Run a command; errors of the user or of the machine's disks become one line on stderr.

    Any other exception is a bug and propagates with its traceback.

    Args:
        main: the command.
        hesitate: seconds to wait before an error is shown; the other processes of a run wait, as process 0 is likely to show the same.

    Returns:
        The process's exit code.
    """
    # a file name may hold characters that the terminal's encoding lacks; the C locale's stdout has `surrogateescape`
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="backslashreplace")
    for variable in variables.settle(os.environ):
        print(f"{foreign.printable(variable)} is set and has no effect on this command", file=sys.stderr)
    open_files.raise_limit()
    try:
        code = main() or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        message = str(error)
    except (RuntimeError, AssertionError) as error:
        if not variables.finds_no_device(error):
            raise
        message = (
            f"got JAX_PLATFORMS={os.environ['JAX_PLATFORMS']!r}, for which jax finds no device; allowed: cpu, or cuda if its plugin "
            "and a GPU are; change or unset it"
        )
    except KeyboardInterrupt:
        print("interrupted; no half-written result remains", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        return PIPE_CLOSED
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        allowed, change = _REMEDIES[error.errno]
        where = f"{error.filename}: " if error.filename is not None else ""
        message = f"got {where}{error.strerror}; allowed: {allowed.format(limit=open_files.limit())}; {change}"
    time.sleep(hesitate)
    print("error: " + foreign.printable(" ".join(message.splitlines())), file=sys.stderr)
    return WRONG_INPUT


def run_process(main: Callable[[], int | None], process: processes.ProcessInfo | None) -> int:
    """Run a command in one of a run's processes, which have joined; one that fails exits without waiting for the others."""
    try:
        return processes.leave(run_command(main, processes.NOTICE_SECONDS * (process is not None and process.index > 0)), process)
    except BaseException:
        if process is not None:
            traceback.print_exc()
        processes.leave(1, process)
        raise


def _stdout_is_closed() -> bool:
    """Return whether our own stdout broke, and not a worker's; if so, discard what is still buffered, which would fail at exit."""
    poll = select.poll()
    poll.register(STDOUT, 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    return True
