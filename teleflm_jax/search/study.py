"""The folder of a search: the search it belongs to, its base configuration, and its trials, which are ordinary run folders.

    STUDY/study.json                the search, written once
    STUDY/config.gin                the base configuration
    STUDY/trials/p00000-s0/         point 0 with seed 0: a run's folder, and beside the run's own files
        trial.json                  point, seed and values, written once
        claim-N.json                while a worker holds it (claims.py)
        result.json                 how it ended, when it has ended

Everything but the ranges of the space is in the trials' folders, so a study without its study.json is read all the same.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import typing
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from teleflm_jax import config, foreign
from teleflm_jax.config.values import MismatchError, convert
from teleflm_jax.errors import UserError
from teleflm_jax.observability import history, run_log
from teleflm_jax.runs.config import SAVED_CONFIG, RunConfig, saved_config
from teleflm_jax.search import claims
from teleflm_jax.search import space as spaces
from teleflm_jax.search.config import SearchConfig

STUDY, TRIALS, TRIAL, RESULT = "study.json", "trials", "trial.json", "result.json"
VERSION = 1
IDENTITY = ("space", "sampler", "points", "widths", "parametrisations", "seeds", "sampler_seed")
"""Fields of a search that its folder is bound to; the others may change between workers."""
BASE = ("model", "mup", "optimizer", "data", "train")
"""Sections of the base configuration that a study is bound to, without paths."""
COMPLETED, DIVERGED, RUNNING, WAITING = "completed", "diverged", "running", "waiting"
LARGEST = 1 << 24
"""Bytes of a study's JSON files."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialRows:
    """Columns of a trial's metrics.jsonl, one number a step."""

    step: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    grad_norm: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a study, as far as it has come."""

    point: int
    seed: int
    """Added to the seeds of the base configuration."""
    values: spaces.Values
    folder: pathlib.Path
    outcome: str
    """completed, diverged, running or waiting."""
    reason: str
    """Finding that ended a diverged trial."""
    rows: TrialRows
    heldout: float | None
    """Weighted bits per byte of the last evaluation of a completed trial."""
    loss: float | None
    """Mean training loss over the last twentieth of the steps of a completed trial."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A study and all its trials, in the order of points and seeds."""

    folder: pathlib.Path
    search: SearchConfig
    config: RunConfig
    """Base configuration."""
    trials: tuple[Trial, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialFolder:
    """Content of a trial's folder without its logs."""

    point: int
    seed: int
    values: spaces.Values
    folder: pathlib.Path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def finished(self) -> bool:
        """True if the trial has ended."""
        return (self.folder / RESULT).exists()

    def result(self) -> dict[str, Any]:
        """Return how the trial ended; nothing if it has not."""
        return _json(self.folder / RESULT) if self.finished else {}


def load(folder: str | os.PathLike[str]) -> Study:
    """Read a study.

    Raises:
        UserError: the folder holds no study, or a file of it is damaged.
    """
    place = pathlib.Path(folder)
    found = places(place)
    if not found and not (place / STUDY).is_file():
        what = "without a study" if place.exists() else ", which is not there"
        raise UserError(f"got {place} {what}; allowed: the folder of a search; change the folder".replace(" ,", ","))
    search = _saved_search(place) if (place / STUDY).is_file() else _search_of(found)
    owner = claims.this_process()
    return Study(
        folder=place,
        search=search,
        config=saved_config(place),
        trials=tuple(_trial(trial, owner, search.lease_seconds) for trial in found),
    )


def places(folder: pathlib.Path) -> list[TrialFolder]:
    """Return the trials of a study in the order of points and seeds."""
    return [_place(path.parent) for path in sorted((folder / TRIALS).glob(f"*/{TRIAL}"))]


def write(folder: pathlib.Path, search: SearchConfig, base: RunConfig, points: Sequence[spaces.Values]) -> None:
    """Write a study's folder with these points; complete it where another worker has begun it.

    Raises:
        UserError: the folder is another search's, or of something else.
    """
    refuse_other(folder, search, base)
    folder.mkdir(parents=True, exist_ok=True)
    write_once(folder / STUDY, json.dumps({"version": VERSION, **vars(search), **_identity(search, base)}))
    refuse_other(folder, search, base)  # of two searches that start at the same time, the folder is one's
    write_once(folder / SAVED_CONFIG, config.dump(base.sections()))
    for point, values in enumerate(points):
        write_point(folder, search, base, point, values)


def write_point(folder: pathlib.Path, search: SearchConfig, base: RunConfig, point: int, values: spaces.Values) -> None:
    """Write the folders of a point's trials; those that are there stay as they are."""
    for seed in range(search.seeds):
        place = folder / TRIALS / f"p{point:05d}-s{seed}"
        if not (place / TRIAL).is_file():
            place.mkdir(parents=True, exist_ok=True)
            content = {"point": point, "seed": seed, "values": values, "study": digest(_identity(search, base))}
            write_once(place / TRIAL, json.dumps(content))


def write_once(path: pathlib.Path, content: str) -> bool:
    """Write a text file that appears whole, unless it is there; return whether this call wrote it."""
    if path.exists():
        return False
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(content.rstrip("\n") + "\n", encoding="utf-8")
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def read_rows(folder: pathlib.Path) -> TrialRows:
    """Return the figures of a run's steps so far."""
    columns = history.read(folder)
    return TrialRows(**{field.name: columns[field.name] for field in dataclasses.fields(TrialRows)})


def result(folder: pathlib.Path, outcome: str, reason: str, step: int) -> dict[str, Any]:
    """Return a finished trial's result from its logs; `seconds` are those of its steps, by all workers that had a part in them."""
    columns, evaluations = history.read(folder), run_log.bits_per_byte(folder)
    completed = outcome == COMPLETED
    return {
        "outcome": outcome,
        "reason": reason,
        "step": step,
        "loss": float(history.running_mean(columns["loss"])[-1]) if completed else None,
        "heldout": evaluations[max(evaluations)] if completed and evaluations else None,
        "seconds": round(float(np.nansum(columns["step_seconds"])), 3),
    }


def refuse_other(folder: pathlib.Path, search: SearchConfig, base: RunConfig) -> None:
    """Raise a `UserError` unless the folder is free or this search's."""
    given = _identity(search, base)
    used = folder.exists() and any(
        not name.startswith(".") for name in os.listdir(folder)
    )  # before others write, who begin with study.json
    if (folder / STUDY).is_file():
        saved = foreign.read_json(folder / STUDY, LARGEST)
        same = {name: saved.get(name) == given[name] for name in given} if isinstance(saved, dict) else {STUDY: False}
    elif found := places(folder):
        saved, same = {}, {"search": all(_json(place.folder / TRIAL).get("study") == digest(given) for place in found)}
    else:
        saved, same = {}, {"files that are no search's": not used}
    if different := [name for name, equal in same.items() if not equal]:
        raise UserError(
            f"got {folder} with {_difference(folder, different[0], saved, base)}; allowed: a new folder, or the folder of this search; "
            "change --workdir, or give the search of that folder"
        )


def digest(content: Mapping[str, Any]) -> str:
    """Return a checksum of JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _identity(search: SearchConfig, base: RunConfig) -> dict[str, Any]:
    """Return what a folder is bound to, as it reads back from JSON."""
    sections = {name: vars(section) for name, section in base.sections().items() if name in BASE}
    return json.loads(json.dumps({name: getattr(search, name) for name in IDENTITY} | {"base": digest(_without_paths(sections))}))


def _without_paths(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the fields of sections that do not depend on where a machine mounts its disks; of a parent run its name and step remain."""
    kept = {section: dict(fields) for section, fields in sections.items()}
    for name in ("tokenizer", "packed", "sources"):
        kept["data"].pop(name)
    parent = kept["train"]["init_from"]
    kept["train"]["init_from"] = parent and pathlib.PurePath(parent).name
    return kept


def _difference(folder: pathlib.Path, name: str, saved: Mapping[str, Any], base: RunConfig) -> str:
    """Say in which way a folder is another's."""
    if name == "base" and (folder / SAVED_CONFIG).is_file():
        old, new = (_without_paths({k: vars(v) for k, v in run.sections().items() if k in BASE}) for run in (saved_config(folder), base))
        changed = [
            f"{section}.{field}={value!r}" for section in BASE for field, value in old[section].items() if new[section][field] != value
        ]
        return f"another search ({', '.join(changed)})"
    return f"another search (search.{name}={saved.get(name)!r})" if name in IDENTITY else "another search" if name == "search" else name


def _saved_search(folder: pathlib.Path) -> SearchConfig:
    """Return the search of a study.json."""
    saved, types = _json(folder / STUDY), typing.get_type_hints(SearchConfig)
    try:
        fields: dict[str, Any] = {name: convert(saved[name], type_, name) for name, type_ in types.items()}
        return SearchConfig(**fields)
    except (KeyError, MismatchError) as error:
        raise _damaged(folder / STUDY) from error


def _search_of(found: Sequence[TrialFolder]) -> SearchConfig:
    """Return a search that has these trials: every setting's range is the list of its values."""
    names = dict.fromkeys(name for place in found for name in place.values)
    return SearchConfig(
        space={name: tuple(sorted({place.values[name] for place in found if name in place.values})) for name in names},
        seeds=1 + max(place.seed for place in found),
    )


def _place(folder: pathlib.Path) -> TrialFolder:
    saved = _json(folder / TRIAL)
    try:
        values = {str(name): float(value) if isinstance(value, float) else int(value) for name, value in saved["values"].items()}
        place = TrialFolder(point=int(saved["point"]), seed=int(saved["seed"]), values=values, folder=folder)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder / TRIAL) from error
    if not re.fullmatch(rf"p0*{place.point}-s{place.seed}", folder.name):
        raise _damaged(folder / TRIAL)
    return place


def _trial(place: TrialFolder, owner: claims.Owner, lease_seconds: float) -> Trial:
    ended = place.result()
    held = RUNNING if claims.is_held(place.folder, owner, lease_seconds) else WAITING
    return Trial(
        **vars(place),
        outcome=ended.get("outcome", held),
        reason=ended.get("reason", ""),
        rows=read_rows(place.folder),
        heldout=ended.get("heldout"),
        loss=ended.get("loss"),
    )


def _json(path: pathlib.Path) -> dict[str, Any]:
    content = foreign.read_json(path, LARGEST)
    if not isinstance(content, dict):
        raise _damaged(path)
    return content


def _damaged(path: pathlib.Path) -> UserError:
    return UserError(f"got {path}, which a search did not write; allowed: its own files; restore it, or move its folder away")
