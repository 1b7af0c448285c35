import collections
import time
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.corpus import rows
from teleflm_jax.corpus.config import EXTRACTORS, ExtractConfig
from teleflm_jax.corpus.extraction import extract
from teleflm_jax.documents.statistics import Amount, Statistics, total

GERMAN = "Grüße aus der schönen Straße"
RUSSIAN = "Утром в гавани было тихо, и жители деревни разгружали лодки."


def test_pages_come_in_any_character_set_and_what_cannot_be_read_is_counted():
    text = "その朝の港は静かで、船から荷物を降ろしていました。"
    pages = [("html", f"<p>{text}</p>".encode("iso2022_jp"), name) for name in ("iso-2022-jp", "utf-8", "")]
    found, statistics = extracted(*pages, ("html", f"<p>{text}</p>".encode("utf-7"), "utf-7"))
    assert [row["text"].strip() for row in found] == [text] * 3
    assert {reason: amount.documents for reason, amount in statistics.dropped.items()} == {"unknown character set": 1}


NESTED = "nested deeper than 1000"


def test_deep_pages_are_told_from_long_ones():
    deep = extract.MAX_NESTING + 1
    for hostile in ("<div>", "<b>", "<DIV class=a>", "<div></foo>", "<div></p></li></span>", "<rt>", "<i><p>a</p>", "<b><div></b>"):
        assert extract.rejection_reason(hostile * deep) == NESTED, hostile
    for flat in ("<div>a</div>", "<p>a", "<li>a", "<br>", "<img src=a>", "<tr><td>a", "<option>a", "<div><p>a</div>", "</div>", "a < b "):
        assert extract.rejection_reason(flat * deep * 3) == "", flat
    assert extract.rejection_reason("<div>" * 500 + "a" + "</div>" * 500 + "<p>b</p>" * 1000) == ""
    assert extract.rejection_reason("<div>" * deep) == NESTED and extract.rejection_reason("<div>" * (deep - 1)) == ""


def depth(tags):
    """The deepest place, tag by tag; an end without a beginning ends nothing."""
    now = deepest = 0
    begun = collections.Counter()
    for end, name in tags:
        if name not in ("br", "polyline") and (not end or begun[name]):
            begun[name] += -1 if end else 1
            now += -1 if end else 1
            deepest = max(deepest, now)
    return deepest


NAMES = st.sampled_from(["b", "div", "br", "h1", "blockquote", "polyline", "polylines", "abcdefghijklmnop", "abcdefghijklmnox"])


@given(st.lists(st.tuples(st.booleans(), NAMES), max_size=60), st.integers(1, 20))
def test_pages_are_as_deep_as_plain_python_says(tags, allowed):
    html = "".join(f"<{'/' * end}{name.upper() if i % 3 else name} a='é'>x < y <- </ " for i, (end, name) in enumerate(tags))
    with mock.patch.object(extract, "MAX_NESTING", allowed):
        assert bool(extract.rejection_reason(html)) == (depth(tags) > allowed)


def test_ends_of_very_long_names_do_not_count():
    pair = f"<{'x' * 17}></{'x' * 17}>"
    assert extract.rejection_reason(pair * 1001) == NESTED and extract.rejection_reason(pair * 1000) == ""


def test_tags_with_many_attributes_are_told_from_long_ones():
    for many in ("<p " + "abc=1234 " * 5000, "<p " + "abc='a > b'" * 5000 + ">", "<p abc='1'>a</p><P\n" + "a/b/" * 10_000):
        assert extract.rejection_reason(many) == "more than 1000 attributes"
    words = "some words of a long text " * 5000
    for few in (
        f"<p>{words}",
        f'<p title="{words}" class=a>it\'s {words}',
        f"<img src='data:{'ab' * 50_000}'>",
        f"a < {words}",
        "<p a b c>" * 5000,
    ):
        assert extract.rejection_reason(few) == ""


WITH_MARKS = [pytest.param(name, marks=[pytest.mark.corpus] if name == "trafilatura" else []) for name in EXTRACTORS]
"""trafilatura comes with requirements-corpus.txt."""
MAIN = f"<p>{GERMAN}, {RUSSIAN}</p>" * 5
PAGE = f"<html><head><title>Harbour</title></head><body><nav>Home</nav><main><h1>News</h1>{MAIN}</main></body></html>"


def extracted(*found, **settings):
    """Rows of the documents, and the statistics. Of (kind, content) or (kind, content, charset)."""
    statistics = Statistics()
    pages = [(i, kind, f"origin {i}", "family", "2020", (*rest, "")[0], content) for i, (kind, content, *rest) in enumerate(found)]
    batches = extract.extract(
        rows.batches(pages, rows.RAW_DOCUMENT), statistics, domain="web", source="crawl", config=ExtractConfig(**settings)
    )
    return [row for batch in statistics.leaving(batches) for row in batch.to_pylist()], statistics


