"""The configuration of a run: its sections, built in Python or read from gin files. Importing this imports no jax."""

import dataclasses
import os
import pathlib
import types
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sharding.config import MeshConfig
from teleflm_jax import config, invocation
from teleflm_jax.data.config import DataConfig
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
"""Fields that name files and folders. A relative path starts at the current folder and becomes absolute as soon as it is read."""

SAVED_CONFIG = "config.gin"
"""File in a run's folder that holds its whole configuration."""

FROM_COMMAND_LINE = {
    "suite": ("tasks", "fractions", "data", "include", "allow_code"),
    "telemetry": ("wandb_project", "prometheus_port", "prometheus_address"),
}
"""Fields that run code or reach the network. Each start must give them again: a run's own `config.gin` cannot set them, because somebody
else may have written that file."""
WITHHELD = {SAVED_CONFIG: [f"{section}.{field}" for section, fields in FROM_COMMAND_LINE.items() for field in fields]}
"""Name of a file -> bindings that are ignored in files of that name."""


ABSENT: Any = None
"""Value of a section that a configuration leaves out; functions that can do without a section compare it with None."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The whole configuration of a run. Training needs `model`, `data` and `train`; other uses can leave some of them ABSENT."""

    model: ModelConfig = ABSENT
    mup: MupConfig = MupConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    pack: PackConfig = PackConfig()
    data: DataConfig = ABSENT
    mesh: MeshConfig = MeshConfig()
    train: TrainConfig = ABSENT
    evaluation: EvaluationConfig = EvaluationConfig()
    suite: SuiteConfig = SuiteConfig()
    guard: GuardConfig = GuardConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    profile: ProfileConfig = ProfileConfig()
    withheld: tuple[str, ...] = ()
    """Fields of `FROM_COMMAND_LINE` that the run's own `config.gin` sets and this start does not."""

    def sections(self) -> dict[str, Any]:
        """Return the sections that are given, by name, as `config.dump` writes them."""
        return {name: section for name in SECTIONS if (section := getattr(self, name)) is not None}


def read_config(
    files: Sequence[str], bindings: Sequence[str] = (), optional: Collection[str] = (), *, saved: str | None = None
) -> RunConfig:
    """Read a run's configuration from gin files and bindings.

    Args:
        files: paths of gin files; a later file overrides an earlier one.
        bindings: `section.field = value` texts, which override all files.
        optional: sections that may be missing; a missing one is None.
        saved: the one of `files` that is a run's own `config.gin`, which may include no other file.

    Raises:
        UserError: a mistake in a file or a binding.
    """
    read, whole = (read_sections(files, bindings, SECTIONS, optional, saved=saved, withhold=names) for names in (WITHHELD, {}))
    withheld = (
        f"{section}.{field}"
        for section, fields in FROM_COMMAND_LINE.items()
        for field in fields
        if getattr(read[section], field) != getattr(whole[section], field)
    )
    return RunConfig(**read, withheld=tuple(withheld))


def read_sections(
    files: Sequence[str],
    bindings: Sequence[str],
    sections: Mapping[str, type],
    optional: Collection[str] = (),
    *,
    saved: str | None = None,
    withhold: Mapping[str, Collection[str]] = types.MappingProxyType(WITHHELD),
) -> dict[str, Any]:
    """Read any sections, with absolute paths; fields that are withheld from a run's own configuration keep their defaults."""
    return absolute(config.parse(files, bindings, sections, optional, withhold=withhold, saved=saved))


def saved_config(folder: pathlib.Path) -> RunConfig:
    """Read the configuration in a run's folder; `data` and `train` are None for an imported model.

    Raises:
        UserError: the saved configuration is missing or damaged.
    """
    saved = str(folder / SAVED_CONFIG)
    return RunConfig(**read_sections([saved], [], SECTIONS, ("data", "train"), saved=saved))


def refuse_no_run(folder: pathlib.Path) -> None:
    """Raise a `UserError` unless the folder is a run's."""
    if (folder / SAVED_CONFIG).is_file():
        return
    what = f" without {SAVED_CONFIG}" if folder.exists() else ", which does not exist"
    change = "change the folder"
    if (folder / "config.json").is_file():
        change = f"import it first, if it is a model in safetensors: {invocation.command('import')} --from {folder} --workdir runs/NAME"
    raise UserError(f"got {folder}{what}; allowed: the folder of a run that was trained or imported; {change}")


def refuse_incomplete(run: RunConfig, *sections: str) -> None:
    """Raise a `UserError` if the configuration leaves out one of these sections."""
    if missing := [name for name in sections if getattr(run, name) is None]:
        raise UserError(f"got a configuration without {', '.join(missing)}; allowed: one with {', '.join(sections)}; add what is missing")


def refuse_withheld(run: RunConfig, *sections: str) -> None:
    """Raise a `UserError` if a run's own configuration sets fields of these sections that only the command line may set."""
    if names := [name for name in run.withheld if name.split(".")[0] in sections]:
        raise UserError(
            f"got {', '.join(names)} from a run's own {SAVED_CONFIG} alone; allowed: on the command line, as it may run code or reach the "
            "network and others may have written that file; give it again, or its default, by --gin_file FILE or --gin_param"
        )


def absolute(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return sections with absolute paths, so that a saved configuration means the same from every folder."""
    return dict(sections) | {
        section: dataclasses.replace(sections[section], **{field: _absolute(getattr(sections[section], field)) for field in fields})
        for section, fields in PATHS.items()
        if section in sections
    }


def without_paths(sections: Mapping[str, Any]) -> dict[str, dict]:
    """Return the fields of sections except paths, which differ between machines that mount one disk at different places."""
    return {
        section: {name: value for name, value in vars(settings).items() if name not in PATHS.get(section, ())}
        for section, settings in sections.items()
    }


def _absolute(value: str | tuple | dict | None) -> str | tuple | dict | None:
    """Make a path, or paths, absolute; `..` stays, because the folder before it may be a symbolic link."""
    if isinstance(value, dict):
        return {key: _absolute(path) for key, path in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_absolute, value))
    return str(pathlib.Path(os.path.expanduser(value)).absolute()) if value else value
