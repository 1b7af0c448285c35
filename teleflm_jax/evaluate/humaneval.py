"""HumanEval: programs that a model writes, run against a problem's tests, and how many of k would do.

Source: Chen et al., 2021, "Evaluating Large Language Models Trained on Code": the unbiased estimate of pass@k (section 2.1) and the strings
that end a program. Temperature and top-p are ours: 0.8, which that paper found best for many samples, and 0.95; the report does not say.
"""

import dataclasses
import math
import pathlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from teleflm_jax.errors import UserError
from teleflm_jax.evaluate import local_data, sandbox
from teleflm_jax.evaluate.model import Model
from teleflm_jax.generate import engine
from teleflm_jax.generate.request import Request, numbered, seed_of
from teleflm_jax.generate.sampling import Sampling
from teleflm_jax.tokenizer import specials

NAME, DATA = "humaneval", "openai/openai_humaneval"
STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
TOKENS = 512
"""New tokens of a program."""
SAMPLING = Sampling(temperature=0.8, top_p=0.95)
FIELDS = ("task_id", "prompt", "entry_point", "test")
TRIES = (1, 5)
"""The k of pass@k."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """One of HumanEval's."""

    task_id: str
    prompt: str
    """A function's head and what it is to do."""
    entry_point: str
    """The function's name."""
    test: str
    """Defines `check(function)`."""

    def task(self, completion: str) -> sandbox.Task:
        """Return the program and its test for the sandbox."""
        return sandbox.Task(program=self.prompt + completion, entry_point=self.entry_point, prompt=self.prompt, test=self.test)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What was found."""

    passed: Mapping[int, float]
    """k -> pass@k, from 0 to 1."""
    shortened: int
    """Problems of which only the end was read, as they are longer than the context."""
    left_open: Sequence[str]
    """What this machine could not shut off for the programs."""


def problem(row: Mapping[str, Any]) -> Problem:
    """A row of the data set; raises a `UserError` if it is none."""
    wrong = [field for field in FIELDS if not isinstance(row.get(field), str)]
    if wrong:
        raise UserError(f"got a HumanEval item without {', '.join(wrong)}; allowed: the data set as published; put it there again")
    return Problem(**{field: row[field] for field in FIELDS})


def read(folder: pathlib.Path) -> list[Problem]:
    """The problems of a folder of data sets; raises a `UserError` where they are not there."""
    return [problem(row) for row in local_data.read(local_data.find(folder, DATA, None, "test"))]


def draw(problems: Sequence[Problem], share: float, seed: int) -> Sequence[Problem]:
    """A share of the problems, always the same for a seed, in their order."""
    kept = max(1, round(share * len(problems)))
    return [problems[i] for i in sorted(random.Random(f"{seed}/{NAME}").sample(range(len(problems)), kept))]


def measure(model: Model, problems: Sequence[Problem], samples: int, pause: Callable[[], None] = lambda: None) -> Result:
    """Write programs, run them, and estimate pass@k.

    Args:
        model: writes; its template is not used, as the problems are the beginnings of programs.
        problems: one or more.
        samples: programs per problem, at least the largest k.
        pause: called before each step of writing and after each program that has run.
    """
    new = min(TOKENS, model.max_tokens or TOKENS, model.decoder.context_length // 2)
    requests, shortened, special = [], 0, specials.of(model.tokenizer)
    for asked in problems:
        ids = specials.encode(model.tokenizer, asked.prompt)
        whole = [*special.before] * model.bos + ids
        prompt = whole[-(model.decoder.context_length - new) :]
        shortened += len(prompt) < len(whole)
        seed = seed_of(model.seed, NAME, asked.task_id)
        same = Request(prompt=tuple(prompt), max_tokens=new, sampling=SAMPLING, seed=seed, stop=STOP, stop_ids=special.ends)
        requests += [same] * samples
    completions = engine.complete(model.decoder, model.tokenizer, numbered(requests), slots=model.batch_size, pause=pause)
    owners = [asked for asked in problems for _ in range(samples)]
    verdicts = sandbox.run_all([asked.task(done.text) for asked, done in zip(owners, completions, strict=True)], pause)
    correct = [sum(verdict.passed for verdict in verdicts[i : i + samples]) for i in range(0, len(verdicts), samples)]
    return Result(
        passed={k: sum(pass_at(k, samples, number) for number in correct) / len(correct) for k in TRIES},
        shortened=shortened,
        left_open=sorted({what for verdict in verdicts for what in verdict.left_open}),
    )


def pass_at(k: int, samples: int, correct: int) -> float:
    """The chance that of k programs, drawn from `samples` of which some are correct, at least one is."""
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)