@pytest.mark.parametrize("extractor", WITH_MARKS)
def test_pages_become_documents_with_what_is_known_of_them(extractor):
    [page, plain, code], statistics = extracted(("html", PAGE.encode()), ("text", b"a < b"), ("code", b"x = 1"), extractor=extractor)
    assert f"{GERMAN}, {RUSSIAN}" in page.pop("text") and "<" not in str(page)
    assert page == {"id": 0, "origin": "origin 0", "family": "family", "date": "2020"} | {
        "domain": "web",
        "source": "crawl",
        "language": "",
        "quality": None,
    }
    assert (plain["text"], plain["language"], code["text"], code["language"]) == ("a < b", "", "x = 1", "code")
    assert total(statistics.out).documents == 3 and not statistics.dropped


SECTIONS = """<html><body><div><div><div><main><section id="features-related-to-search"><span id="x"></span>
<h2>Features related to search<a class="headerlink" href="#features-related-to-search">¶</a></h2><p>Stays whole.</p></section>
<section id="related-search"><h2>Related searches</h2><p>Goes.</p></section></main></div></div></div></body></html>"""


def test_sections_that_a_page_links_to_are_text_whatever_they_are_called():
    [page], _ = extracted(("html", SECTIONS.encode()))
    assert "Stays whole." in page["text"] and "Goes." not in page["text"]


def test_pages_without_text_are_dropped_and_counted():
    deep, noise = b"<div>" * 2000 + b"text", bytes([0xFF, 0x81, 0x8D, 0x00]) * 50
    found, statistics = extracted(
        ("html", b"<html><script>1</script></html>"),
        ("text", b" \n"),
        ("html", deep),
        ("text", b"a\0b\0\1"),
        ("text", noise),
        ("text", b"stays"),
    )
    assert [row["id"] for row in found] == [5] and found[0]["text"] == "stays"
    assert statistics.dropped == {
        "no text": Amount(2, 33),
        "nested deeper than 1000": Amount(1, len(deep)),
        "binary": Amount(1, 5),
        "unknown character set": Amount(1, 200),
    }
    assert statistics.samples["binary"][0]["origin"] == "origin 3"


HIDDEN = {
    "a value": "{} a='{}'>",
    "a tag": "{} {}",
    "a comment": "{}><!--{}-->",
    "a declaration": "{}><!{}>",
    "a script": "{}><SCRIPT>{}</script>",
    "a title": "{}><textarea>{}</textarea>",
}
"""Places in which an end of an element ends nothing."""


