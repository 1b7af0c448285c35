"""The corpus's report: every number is there, and nothing of the text is markup."""

from teleflm_jax.corpus.output import report
from teleflm_jax.documents.statistics import Amount, Statistics


def stage_statistics():
    first, last = Statistics(into=Amount(10, 1000)), Statistics(into=Amount(9, 900))
    first.drop("empty", "<script>alert(1)</script>", "a <b>bold</b> & text")
    first.out["web en"].add(9, 900)
    last.out["web en"].add(5, 500_000)
    last.out["web zh"].add(4, 400)
    last.distributions["documents in a cluster"]["12"] += 3
    return {"1-read": first, "documents": last}


MIXTURE = [{"name": "web", "languages": "en, zh", "share": 0.75, "epochs": None, "bytes": 5_900_000_000_000, "tokens": 1_234_567}]


def test_it_says_what_came_what_went_and_why():
    page = report.page(stage_statistics(), MIXTURE)
    for words in ("1-read", "empty", "web zh", "75.00%", "any", "5.9 TB", "1,234,567", "documents in a cluster".capitalize()):
        assert words in page


def test_text_and_names_are_escaped():
    page = report.page(stage_statistics(), MIXTURE)
    assert "<script>" not in page and "&lt;script&gt;" in page and "&lt;b&gt;bold&lt;/b&gt; &amp; text" in page


def test_it_needs_no_network_and_runs_nothing():
    page = report.page(stage_statistics(), MIXTURE)
    assert "http" not in page and "src=" not in page and "onload" not in page
