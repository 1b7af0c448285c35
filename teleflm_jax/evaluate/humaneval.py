"""HumanEval: generated programs are run against the problem's tests; the score is pass@k.

Source: Chen et al., 2021, "Evaluating Large Language Models Trained on Code": the unbiased estimate of pass@k (section 2.1) and the strings
that end a program. Temperature 0.8, which that paper found best for many samples, and top-p 0.95 are our choice; the report states none.
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
from teleflm_jax.generate.request import Request, derive_seed, number_choices
from teleflm_jax.generate.sampling import Sampling
from teleflm_jax.tokenizer import specials

NAME, DATA = "humaneval", "openai/openai_humaneval"
STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
TOKENS = 512
"""Largest number of new tokens of a program."""
SAMPLING = Sampling(temperature=0.8, top_p=0.95)
FIELDS = ("task_id", "prompt", "entry_point", "test")
TRIES = (1, 5)
"""Values of k in pass@k."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem of HumanEval."""

    task_id: str
    prompt: str
    """Signature and docstring of a function."""
    entry_point: str
    """Name of the function."""
    test: str
    """Source that defines `check(function)`."""

    def task(self, completion: str) -> sandbox.Task:
        """Return the program and its test for the sandbox."""
        return sandbox.Task(program=self.prompt + completion, entry_point=self.entry_point, prompt=self.prompt, test=self.test)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Scores and remarks."""

    passed: Mapping[int, float]
    """k -> pass@k, from 0 to 1."""
    shortened: int
    """Problems truncated on the left because they are longer than the context."""
    left_open: Sequence[str]
    """Restrictions of the sandbox that this machine does not support."""


def problem(row: Mapping[str, Any]) -> Problem:
    """Return a row of the data set as a problem; raises a `UserError` if a field is missing."""
    wrong = [field for field in FIELDS if not isinstance(row.get(field), str)]
    if wrong:
        raise UserError(f"got a HumanEval item without {', '.join(wrong)}; allowed: the data set as published; put it there again")
    return Problem(**{field: row[field] for field in FIELDS})


def read(folder: pathlib.Path) -> list[Problem]:
    """Return the problems in a folder of data sets; raises a `UserError` if they are missing."""
    return [problem(row) for row in local_data.read(local_data.find(folder, DATA, None, "test"))]


def draw(problems: Sequence[Problem], share: float, seed: int) -> Sequence[Problem]:
    """Return a share of the problems, the same for the same seed, in their order."""
    kept = max(1, round(share * len(problems)))
    return [problems[i] for i in sorted(random.Random(f"{seed}/{NAME}").sample(range(len(problems)), kept))]


def measure(model: Model, problems: Sequence[Problem], samples: int, pause: Callable[[], None] = lambda: None) -> Result:
    """Generate programs, run them, and estimate pass@k.

    Args:
        model: the model; its chat template is not used, since problems are beginnings of programs.
        problems: one or more.
        samples: programs per problem, at least the largest k.
        pause: called before each step of generation and after each program that has run.
    """
    new = min(TOKENS, model.max_tokens or TOKENS, model.decoder.context_length // 2)
    requests, shortened, special = [], 0, specials.of(model.tokenizer)
    for asked in problems:
        ids = specials.encode(model.tokenizer, asked.prompt)
        whole = [*special.before] * model.bos + ids
        prompt = whole[-(model.decoder.context_length - new) :]
        shortened += len(prompt) < len(whole)
        seed = derive_seed(model.seed, NAME, asked.task_id)
        same = Request(prompt=tuple(prompt), max_tokens=new, sampling=SAMPLING, seed=seed, stop=STOP, stop_ids=special.ends)
        requests += [same] * samples
    completions = engine.complete(model.decoder, model.tokenizer, number_choices(requests), slots=model.batch_size, pause=pause)
    owners = [asked for asked in problems for _ in range(samples)]
    verdicts = sandbox.run_all([asked.task(done.text) for asked, done in zip(owners, completions, strict=True)], pause)
    correct = [sum(verdict.passed for verdict in verdicts[i : i + samples]) for i in range(0, len(verdicts), samples)]
    return Result(
        passed={k: sum(pass_at(k, samples, number) for number in correct) / len(correct) for k in TRIES},
        shortened=shortened,
        left_open=sorted({what for verdict in verdicts for what in verdict.left_open}),
    )


def pass_at(k: int, samples: int, correct: int) -> float:
    """Return the probability that at least one of k programs is correct, drawn from `samples` programs with `correct` correct ones."""
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)
