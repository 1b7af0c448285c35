"""What all commands share: the sections of a run, the options that name them, and how a wrong input leaves a command.

Importing this imports no jax, so that `--help`, `tokenizer` and `pack` start at once.
"""

import argparse
import dataclasses
import difflib
import errno
import os
import pathlib
import select
import sys
import time
import traceback
import types
from collections.abc import Callable, Collection, Mapping, Sequence

from sharding.config import MeshConfig
from teleflm_jax import config, foreign, open_files
from teleflm_jax.data.config import DataConfig
from teleflm_jax.distributed import processes, variables
from teleflm_jax.errors import UserError
from teleflm_jax.evaluate.config import EvaluationConfig, SuiteConfig
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.mup import MupConfig
from teleflm_jax.observability.config import ProfileConfig, TelemetryConfig
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.tokenizer.config import TokenizerConfig
from teleflm_jax.train.config import GuardConfig, TrainConfig

SECTIONS = {
    "model": ModelConfig,
    "mup": MupConfig,
    "optimizer": OptimizerConfig,
    "tokenizer": TokenizerConfig,
    "pack": PackConfig,
    "data": DataConfig,
    "mesh": MeshConfig,
    "train": TrainConfig,
    "evaluation": EvaluationConfig,
    "suite": SuiteConfig,
    "guard": GuardConfig,
    "telemetry": TelemetryConfig,
    "profile": ProfileConfig,
}
"""Section of a configuration -> its dataclass."""

PATHS = {
    "data": ("tokenizer", "packed", "sources"),
    "train": ("init_from",),
    "suite": ("data", "include"),
    "corpus": ("sources", "earlier"),
    "decontaminate": ("benchmarks", "ignored"),
    "mix": ("tokenizer",),
    "quality": ("model",),
}
"""Fields that name files and folders; a relative path begins at the current folder, and is made absolute as soon as it is read."""

SAVED_CONFIG = "config.gin"
"""In a run's folder: its whole configuration."""

FROM_COMMAND_LINE = {
    "suite": ("tasks", "fractions", "data", "include", "allow_code"),
    "telemetry": ("wandb_project", "prometheus_port", "prometheus_address"),
}
"""Fields that run code or reach the network: each start must give them, and a run's own configuration does not, since others may have
written it."""
WITHHOLD = {SAVED_CONFIG: [f"{section}.{field}" for section, fields in FROM_COMMAND_LINE.items() for field in fields]}

WRONG_INPUT = 2
"""Exit code: what the user gave is wrong."""
STDOUT = 1
"""The file descriptor."""
INTERRUPTED = 128 + 2
"""Exit code: Ctrl-C before or outside the training loop, as a shell reports it."""
PIPE_CLOSED = 128 + 13
"""Exit code: who read our output has left, as a shell reports a death by SIGPIPE."""

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run's whole configuration; a section is None only where `load` was told that it may be left out."""

    model: ModelConfig | None = None
    mup: MupConfig
    optimizer: OptimizerConfig
    tokenizer: TokenizerConfig
    pack: PackConfig
    data: DataConfig | None = None
    mesh: MeshConfig
    train: TrainConfig | None = None
    evaluation: EvaluationConfig
    suite: SuiteConfig
    guard: GuardConfig
    telemetry: TelemetryConfig
    profile: ProfileConfig
    withheld: tuple[str, ...] = ()
    """Fields of `FROM_COMMAND_LINE` that a run's own configuration sets and this start does not."""


def make_parser(prog: str, description: str, example: str = "--gin_file configs/runs/quickstart.gin") -> argparse.ArgumentParser:
    """A parser whose mistakes are `UserError`s and whose `--help` ends with an example.

    Args:
        prog: What the user typed to get here.
        description: One line.
        example: Arguments of a call that works.
    """
    return _Parser(prog=prog, description=description, epilog=f"example: {prog} {example}")


def add_arguments(parser: argparse.ArgumentParser):
    """Add what names a run: `--gin_file`, `--gin_param`, `--workdir`, or its folder or gin file as a plain argument."""
    parser.add_argument("run", nargs="?", type=path, metavar="RUN", help="a run's folder, whose config.gin is read, or a gin file")
    parser.add_argument(
        "--gin_file", action="append", default=[], type=path, metavar="FILE", help="configuration; a later file overrides an earlier one"
    )
    parser.add_argument(
        "--gin_param", action="append", default=[], metavar="'SECTION.FIELD = VALUE'", help="override one value; repeatable"
    )
    parser.add_argument(
        "--workdir", type=path, metavar="FOLDER", help="the run's folder; its config.gin is read where no --gin_file is given"
    )