@pytest.mark.parametrize("place", HIDDEN.values(), ids=HIDDEN)
def test_ends_that_the_parser_does_not_see_end_nothing(place):
    deep = place.format("<div", "</div>") * 20_000
    assert extracted(("html", deep.encode()))[1].dropped.keys() == {NESTED}
    opened = "".join(place.format(f"<b id={i}", "</b>") for i in range(800))
    assert extract.rejection_reason(opened + "</p><p>x" * 1_500) == "formatting elements without end"
    assert extract.rejection_reason(opened[: len(opened) // 20] + "</p><p>x" * 1_500) == ""


def test_depth_is_the_trees_own():
    barred = b"<div><applet></div></applet>" * 20_000  # an applet keeps the end from its beginning
    assert extracted(("html", barred))[1].dropped.keys() == {NESTED}
    levels = extract.MAX_NESTING - 10
    [row], _ = extracted(("html", b"<div><applet></div></applet>" * levels + MAIN.encode()))
    assert RUSSIAN in row["text"]


HOSTILE = {
    "attributes whose values hold signs": b"<p " + b" ".join(b"a%d='<>'" % i for i in range(200_000)) + b">x",
    "attributes whose values hold signs in turn": b"<p " + b" ".join(b"a%d = '%c'" % (i, b"><"[i % 2]) for i in range(200_000)) + b">x",
    "formatting elements without a sign of the end": b"".join(b"<b id=%d>" % i for i in range(100)) + b"<a </a " * 200_000,
    "deep": b"<div>" * 100_000 + b"x",
    "deep, with ends of nothing": b"<div></foo>" * 100_000 + b"x",
    "deep, of ruby": b"<rt>" * 100_000,
    "many attributes": b"<p " + b" ".join(b"a%d=1" % i for i in range(1_000_000)) + b">x</p>",
    "no end": b"<" * 1_000_000,
    "no end of a declaration": b"<meta" * 100_000 + b"\xff",
    "punycode": b"<meta charset=punycode>\xff-" + b"a9" * 500_000,
    "open comments": b"<!--" * 200_000,
    "many tags": b"<p>a" * 2_000_000,
    "one line": b"<p>" + b"some words " * 1_000_000,
    "one word": b"<p>" + b"a" * 10_000_000,
    "broken characters": b"<p>\xff\xfe\x80 text</p>" * 10_000,
    "links of names": b'<a href="#a">' + b'<section id="a">\n<span >' * 400 + b"<span ></span>" * 10_000,
    "entities": b"&#65;&amp;&none;" * 100_000,
    "open attributes": b'<a b="' * 100_000,
    "attributes of an end": b"</p " + b" ".join(b"a%d=1" % i for i in range(300_000)) + b">",
    "attributes among signs": b"<p " + b"".join(b"<" * (i % 4000 == 0) + b"a%d " % i for i in range(300_000)) + b">x",
    "attributes behind a sign in a value": b"<p a='>' " + b"".join(b"a%d " % i for i in range(300_000)) + b">x",
    "attributes between apostrophes": b"<p x' " + b"".join(b"a%d " % i for i in range(300_000)) + b"'>x",
    "formatting elements without end": b"<p>" + b"".join(b"<b a=%d>" % i for i in range(900)) + b"</p><p>x" * 50_000,
    "few formatting elements without end": b"<p>" + b"".join(b"<FONT size=%d>" % i for i in range(200)) + b"</p><p>x" * 200_000,
    "options": b"<select>" + b"<option>a" * 200_000,
    "beginnings of the body": b"".join(b"<body a%d=1>" % i for i in range(200_000)),
    "ends of paragraphs, deep": b"<div>" * 900 + b"</p>" * 490_000,
    "text, deep": b"<div>" * 900 + b"x<br>" * 490_000,
}


def test_formatting_elements_that_are_reopened_are_counted():
    opened = "<p>" + "".join(f"<i id={i}>" for i in range(500))
    page = opened + "</p><p>x" * 1_500  # 15 kB that make 750,000 elements
    assert extract.rejection_reason(page) == "formatting elements without end"
    assert extract.rejection_reason("<b>x</b>" * 20_000) == ""
    assert extract.rejection_reason("<p>" + "<b>" * 900 + "</p><p>x" * 1_500) == ""  # of those that are alike three stay
    assert extract.rejection_reason("<p>" + "<a href=x>y" * 900 + "</p><p>x" * 1_500) == ""  # a link ends the one before it
    closed = opened + "</i>" * 500 + "</p><p>x" * 1_500
    assert extract.rejection_reason(closed) == ""


@pytest.mark.parametrize(
    "page, reason",
    [
        ("<div>" * 900 + "x<br>" * 60_000, "tags nested deeply"),
        ("<div>" * 900 + "</p>" * 60_000, "tags nested deeply"),
        ("<div>" * 90 + "x<br>" * 60_000, ""),
        ("<select>" + "<OPTION>a" * 10_001, "more than 10,000 options"),
        ("<select>" + "<option>a" * 10_000, ""),
        ("<p>a" * 9_000 + "".join(f"<BODY a{i}>" for i in range(1_001)), "more than 1000 attributes"),
        ("<p>a" * 9_000 + "".join(f"<body a{i}>" for i in range(1_000)), ""),
        ("<p>a" * 9_000 + "</p " + "a=1 " * 10_000 + ">", "more than 1000 attributes"),
    ],
)
def test_pages_that_would_take_the_square_are_refused_with_a_reason(page, reason):
    assert extract.rejection_reason(page) == reason


@pytest.mark.parametrize("extractor", WITH_MARKS)
@pytest.mark.parametrize("page", HOSTILE.values(), ids=HOSTILE)
def test_hostile_pages_end_within_seconds(page, extractor):
    extracted(("html", PAGE.encode()), extractor=extractor)  # what is read once in a process is none of the page's time
    start = time.process_time()
    found, statistics = extracted(("html", page), extractor=extractor)
    assert len(found) + total(statistics.dropped).documents == 1
    assert time.process_time() - start < 10  # the square of their lengths would be minutes


def test_a_few_zeros_cost_no_more_than_themselves():
    found, statistics = extracted(
        ("html", b"<p>A page\0 of <b>words</b></p>"), ("text", "gr\u00fc\u00dfe\0 aus dem Text".encode("latin-1"))
    )
    assert [row["text"].strip() for row in found] == ["A page of words", "grüße aus dem Text"]
    assert not statistics.dropped and statistics.changed == {"U+0000 taken out": Amount(1, 1)}  # of HTML the parser takes them out
