"""Extraction against the text that pages were made from: benchmarks/extraction.py on a sample of Python's documentation."""

import pathlib

import pytest

from benchmarks import extraction, makers, restructured
from examples import debian_packages

DEBS = pathlib.Path(__file__).parents[3] / "data" / "debs"
SOURCE = """
.. _a-label:

:mod:`heapq` --- Heaps
======================

.. module:: heapq
   :synopsis: not shown
.. index:: pair: not; shown

See :ref:`a-label`, :ref:`other words <a-label>`, :func:`~os.path.join`, :class:`!Private`, :pep:`8`, ``:func:`literal```, |release| and
`a page <https://example.org>`_ [#]_.

.. function:: push(heap, item, *,
              key=None)
              push(heap)
   :noindex:

   Push *item*\\ s.

   .. versionchanged:: 3.8
      It takes *key*.

.. class:: Heap

   .. method:: pop()

.. note::

   >>> push([], 1)  # doctest: +SKIP

.. a comment
   of two lines

.. only:: latex

   Not in HTML.

.. doctest::
   :hide:

   >>> hidden

.. [#] A footnote.

After.
"""
SHOWN = """heapq Heaps
See heapq Heaps, other words, join, Private, PEP 8, :func:`literal`, 3.11 and a page 1.
heapq.push(heap, item, *, key=None) heapq.push(heap) Push items. Changed in version 3.8 It takes key.
class heapq.Heap pop() Note >>> push([], 1) 1 A footnote. After."""


def test_restructured_text_is_shown_as_a_reader_sees_it():
    known = restructured.titles({"library/heapq": SOURCE})
    text = restructured.visible(SOURCE, "library/heapq", known, {"release": "3.11"})
    assert extraction.score(text, SHOWN) == extraction.Score(*[len(extraction.tokens.tokens([SHOWN]).hashes)] * 3), text


def test_pages_with_text_from_elsewhere_are_told_from_others():
    assert restructured.brings_in("Text\n\n.. literalinclude:: a.py\n") and not restructured.brings_in(SOURCE)


@pytest.mark.parametrize(
    "text, truth, common, f1",
    [("a b b c", "A b, d!", 2, 4 / 7), ("", "", 0, 1), ("", "a", 0, 0), ("中文 a", "中文a", 3, 1)],
)
def test_score_counts_tokens_as_often_as_they_stand(text, truth, common, f1):
    found = extraction.score(text, truth)
    assert found.common == common and found.f1 == pytest.approx(f1)


PAGE = """<html><body><div class="head"><a href="x">Home</a> Search</div><nav>Menu</nav><div id="main"><h1>Title</h1>
<p>Some words of a text that is long enough to be a page of its own, x<sup>2</sup>.</p>
<ul><li>one → two</li><li>an item with a <a href="y">link</a></li></ul>
<ul class="toc"><li><a href="z">Contents</a></li></ul><p class="nav">Next</p></div></body></html>"""


def test_the_content_of_a_maker_s_page_is_what_its_template_says():
    page = makers.page("a.html", PAGE.encode(), makers.Maker("none", main="#main", without=".nav"))
    assert "Contents" in page.content and "Contents" not in page.wanted and "item with a link" in page.wanted
    assert "Home" not in page.content and "Next" not in page.content and "x2" in page.wanted
    assert page.items == (("list items", "one → two"), ("headings", "Title"))
    assert makers.found(page, "Title x one two") == {
        ("list items", True): 1,
        ("headings", True): 1,
        ("signs", True): 0,
        ("signs", False): 1,
    }
    assert makers.page("a.html", PAGE.encode(), makers.Maker("none", main="#none")) is None


def test_of_a_maker_precision_is_of_content_and_recall_of_what_is_wanted():
    page = makers.page("a.html", PAGE.encode(), makers.Maker("none", main="#main", without=".nav"))
    said = extraction.of_makers({"hand": [page]}, "resiliparse")
    # 25 tokens of content, and the 2 above it
    assert said["makers"]["hand"] == {"f1": round(2 * 25 / (27 + 25), 3), "precision": round(25 / 27, 3), "recall": 1.0}
    assert said["items"] == {"headings": "1 of 1", "list items": "1 of 1", "signs": "1 of 1"}


@pytest.fixture(scope="module")
def sample():
    """Every sixth page of Python's documentation."""
    return extraction.pages("python", debian_packages.Cache(DEBS))[0][::6]


@pytest.mark.corpus
@pytest.mark.parametrize("extractor", extraction.EXTRACTORS)
def test_extracted_text_is_what_the_pages_were_made_from(sample, extractor):
    scores = [extraction.score(text, page.text) for text, page in zip(extraction.extracted(sample, extractor), sample, strict=True)]
    assert len(sample) > 50 and extraction.figures(scores)["f1"] >= extraction.BAR


@pytest.mark.corpus
def test_no_navigation_is_extracted(sample):
    for page, text in zip(sample, extraction.extracted(sample, "resiliparse"), strict=True):
        for mark in ("¶", "Previous topic", "Show Source", "Theme", "Created using Sphinx"):
            assert mark not in text, page.path
