import dataclasses
import itertools
import json
import types

import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.evaluate import humaneval
from teleflm_jax.evaluate.model import Model
from tests.evaluate import asked

ROW = {"task_id": "T/0", "prompt": "def add(a, b):\n", "entry_point": "add", "test": "def check(f):\n    assert f(1, 2) == 3\n"}


@pytest.mark.parametrize("samples, correct, k", [(5, 0, 1), (5, 2, 1), (5, 5, 5), (6, 1, 5), (8, 3, 5), (8, 4, 5)])
def test_pass_at_k_is_the_share_of_draws_with_a_correct_one(samples, correct, k):
    draws = list(itertools.combinations([i < correct for i in range(samples)], k))
    assert humaneval.pass_at(k, samples, correct) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_programs_are_judged_by_their_problem_s_test(monkeypatch, tmp_path):
    model = Model(name="tiny", decoder=types.SimpleNamespace(context_length=64), tokenizer=asked.tokenizer(tmp_path))
    problems = [humaneval.problem(ROW), humaneval.problem(ROW | {"prompt": "def add(a, b, c=0):\n", "task_id": "T/1"})]
    seen = []

    def complete(decoder, tokenizer, requests, *, slots, pause):
        seen.extend(requests)
        bodies = ["    return a + b", "    return a - b", "    return 3", "    return", "    import os; os._exit(0)"] * 2
        return [types.SimpleNamespace(text=body) for body in bodies]

    monkeypatch.setattr(humaneval.engine, "complete", complete)
    result = humaneval.measure(model, problems, 5)
    assert result.passed == {1: pytest.approx(0.4), 5: 1.0}
    assert [request.choice for request in seen] == [*range(5)] * 2 and len({request.prompt for request in seen}) == 2
    humaneval.measure(model, [problems[0], dataclasses.replace(problems[0], task_id="T/2")], 5)
    long = dataclasses.replace(problems[1], prompt="# the time of the house\n" * 9 + problems[1].prompt)
    assert result.shortened == 0 and humaneval.measure(model, [problems[1], long], 5).shortened == 1 and len(seen[-1].prompt) == 32
    del seen[-10:]
    assert len({tuple(request.key) for request in seen}) == 15  # the problem that was asked again got the same ones
    assert all(request.stop == humaneval.STOP and request.sampling.temperature == 0.8 for request in seen)


def test_a_model_writes_programs_and_most_are_wrong(tmp_path):
    result = humaneval.measure(asked.model(tmp_path, max_tokens=4), [humaneval.problem(ROW)], 5)
    assert result.passed == {1: 0.0, 5: 0.0}


def test_what_pause_raises_ends_the_writing_of_programs(tmp_path):
    calls = []

    def pause():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        humaneval.measure(asked.model(tmp_path, max_tokens=4), [humaneval.problem(ROW)] * 4, 5, pause)
    assert len(calls) == 2


def test_problems_are_read_from_the_set_s_own_files_and_a_share_is_always_the_same(tmp_path):
    rows = [ROW | {"task_id": f"T/{i}", "canonical_solution": ""} for i in range(10)]
    asked.put(tmp_path / "openai/openai_humaneval/test.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    problems = humaneval.read(tmp_path)
    assert [problem.task_id for problem in problems] == [row["task_id"] for row in rows]
    drawn = humaneval.draw(problems, 0.3, 7)
    assert len(drawn) == 3 and drawn == humaneval.draw(problems, 0.3, 7)


def test_an_item_that_is_none_is_refused():
    with pytest.raises(UserError, match="got a HumanEval item without entry_point, test; allowed"):
        humaneval.problem({"task_id": "T/0", "prompt": "x"})
