import collections
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.data import mixture
from teleflm_jax.errors import UserError

TABLE_1 = {
    "WebText": 75.21,
    "Code": 9.81,
    "Book": 7.17,
    "WorldKnowledge": 2.87,
    "QA": 2.12,
    "AcademicPaper": 0.99,
    "Profession-Law": 1.04,
    "Profession-Math": 0.62,
    "Profession-Patent": 0.14,
    "Profession-Medical": 0.02,
    "ClassicalChinese": 0.02,
}
WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.floats(1e-4, 1e4), min_size=1)


def draws(order, first, last):
    """(domain, position) of the examples of steps [first, last), with each domain's name."""
    for step in range(first, last):
        chosen, positions = order.locate(step, range(order.batch_size))
        yield from zip((order.domains[domain] for domain in chosen), positions, strict=True)


@given(st.integers(0, 60), st.integers(0, 2**64 - 1), st.integers(0, 2**65))
def test_floor_sum_equals_the_sum_of_floors(n, a, b):
    assert mixture._floor_sum(n, a, b) == sum((a * i + b) // 2**64 for i in range(n))


@given(st.lists(st.tuples(st.integers(1, 40), WEIGHTS), min_size=1, max_size=4), st.integers(1, 9), st.integers(0, 5))
def test_each_domain_is_walked_in_order_whatever_the_history(phases, batch_size, seed):
    steps = np.cumsum([0] + [length for length, _ in phases]).tolist()
    history = tuple((step, weights) for step, (_, weights) in zip(steps, phases, strict=False))
    order = mixture.build(history, batch_size=batch_size, seed=seed)
    expected = collections.Counter()
    for n, (domain, position) in enumerate(draws(order, 0, steps[-1])):
        assert order.counts(n)[domain] == position == expected[domain]
        expected[domain] += 1
        in_force = [weights for step, weights in history if step <= n // batch_size][-1]
        assert domain in in_force


@given(WEIGHTS, st.integers(0, 2**40), st.integers(0, 3))
def test_proportions_govern_at_every_length(weights, examples, seed):
    order = mixture.build(((0, weights),), batch_size=8, seed=seed)
    total = sum(weights.values())
    for domain, count in order.counts(examples).items():
        # the bound proved for rotations by the golden ratio: n·D(n) <= 3 + (1/ln(golden ratio) + 1/ln 2) ln n (Kuipers and Niederreiter,
        # Uniform Distribution of Sequences, theorem 2.3.4); an example has reached 20.5 at n = 2^36
        assert abs(count - examples * weights[domain] / total) <= 3 + 3.53 * math.log(examples + 1)
    assert sum(order.counts(examples).values()) == examples


def test_a_change_of_weights_moves_each_domain_on_from_where_it_was():
    order = mixture.build(((0, {"a": 0.8, "b": 0.2}), (10, {"a": 0.5, "b": 0.5})), batch_size=10, seed=0)
    first = list(draws(order, 0, 10))
    a, b = (sum(domain == name for domain, _ in first) for name in "ab")
    assert abs(a - 80) <= 2 and a + b == 100
    following = list(draws(order, 10, 20))
    assert min(position for domain, position in following if domain == "a") == a
    assert min(position for domain, position in following if domain == "b") == b
    assert abs(sum(domain == "a" for domain, _ in following) - 50) <= 2


def test_numbers_beyond_31_and_53_bits_are_exact():
    for step in (2**31 // 8, 2**45, 2**58):
        order = mixture.build(((0, TABLE_1),), batch_size=8, seed=1)
        chosen, positions = order.locate(step, range(8))
        for row in range(8):
            before, after = order.counts(step * 8 + row), order.counts(step * 8 + row + 1)
            name = order.domains[chosen[row]]
            assert before[name] == positions[row] and after == before | {name: positions[row] + 1}


def test_rows_of_a_step_are_those_of_the_whole_batch():
    order = mixture.build(((0, TABLE_1),), batch_size=16, seed=2)
    whole, places = order.locate(77, range(16))
    for share in (1, 2, 8):
        parts = [order.locate(77, range(first, first + share)) for first in range(0, 16, share)]
        assert np.concatenate([chosen for chosen, _ in parts]).tolist() == whole.tolist()
        assert [place for _, part in parts for place in part] == places


def test_the_order_is_mixed_and_follows_the_seed():
    names = ["".join(domain for domain, _ in draws(mixture.build(((0, {"a": 1, "b": 1}),), batch_size=8, seed=s), 0, 50)) for s in (0, 1)]
    assert names[0] != names[1]
    for name in names:
        assert "aaa" not in name and "bbb" not in name and {"ab", "ba"} < {name[i : i + 2] for i in range(399)}
        assert len({name[i : i + 20] for i in range(380)}) > 15, "the same pattern over and over"


def test_the_order_of_names_in_a_configuration_does_not_matter():
    forth, back = (mixture.build(((0, dict(items)),), batch_size=8, seed=0) for items in (TABLE_1.items(), reversed(TABLE_1.items())))
    assert list(draws(forth, 0, 50)) == list(draws(back, 0, 50))


def test_a_mixture_changes_on_purpose_alone():
    a, b = {"x": 1.0}, {"x": 1.0, "y": 1.0}
    assert mixture.extend_history((), 0, a, change=False) == ((0, a),)
    assert mixture.extend_history(((0, a),), 50, a, change=True) == ((0, a),)
    assert mixture.extend_history(((0, a),), 50, b, change=True) == ((0, a), (50, b))
    assert mixture.extend_history(((0, a), (50, b)), 50, a, change=True) == ((0, a), (50, a))
    assert mixture.extend_history(((0, a),), 0, b, change=True) == ((0, b),)
    with pytest.raises(UserError, match="data.change_proportions = True"):
        mixture.extend_history(((0, a),), 50, b, change=False)


def test_a_domain_that_would_run_out_is_named_with_step_and_remedy():
    order = mixture.build(((0, {"big": 3.0, "small": 1.0}),), batch_size=8, seed=0)
    records = {"big": 10, "small": 100}
    mixture.refuse_exhaustion(order, steps=99, records=records, max_epochs={"small": 2.0})
    with pytest.raises(
        UserError, match=r"small.*may be drawn 200 times.*runs out at step (99|100|101);.*train\.steps.*max_epochs"
    ) as caught:
        mixture.refuse_exhaustion(order, steps=1000, records=records, max_epochs={"small": 2.0})
    last = int(str(caught.value).split("at step ")[1].split(";")[0])
    mixture.refuse_exhaustion(order, steps=last, records=records, max_epochs={"small": 2.0})
    with pytest.raises(UserError):
        mixture.refuse_exhaustion(order, steps=last + 1, records=records, max_epochs={"small": 2.0})


@pytest.mark.parametrize("steps", [(), (1,), (0, 5, 5), (0, 7, 3)])
def test_a_history_that_does_not_ascend_from_0_is_refused(steps):
    with pytest.raises(UserError, match="ascending steps from 0"):
        mixture.build(tuple((step, {"a": 1.0}) for step in steps), batch_size=1, seed=0)
