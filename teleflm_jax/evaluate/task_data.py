"""The harness's tasks and the source of their items: a local folder if one is set, else `datasets` and the network.

Only `suite.py` imports this module, after checking that the harness is installed. Beside the harness's public interface it uses the
private loader of task files.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import datasets
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from teleflm_jax.config.read import nearest
from teleflm_jax.errors import UserError
from teleflm_jax.evaluate import local_data


def refuse_unknown(manager: TaskManager, name: str) -> None:
    """Raise a `UserError` for a name that is neither a task nor a group of tasks."""
    if name not in manager.all_subtasks and name not in manager.all_groups:
        near = nearest(name, [*manager.all_subtasks, *manager.all_groups])
        change = f"change it to {near!r}" if near else "see `lm_eval ls tasks`"
        raise UserError(f"got suite.tasks with {name!r}; allowed: tasks and groups of lm-evaluation-harness, and ours; {change}")


def leaves(manager: TaskManager, name: str) -> Iterator[str]:
    """Yield the tasks of a group, of its groups and tags; a task yields itself."""
    entry = manager.task_index[name]
    if entry.tags and name in manager.all_tags:
        yield from sorted(entry.tags)
    elif name not in manager.all_groups:
        yield name
    else:
        for member in load_yaml(entry.yaml_path, resolve_func=False)["task"]:
            child = member if isinstance(member, str) else member.get("task", member.get("group"))
            if isinstance(child, str) and child in manager.task_index:
                yield from leaves(manager, child)


def refuse_few_examples(task: Any, shots: int) -> None:
    """Raise a `UserError` if a loaded task has fewer few-shot examples than requested.

    If examples come from the test split, the harness draws one more, since the question itself may be among them.
    """
    if not shots or not hasattr(task, "sampler"):
        return
    count, among = len(task.sampler.df), task.fewshot_cfg.split == task.config.test_split
    if shots > count - among:
        allowed = f"at most {max(0, count - among)}" + (", as one of them may be the question" if among else "")
        raise UserError(
            f"got {shots} examples for each question of {task.config.task}, whose data have {count}; allowed: {allowed}; put the whole "
            "data set there, or change suite.tasks"
        )


def prepare(manager: TaskManager, task: str, shots: int, folder: str | None) -> None:
    """Set the number of a task's few-shot examples, and its items if they come from a local folder.

    Raises:
        UserError: a split is missing, or the task is a Python class that loads its own data.
    """
    entry = manager.task_index[task]
    settings = dict(entry.cfg) if entry.yaml_path is None else load_yaml(entry.yaml_path, resolve_func=True)
    if folder is not None and "class" in settings:
        raise UserError(f"got the task {task} with suite.data; allowed: tasks that name a data set; leave it out, or suite.data")
    fewshot = settings.get("fewshot_config") or {}
    if shots == 0 and not fewshot:
        settings |= {"training_split": None, "fewshot_split": None}  # else the harness loads examples that are never used
    settings["num_fewshot"] = shots
    if folder is not None:
        path, name = str(settings.get("dataset_path")), settings.get("dataset_name")
        wanted = settings.get("test_split") or settings.get("validation_split")
        examples = (
            fewshot.get("split") or settings.get("fewshot_split") or settings.get("training_split") or settings.get("validation_split")
        )
        splits = dict.fromkeys(filter(None, (wanted, None if "samples" in fewshot else examples)))
        files = {split: tuple(local_data.find(pathlib.Path(folder), path, name, split)) for split in splits}
        settings |= {"custom_dataset": functools.partial(_read, files), "dataset_kwargs": None}
    manager.task_index[task] = dataclasses.replace(entry, yaml_path=None, cfg=settings)


def load(manager: TaskManager, name: str, folder: str | None) -> dict[str, Any]:
    """Build a task or a group with its items.

    Raises:
        UserError: a data set is missing.
    """
    try:
        return manager.load([name])
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError) as error:  # `datasets` raises these without a network or without such a set
        if folder is not None:
            raise UserError(
                f"got data of the task {name} that it cannot use ({_short(error)}); allowed: the data set as published; put it there again"
            ) from error
        task = next(leaves(manager, name))
        settings = manager.task_index[task].cfg
        split = settings.get("test_split") or settings.get("validation_split")
        raise _absent(settings.get("dataset_path"), settings.get("dataset_name"), split, name, error) from error


def from_network(path: str, name: str | None, split: str, task: str) -> list[dict[str, Any]]:
    """Return the items of a split from `datasets`, which caches them.

    Raises:
        UserError: the data set cannot be loaded.
    """
    try:
        return datasets.load_dataset(path, name, split=split).to_list()
    except (OSError, ValueError, RuntimeError) as error:
        raise _absent(path, name, split, task, error) from error


def _absent(path: str, name: str | None, split: str, task: str, error: Exception) -> UserError:
    place = f"FOLDER/{local_data.places(path, name, split)[0]}.jsonl and so on (docs/evaluation.md)"
    return UserError(
        f"got no data set {path}{f' ({name})' if name else ''} for the task {task} ({_short(error)}); "
        f"allowed: the network, or local files; put its files at {place} and set suite.data = FOLDER"
    )


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _read(files: dict[str, tuple[pathlib.Path, ...]], **unused: Any) -> dict[str, datasets.Dataset]:
    """Return a task's splits to the harness, which also passes its metadata."""
    return {split: datasets.Dataset.from_list(local_data.read(list(paths))) for split, paths in files.items()}
