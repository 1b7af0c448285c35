import json
import pathlib

import pytest

from teleflm_jax.evaluate import weights

TABLES = json.loads(pathlib.Path(__file__).with_name("report_tables.json").read_text())
CELLS = [
    (table["table"], figure, model, aggregate, cells)
    for table in TABLES
    for figure in ("loss", "bpb")
    for model, cells in table[figure].items()
    for aggregate in table["aggregates"]
]
PRINTED_OTHERWISE = {("6", "loss", "Llama-65B", "chinese, tele-flm proportions"): 1.7825}
"""The report prints 1.782; its rows give 1.7825."""


@pytest.mark.parametrize("table, figure, model, aggregate, cells", CELLS)
def test_every_aggregate_of_the_report_follows_from_its_rows(table, figure, model, aggregate, cells):
    (printed_table,) = (each for each in TABLES if each["table"] == table)
    rows = dict(zip(printed_table["domains"], cells["rows"], strict=True))
    found = weights.aggregates({name: {"bpb": value, "loss": value} for name, value in rows.items()}, {})[aggregate][figure]
    printed = cells["aggregates"][printed_table["aggregates"].index(aggregate)]
    exception = PRINTED_OTHERWISE.get((table, figure, model, aggregate))
    if exception is None:
        assert round(found, 3) == printed
    else:
        assert round(found, 4) == exception and abs(found - printed) < 0.001


def test_all_forty_cells_are_there():
    assert len(CELLS) == 40


def test_a_mean_by_hand():
    assert weights.mean({"a": 1.0, "b": 4.0, "c": 9.0}, {"a": 2, "b": 1}) == 2.0


def test_proportions_are_taken_over_the_domains_measured():
    figures = {"web": {"bpb": 1.0, "loss": 2.0}, "code": {"bpb": 3.0, "loss": 6.0}, "readme": {"bpb": 50.0, "loss": 50.0}}
    assert weights.aggregates(figures, {"web": 3.0, "code": 1.0, "book": 96.0}) == {"proportions": {"bpb": 1.5, "loss": 3.0}}
    assert weights.aggregates({"readme": figures["readme"]}, {"web": 1.0}) == {}


def test_names_match_by_letters_and_may_carry_the_language():
    chinese = weights.REPORT["chinese, direct average"]
    plain = dict.fromkeys(("webtext", "code", "book", "world-knowledge", "qa", "classical_chinese", "Professional"))
    assert weights.matching(plain, *chinese) == dict.fromkeys(plain, 1.0)
    marked = {f"{name}-zh": None for name in plain}
    assert weights.matching(marked | plain, *chinese) == dict.fromkeys(marked, 1.0)
    assert weights.matching(plain.keys() - {"qa"}, *chinese) is None


def test_both_languages_can_be_measured_at_once():
    both = {f"{name}-en": {"bpb": 1.0, "loss": 1.0} for name in weights.ENGLISH}
    both |= {f"{name}-zh": {"bpb": 2.0, "loss": 2.0} for name in weights.CHINESE}
    assert {name: row["bpb"] for name, row in weights.aggregates(both, {}).items()} == {
        name: pytest.approx(1.0 if name.startswith("english") else 2.0) for name in weights.REPORT
    }
