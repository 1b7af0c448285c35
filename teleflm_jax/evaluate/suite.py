"""Benchmark tasks: lm-evaluation-harness's, our own (`tasks/`), and HumanEval (`humaneval.py`).

The harness is an extra (requirements-eval.txt) and slow to import, so it is imported only when tasks are run.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import logging
import os
import pathlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from teleflm_jax import invocation
from teleflm_jax.errors import UserError
from teleflm_jax.evaluate import humaneval, sandbox
from teleflm_jax.evaluate.config import SuiteConfig
from teleflm_jax.evaluate.model import Model

OURS = pathlib.Path(__file__).with_name("tasks")
BY_LENGTH = ("arc_challenge", "arc_easy", "hellaswag")
"""Tasks whose usual metric is the accuracy under length-normalised log-probabilities, which the harness lists second."""
FEWSHOT_SEED = 1234
"""Seed of few-shot examples; the harness's default."""
RESAMPLES = 100
"""Bootstrap samples for standard errors without a closed form."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskScore:
    """Result of a task or a group."""

    metric: str
    """`metric,filter`, the harness's name."""
    value: float
    error: float | None
    """Standard error, if the harness has one."""
    items: int
    shots: int
    metrics: Mapping[str, float]
    """All metrics."""
    shortened: int
    """Texts truncated on the left because they are longer than the model's context."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """Tasks with their data."""

    config: SuiteConfig
    loaded: Mapping[str, Any]
    """The harness's tasks and groups; empty if none is requested."""
    samples: Mapping[str, list[int]]
    """Task -> numbers of its items."""
    problems: Sequence[humaneval.Problem]
    remarks: Sequence[str]
    """Tasks that are not measured, with reasons."""


def load(config: SuiteConfig) -> Suite:
    """Load every task and its data.

    Raises:
        UserError: the harness is not installed, a task is unknown, a data set is missing, or nothing is left to measure.
    """
    names = [name for name in config.tasks if name != humaneval.NAME]
    runs_code = humaneval.NAME in config.tasks and config.allow_code
    wants_code = humaneval.NAME in config.tasks and not config.allow_code
    if wants_code and not names:
        raise UserError(
            "got humaneval alone, which runs code that the model writes; allowed: suite.allow_code = True, or other tasks beside it; "
            "change suite.allow_code or suite.tasks"
        )
    if runs_code:
        sandbox.refuse_broken()
    loaded, samples = {}, {}
    if names:
        loaded = _load_tasks(config, names)
        with _harness():  # some tasks rewrite their items, with a bar, when they are first counted
            samples = _draw(config, loaded)
    return Suite(
        config=config,
        loaded=loaded,
        samples=samples,
        problems=humaneval.draw(_problems(config), config.fractions.get(humaneval.NAME, 1.0), config.seed) if runs_code else (),
        remarks=["humaneval is not measured: it runs code that the model writes; suite.allow_code = True allows it"] if wants_code else [],
    )


def measure(
    suite: Suite,
    model: Model,
    watch: Callable[[Sequence], Iterable] = iter,
    keep: dict[str, list] | None = None,
    pause: Callable[[], None] = lambda: None,
    log: Callable[[str], None] = lambda message: None,
) -> dict[str, TaskScore]:
    """Run every task on a model.

    Args:
        suite: from `load`; may be used again.
        model: the model under test.
        watch: takes the batches of log-likelihoods and yields them one by one, for example a progress bar.
        keep: task -> its items with prompts and answers; filled if given.
        pause: called before each batch, each step of generation, and each program; an exception in it ends the evaluation.
        log: takes messages for people.

    Returns:
        Name in `suite.tasks` -> score, in that order.
    """
    scores = _ask(suite, model, watch, keep, pause) if suite.loaded else {}
    if suite.problems:
        result = humaneval.measure(model, suite.problems, suite.config.code_samples, pause)
        for what in result.left_open:
            log(f"humaneval: this machine cannot block {what}")
        figures = {f"pass@{k},none": value for k, value in result.passed.items()}
        scores[humaneval.NAME] = TaskScore(
            metric="pass@5,none",
            value=figures["pass@5,none"],
            error=None,
            items=len(suite.problems),
            shots=0,
            metrics=figures,
            shortened=result.shortened,
        )
    return {name: scores[name] for name in suite.config.tasks if name in scores}


def remarks(scores: Mapping[str, TaskScore]) -> list[str]:
    """Return remarks on scores of truncated texts, one per line."""
    return [
        f"{name}: of {score.shortened:,} text(s) only the end was read, as they are longer than the model's context"
        for name, score in scores.items()
        if score.shortened
    ]