def add_process_arguments(parser: argparse.ArgumentParser):
    """Add what places this process among those of a run; `launch`, Slurm, Open MPI and Kubernetes say it by the environment."""
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, where none of the known starters is used")
    parser.add_argument("--num_processes", type=int, metavar="N", help="of the run")
    parser.add_argument("--process_id", type=int, metavar="I", help="of this process, from 0")


def load(args: argparse.Namespace, optional: Collection[str] = (), before: Sequence[str] = ()) -> Run:
    """Read the configuration that `add_arguments`' options name, and find what a run's own one sets beside it.

    Args:
        args: Parsed arguments.
        optional: Sections that the command can do without.
        before: gin files that are read first.

    Raises:
        UserError: On any mistake in it, or when nothing names a configuration.
    """
    found, whole = (load_sections(args, SECTIONS, optional, before=before, withhold=names) for names in (WITHHOLD, {}))
    withheld = (
        f"{section}.{field}"
        for section, fields in FROM_COMMAND_LINE.items()
        for field in fields
        if getattr(found[section], field) != getattr(whole[section], field)
    )
    return Run(**found, withheld=tuple(withheld))


def refuse_withheld(run: Run, *sections: str) -> None:
    """Raise a `UserError` where a run's own configuration sets what has to be given on the command line, and was not."""
    if names := [name for name in run.withheld if name.split(".")[0] in sections]:
        raise UserError(
            f"got {', '.join(names)} from a run's own {SAVED_CONFIG} alone; allowed: on the command line, as it may run code or reach the "
            "network and others may have written that file; give it again, or its default, by --gin_file FILE or --gin_param"
        )


def load_sections(
    args: argparse.Namespace,
    sections: Mapping[str, type],
    optional: Collection[str] = (),
    *,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
    withhold: Mapping[str, Collection[str]] = types.MappingProxyType(WITHHOLD),
) -> dict:
    """`load` with other sections, as a dictionary; `before` and `after` are gin files that are read first and last.

    What a run's own configuration may not set is as its default, unless the command line sets it.
    """
    folder, files = places(args)
    if not files and folder:
        if not (folder / SAVED_CONFIG).is_file():
            raise UserError(
                f"got {folder} without {SAVED_CONFIG}; allowed: a run's folder, or a gin file; add --gin_file FILE or change the folder"
            )
        files = [str(folder / SAVED_CONFIG)]
    if not files and not args.gin_param:
        raise UserError("got no configuration; allowed: --gin_file FILE or a run's folder; add --gin_file configs/runs/quickstart.gin")
    saved = str(folder / SAVED_CONFIG) if folder else None
    return absolute(config.parse([*before, *files, *after], args.gin_param, sections, optional, withhold=withhold, saved=saved))


def absolute(found: Mapping[str, object]) -> dict[str, object]:
    """Sections with absolute paths, so that what is written into a run's folder means the same from every other folder."""
    return dict(found) | {
        section: dataclasses.replace(found[section], **{field: _absolute(getattr(found[section], field)) for field in fields})
        for section, fields in PATHS.items()
        if section in found
    }


def without_paths(found: Mapping[str, object]) -> dict[str, dict]:
    """Fields of sections, apart from paths, which differ between machines that mount the same disk at different places."""
    return {
        section: {name: value for name, value in vars(settings).items() if name not in PATHS.get(section, ())}
        for section, settings in found.items()
    }


def path(text: str) -> str:
    """A path of the command line or a configuration; `~` begins it where no shell has replaced that, as in `--workdir=~/run`."""
    return os.path.expanduser(text)


def _absolute(value: str | tuple | dict | None) -> str | tuple | dict | None:
    """A path, or paths; `..` stays, as the folder before it may be a symbolic link."""
    if isinstance(value, dict):
        return {key: _absolute(path) for key, path in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_absolute, value))
    return str(pathlib.Path(path(value)).absolute()) if value else value


