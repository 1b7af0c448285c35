"""Decontamination of real text with planted items: benchmarks/decontamination.py, a part of it."""

import pathlib

import pytest

from benchmarks import decontamination
from examples import debian_packages

DEBS = pathlib.Path(__file__).parents[3] / "data" / "debs"


@pytest.fixture(scope="module")
def sources():
    return decontamination.sources(debian_packages.Cache(DEBS))


@pytest.mark.corpus
@pytest.mark.parametrize("domain", decontamination.DOMAINS)
def test_every_planted_item_is_found_and_no_clean_document_goes(sources, tmp_path, domain):
    found = decontamination.measure(domain, *sources[domain], tmp_path, 100, decontamination.DOCUMENTS)
    assert found["planted"] == dict.fromkeys(decontamination.DISGUISES, 100)
    assert found["missed"] == dict.fromkeys(decontamination.DISGUISES, 0)
    assert found["clean_documents"] == decontamination.DOCUMENTS and found["clean_documents_dropped"] == found["of_these_kept"] == 0


def test_truth_is_what_the_documentation_says():
    assert decontamination.words("Ａ１, don't_x 12中文ひ。") == ["a1", "don", "t", "x", "12", "中", "文", "ひ"]
    sizes = [decontamination.size(decontamination.words(text)) for text in ("a " * 7, "a " * 8, "a " * 30, "中" * 7, "中" * 19, "中" * 30)]
    assert sizes == [0, 8, 13, 0, 19, 20]
    wanted = {2: {("a", "b")}}
    assert not decontamination.is_clean("x A, b", wanted) and decontamination.is_clean("a x b", wanted)