def _ask(
    suite: Suite, model: Model, watch: Callable[[Sequence], Iterable], keep: dict[str, list] | None, pause: Callable[[], None]
) -> dict[str, TaskScore]:
    with _harness() as lm_eval:
        from teleflm_jax.evaluate.harness import Harness

        for task in suite.loaded["tasks"].values():
            task._instances = None  # else a second model would get the first one's requests with their answers
        adapter = Harness(model, watch, pause)
        found = lm_eval.evaluator.evaluate(
            lm=adapter,
            task_dict=suite.loaded,
            samples=dict(suite.samples) or None,
            bootstrap_iters=RESAMPLES,
            log_samples=keep is not None,
            apply_chat_template=model.format is not None,
            fewshot_as_multiturn=model.format is not None,
        )
    if keep is not None:
        keep |= found["samples"]
    rows = found["results"] | found.get("groups", {})
    return {
        name: _score(_figure(suite, name), rows[name], shots, sum(adapter.shortened[task] for task in _leaves(suite.loaded, name)))
        for name, shots in suite.config.tasks.items()
        if name in rows
    }


def _leaves(loaded: Mapping[str, Any], name: str) -> list[str]:
    """Return the tasks of a group; a task is its own only member."""
    group = loaded["groups"].get(name)
    return [task.task_name for task in group.get_all_tasks()] if group else [name]


def _figure(suite: Suite, name: str) -> object:
    """Return the main metric of a task: the first of its file unless another is usual; None for a group."""
    if name in BY_LENGTH:
        return "acc_norm"
    task = suite.loaded["tasks"].get(name)
    return task.config.metric_list[0]["metric"] if task is not None and task.config.metric_list else None


def _score(figure: object, row: Mapping[str, Any], shots: int, shortened: int) -> TaskScore:
    metrics = {key: float(value) for key, value in row.items() if "," in key and isinstance(value, int | float)}
    plain = [key for key in metrics if not key.split(",")[0].endswith("_stderr")]
    chosen = next((key for key in plain if key.split(",")[0] == figure), plain[0])
    metric, _, kind = chosen.partition(",")
    return TaskScore(
        metric=chosen,
        value=metrics[chosen],
        error=metrics.get(f"{metric}_stderr,{kind}"),
        items=row["sample_len"],
        shots=shots,
        metrics=metrics,
        shortened=shortened,
    )


def _load_tasks(config: SuiteConfig, names: Sequence[str]) -> Mapping[str, Any]:
    with _harness() as lm_eval:
        from teleflm_jax.evaluate import task_data

        places = [str(OURS), *config.include]
        manager = lm_eval.tasks.TaskManager(include_path=places, include_defaults=False)
        if not set(names) <= set(manager.all_tasks):  # the harness's own are thousands of files
            manager = lm_eval.tasks.TaskManager(include_path=places)
        for name in names:
            task_data.refuse_unknown(manager, name)
            for leaf in task_data.leaves(manager, name):
                task_data.prepare(manager, leaf, config.tasks[name], config.data)
        loaded = {"tasks": {}, "groups": {}, "group_map": {}}
        for name in names:
            part = task_data.load(manager, name, config.data)
            if twice := sorted(loaded["tasks"].keys() & part["tasks"].keys()):
                raise UserError(f"got suite.tasks with {twice[0]} twice, by itself and in a group; allowed: once; leave one of them out")
            for task in part["tasks"].values():
                task.set_config(key="num_fewshot", value=config.tasks[name])
                task.set_fewshot_seed(seed=FEWSHOT_SEED)
                task_data.refuse_few_examples(task, config.tasks[name])
            for kind, known in loaded.items():
                known |= part.get(kind, {})
    return loaded


def _draw(config: SuiteConfig, loaded: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the drawn items of each task that is measured on a share of its items, the same for the same seed."""
    drawn = {}
    for name, share in config.fractions.items():
        if name == humaneval.NAME or share == 1:
            continue
        for task in _leaves(loaded, name):
            count = len(loaded["tasks"][task].eval_docs)
            kept = max(1, round(share * count))
            drawn[task] = sorted(random.Random(f"{config.seed}/{task}").sample(range(count), kept))
    return drawn


def _problems(config: SuiteConfig) -> list[humaneval.Problem]:
    if config.data is not None:
        return humaneval.read(pathlib.Path(config.data))
    with _harness():
        from teleflm_jax.evaluate import task_data

        return [humaneval.problem(row) for row in task_data.from_network(humaneval.DATA, None, "test", humaneval.NAME)]


@contextlib.contextmanager
def _harness() -> Iterator[Any]:
    """Import the harness without its progress bars and prints, and restore the random state that it changes."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(f"got suite.tasks without lm-evaluation-harness; allowed: with it installed; run {invocation.install('eval')}")
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # it would fork a process that has threads
    import lm_eval.evaluator
    import lm_eval.tasks
    import tqdm

    for name in ("lm_eval", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    states = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(FEWSHOT_SEED)
    bar = tqdm.tqdm.__init__
    tqdm.tqdm.__init__ = functools.partialmethod(bar, disable=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield lm_eval
    finally:
        tqdm.tqdm.__init__ = bar
        random.setstate(states[0])
        np.random.set_state(states[1])
