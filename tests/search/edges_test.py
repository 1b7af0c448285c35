"""Optima at an edge of the space: found, and the next space computed by hand."""

import pytest

from teleflm_jax.search.edges import SearchedRange, edges, is_log

LOG = SearchedRange(setting="mup.std", values=(0.01, 0.1, 1.0), log=True)
LINEAR = SearchedRange(setting="mup.std", values=(1.0, 2.0, 3.0), log=False)


def proposals(searched, value):
    return [(edge.end, edge.proposal) for edge in edges([searched], {"mup.std": value})]


def test_an_optimum_inside_is_bracketed():
    assert proposals(LOG, 0.1) == [] and proposals(LINEAR, 2.0) == []


def test_an_optimum_at_an_end_moves_the_range_by_half():
    assert proposals(LOG, 1.0) == [("high", "{'log': (0.1, 10, 3)}")]
    assert proposals(LOG, 0.01) == [("low", "{'log': (0.001, 0.1, 3)}")]
    assert proposals(LINEAR, 3.0) == [("high", "{'linear': (2, 4, 3)}")]


def test_a_continuous_optimum_within_half_a_step_of_the_end_is_not_bracketed():
    assert proposals(LOG, 0.9) == [("high", "{'log': (0.1, 10, 3)}")]
    assert proposals(LOG, 0.3) == []


def test_a_positive_range_stays_positive():
    assert proposals(LINEAR, 1.0) == [("low", "{'linear': (0.5, 2.5, 3)}")]


def test_zero_is_an_end_that_cannot_be_passed():
    (edge,) = edges([SearchedRange(setting="a", values=(0.0, 1.0, 2.0), log=False)], {"a": 0.0})
    assert edge.proposal == "" and edge.reason == "0 is the least value that there is"


def test_a_point_that_ties_inside_leaves_nothing_to_propose():
    (edge,) = edges([LOG], {"mup.std": 1.0}, [{"mup.std": 0.1}])
    assert (edge.proposal, edge.reason) == ("", "a point that ties with the best lies inside")
    (edge,) = edges([LOG], {"mup.std": 1.0}, [{"mup.std": 1.0}])
    assert edge.proposal == "{'log': (0.1, 10, 3)}"


def test_a_single_value_was_not_searched():
    assert edges([SearchedRange(setting="a", values=(1.0,), log=False)], {"a": 1.0}) == []


@pytest.mark.parametrize("values, log", [((1.0, 2.0, 3.0), False), ((1.0, 4.0), True), ((0.0, 1.0, 100.0), False), ((-1.0, 5.0), False)])
def test_explicit_values_are_seen_in_log_where_their_range_asks_for_it(values, log):
    assert is_log(values) is log