def load_trained(args: argparse.Namespace, before: Sequence[str] = ()) -> tuple[Run, pathlib.Path]:
    """Configuration and folder of a run that has been trained or imported; an imported one has no `data` and `train`.

    Args:
        args: Parsed arguments.
        before: gin files that are read first.

    Raises:
        UserError: as `load`; no such run is there, whatever gin files are given.
    """
    folder = workdir(args)
    refuse_no_run(folder)
    return load(args, ("data", "train"), before), folder


def refuse_no_run(folder: pathlib.Path) -> None:
    """Raise a `UserError` unless a folder is a run's."""
    if (folder / SAVED_CONFIG).is_file():
        return
    what = f" without {SAVED_CONFIG}" if folder.exists() else ", which is not there"
    change = "change the folder"
    if (folder / "config.json").is_file():
        change = f"import it first, if it is a model in safetensors: python -m teleflm_jax import --from {folder} --workdir runs/NAME"
    raise UserError(f"got {folder}{what}; allowed: the folder of a run that was trained or imported; {change}")


def workdir(args: argparse.Namespace) -> pathlib.Path:
    """The run's folder, which need not exist yet."""
    folder, _ = places(args)
    if folder is None:
        raise UserError("got no folder for the run; allowed: --workdir FOLDER; add --workdir runs/NAME")
    return folder


def places(args: argparse.Namespace) -> tuple[pathlib.Path | None, list[str]]:
    """The run's folder and the gin files, wherever among the arguments they stand."""
    plain = [args.run] if args.run else []
    files = [place for place in plain if place.endswith(".gin") or os.path.isfile(place)]
    folders = [place for place in (*plain, args.workdir) if place and place not in files]
    if len(folders) > 1:
        raise UserError(f"got two folders, {folders[0]} and --workdir {folders[1]}; allowed: one run's folder; remove one of them")
    return (pathlib.Path(folders[0]) if folders else None), files + args.gin_file


class _Parser(argparse.ArgumentParser):
    """Also what `add_subparsers` makes, with the same settings."""

    def __init__(self, **settings):
        super().__init__(**{"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **settings})

    def error(self, message):
        raise UserError(f"got {message}; allowed: {' '.join(self.format_usage().split())}; see {self.prog} --help")

    def parse_known_args(self, args=None, namespace=None):
        """Refuse what is left over here and not in `parse_args`: then a sub-command's parser names its own options."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            wrong = unknown[0].split("=")[0]
            near = difflib.get_close_matches(wrong, self._option_string_actions, n=1)
            change = f"change it to {near[0]}" if near else f"remove it, or see {self.prog} --help"
            allowed = ", ".join(name for name in self._option_string_actions if name.startswith("--"))
            raise UserError(f"got the unknown argument {wrong!r}; allowed: {allowed}; {change}")
        return namespace, unknown


def run_command(main: Callable[[], int | None], hesitate: float = 0.0) -> int:
    """Run a command; what its user or the machine's disks got wrong becomes one line on stderr.

    Anything else that is raised is a bug and propagates with its traceback.

    Args:
        main: the command.
        hesitate: seconds to wait before an error is shown, of all but the first of several processes, which is likely to say the same.

    Returns:
        The process's exit code.
    """
    # a name on the disk may hold what the terminal's encoding has no sign for; the C locale's stdout has `surrogateescape`
    if sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="backslashreplace")
    for variable in variables.settle(os.environ):
        print(f"{foreign.printable(variable)} is set; this computes as without it", file=sys.stderr)
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
            f"got JAX_PLATFORMS={os.environ['JAX_PLATFORMS']!r}, of which jax has no device here; allowed: cpu, or cuda where its plugin "
            "and a GPU are; change or unset it"
        )
    except KeyboardInterrupt:
        print("interrupted; nothing half-written stands in place of a result", file=sys.stderr)
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


def run_process(main: Callable[[], int | None], place: processes.Place | None) -> int:
    """`run_command` in one of a run's processes, which have joined; one that fails leaves without waiting for the others."""
    try:
        return processes.leave(run_command(main, processes.NOTICE_SECONDS * (place is not None and place.index > 0)), place)
    except BaseException:
        if place is not None:
            traceback.print_exc()
        processes.leave(1, place)
        raise


def _stdout_is_closed() -> bool:
    """Whether it was our own output that broke, and no worker's; if so, what is still buffered goes nowhere instead of failing at exit."""
    poll = select.poll()
    poll.register(STDOUT, 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    return True
