import bz2
import gzip
import time
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.corpus.read import wikipedia, wikitext, xml
from teleflm_jax.documents import streams, work_units
from teleflm_jax.documents.statistics import Amount, Statistics

HEAD = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="{}"><siteinfo><namespaces>{}</namespaces></siteinfo>'
DAMAGED = "truncated or damaged file"
TOO_NESTED = "article too long or too nested"


def page(text, title="Harbour", number=12, ns=0, more=""):
    return (
        f"<page><title>{escape(title)}</title><ns>{ns}</ns><id>{number}</id>{more}<revision><id>999</id>"
        "<timestamp>2024-05-06T07:08:09Z</timestamp><contributor><username>A</username><id>77</id></contributor>"
        f'<text bytes="5" xml:space="preserve">{escape(text)}</text></revision></page>'
    )


def dump(*pages, language="en", namespaces=""):
    return (HEAD.format(language, namespaces) + "".join(pages) + "</mediawiki>").encode()


def texts(found):
    return [row["content"].decode() for row in found]


@pytest.mark.parametrize(("name", "compress"), [("d.xml", bytes), ("d.xml.bz2", bz2.compress), ("d.xml.gz", gzip.compress)])
def test_an_article_is_its_title_and_its_text(gather, name, compress):
    text = "A '''harbour''' is a [[body of water|place]]\n\n== Use ==\n* ships"
    found, reasons = gather({name: compress(dump(page(text)))}, "wikipedia")
    assert texts(found) == ["Harbour\n\nA harbour is a place\n\nUse\nships"]
    assert not reasons and (found[0]["kind"], found[0]["charset"]) == ("text", "utf-8")
    assert (found[0]["origin"], found[0]["date"]) == (f"{name}#12 Harbour", "2024-05-06T07:08:09Z")


def test_other_namespaces_redirects_and_empty_articles_are_counted(gather):
    pages = [
        page("talk", ns=1),
        page("a template", ns=10),
        page("#REDIRECT [[Port]]", more='<redirect title="Port" />'),
        page("{{only|a template}}"),
        page("words", "Last", 13),
    ]
    found, reasons = gather({"d.xml": dump(*pages)}, "wikipedia")
    assert texts(found) == ["Last\n\nwords"] and reasons == {"no article": 2, "redirect": 1, "empty": 1}


@pytest.mark.parametrize(
    ("language", "heading"),
    [
        ("en", "== References =="),
        ("en", "==See also=="),
        ("en", "= External links =  "),
        ("de", "== Einzelnachweise =="),
        ("fr", "== Notes et références =="),
        ("fr", "== Re\u0301fe\u0301rences =="),
        ("zh", "== 参考文献 =="),
        ("zh-classical", "== 參考資料 =="),
        ("ja", "== 脚注 =="),
        ("ru", "== Примечания =="),
        ("es", "== Véase también =="),
        ("uk", "== Див. також =="),
    ],
)
def test_references_and_what_follows_them_are_cut(gather, language, heading):
    text = f"first words\n\n== Part ==\nsecond words\n\n{heading}\nthird words\n\n== More ==\nfourth words"
    found, _ = gather({"d.xml": dump(page(text), language=language)}, "wikipedia")
    assert "second words" in texts(found)[0] and "third" not in texts(found)[0] and "fourth" not in texts(found)[0]


def test_headings_of_another_language_cut_nothing(gather):
    found, _ = gather({"d.xml": dump(page("a\n\n== References ==\nb"), language="la")}, "wikipedia")
    assert texts(found)[0].endswith("b")


def test_pictures_categories_and_links_to_other_languages_are_gone(gather):
    text = (
        "[[File:a.jpg|thumb|A picture of [[ships]]]][[Image:b.png]][[Datei:c.jpg|mini|Ein Bild]]words [[Hafen]] stay\n"
        "[[Category:Ports]]\n[[Kategorie:Häfen]]\n[[fr:Port]]\n[[zh-yue:港]]"
    )
    spaces = '<namespace key="6" case="first-letter">Datei</namespace><namespace key="14">Kategorie</namespace><namespace key="0" />'
    found, _ = gather({"d.xml": dump(page(text), language="de", namespaces=spaces)}, "wikipedia")
    assert texts(found) == ["Harbour\n\nwords Hafen stay"]


def test_references_tables_and_templates_are_gone():
    text = (
        "{{Infobox|a={{b|c}}}}Words<ref>a [[source]]</ref> and<ref name=x/> <b>more</b>{{cite}} <math>x^2</math>&amp; &nbsp;end."
        "<gallery>\nFile:a.jpg|b\n</gallery>\n{| class=wikitable\n|-\n| a || b\n|}\n<!-- comment -->__NOTOC__\n\n\n\n== Heading =="
    )
    got = wikitext.plain(text, "en")
    assert got == "Words and more $x^2$& \xa0end.\n\nHeading"


@pytest.mark.parametrize(("name", "compress"), [("d.xml", bytes), ("d.xml.bz2", bz2.compress), ("d.xml.gz", gzip.compress)])
def test_a_truncated_dump_gives_whole_articles_and_is_counted(gather, name, compress):
    digits = str(7**5000) * 2
    whole = dump(*(page(f"words {i} " + digits[i : i + 3000], f"T{i}", i) for i in range(2000)))
    data = compress(whole)
    found, reasons = gather({name: data[: len(data) * 2 // 3]}, "wikipedia")
    assert reasons == {DAMAGED: 1} and len(found) < 2000 and all(len(text) > 3000 for text in texts(found))


@pytest.mark.parametrize("data", [b"no XML", b"", b"\x1f\x8b", b"<mediawiki><page></wrong>", b"<mediawiki>\xff\xfe\0</mediawiki>"])
def test_garbage_is_counted(gather, data):
    for name in ("a.xml", "b.xml.gz", "c.xml.bz2"):
        found, reasons = gather({name: data}, "wikipedia")
        assert not found and set(reasons) == {DAMAGED}


def test_whole_articles_before_the_damage_are_given(gather):
    found, reasons = gather({"d.xml": dump(page("words"), "<page></wrong>")}, "wikipedia")
    assert texts(found) == ["Harbour\n\nwords"] and reasons == {DAMAGED: 1}


def test_entities_of_a_files_own_do_not_unfold(gather):
    laughs = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9))
    data = f'<!DOCTYPE mediawiki [<!ENTITY l0 "ha">{laughs}]>'.encode() + dump(page("x")).replace(b">x<", b">&l9;<")
    assert gather({"d.xml": data}, "wikipedia") == ([], {DAMAGED: 1})
    data = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + dump(page("x")).replace(b">x<", b">&x;<")
    assert gather({"d.xml": data}, "wikipedia") == ([], {DAMAGED: 1})


def test_an_article_of_20_megabytes_is_counted(gather):
    found, reasons = gather({"d.xml": dump(page("words " * (4 << 20)), page("words", "Last"))}, "wikipedia")
    assert texts(found) == ["Last\n\nwords"] and reasons == {TOO_NESTED: 1}


@pytest.mark.parametrize(
    "text",
    [
        "{{a|" * 100_000,
        "[[a|" * 50 + "x" + "]]" * 50,
        "{|\n|\n" * 1000,
        "{{a|[[b|<ref>" * 1000,
        "<ref>" * 20_000,
        "word <b>" * 20_000,
        "<a b=" * 20_000,
        "[http://a " * 20_000,
        ":;*#" * 20_000,
        "==a" * 200_000,
        "-{" + ";" * 200_000 + "}-",
        "{|\n" + "|-\n|a\n" * 50_000 + "|}",
        "<b>a " * 290 + "[[a]] {{b}} " * 50_000,
        "[http://a " * 290 + "[[a]] {{b}} " * 50_000,
        "{{a|" * 39 + "[[a]] {{b}} " * 50_000,
        '<b a="' * 290 + "a " * 50_000,
        "{{a" + "|b=c" * 80_000 + "}}",
        "{|\n" + "|a\n" * 80_000 + "|}",
        "{|\n|" + "a||" * 80_000 + "\n|}",
    ],
)
def test_nesting_without_end_is_counted(gather, text):
    start = time.process_time()
    found, reasons = gather({"d.xml": dump(page(text), page("words", "Last"))}, "wikipedia")
    assert texts(found) == ["Last\n\nwords"] and reasons == {TOO_NESTED: 1}
    assert time.process_time() - start < 20  # the parser alone takes minutes


@pytest.mark.parametrize(
    "text",
    [
        "=" * 100_000 + "x",
        "= " + " " * 100_000 + "x",
        "a" + " " * 200_000 + "b",
        "==\n" * 50_000,
        "'" * 50_000,
        "{{a}}" * 20_000,
        "&" * 50_000,
    ],
)
def test_text_made_to_be_slow_is_not(text):
    start = time.process_time()
    wikitext.plain(text, "en")
    assert time.process_time() - start < 10  # a second in truth; expressions that go back take hours


def test_headings_have_as_many_marks_as_both_sides_share():
    assert wikitext.plain("== a ===\n\n=b=\n\n= = =", "en") == "a =\n\nb\n\n="


@given(
    st.lists(
        st.sampled_from(["{{", "}}", "[[", "]]", "{|", "|}", "|", "=", "\n", "<ref>", "</ref>", "<b ", ">", "File:", "a", "''", "<!--"])
    )
)
def test_any_wikitext_becomes_some_text(bits):
    assert isinstance(wikitext.plain("".join(bits), "en"), str)


DAMAGE = {
    "an entity that nobody defined": lambda page: page.replace("words 3", "words &nope; 3"),
    "a bare ampersand": lambda page: page.replace("words 3", "words & 3"),
    "a tag that does not end": lambda page: page.replace("</timestamp>", ""),
    "an end without a beginning": lambda page: page.replace("<timestamp>", ""),
    "a raw sign": lambda page: page.replace("words 3", "words < 3"),
    "a torn page": lambda page: page[:150],
    "an end that is missing": lambda page: page.replace("</page>", ""),
    "elements inside one another": lambda page: page.replace("<revision>", "<revision>" + "<a>" * 20 + "</a>" * 20),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_page_costs_itself(gather, damage):
    pages = [page(f"words {i}", f"T{i}", i) for i in range(10)]
    pages[3] = DAMAGE[damage](pages[3])
    found, reasons = gather({"d.xml": dump(*pages)}, "wikipedia")
    assert texts(found) == [f"T{i}\n\nwords {i}" for i in range(10) if i != 3] and reasons == {DAMAGED: 1}


@pytest.mark.parametrize("bad", [b"\xff", b"\xe9t", b"\xed\xa0\x80"])
def test_bytes_that_are_no_utf_8_cost_their_page(gather, bad):
    data = dump(*(page(f"words {i}", f"T{i}", i) for i in range(10))).replace(b"words 3", b"words " + bad)
    found, reasons = gather({"d.xml": data}, "wikipedia")
    assert len(found) == 9 and reasons == {DAMAGED: 1}


@pytest.mark.parametrize("mark", ["&#x0E;", "&#0;", "\x0e", "\0", "\uffff"])
def test_characters_that_xml_forbids_cost_no_more_than_themselves(gather, mark):
    pages = [page(f"words {i}", f"T{i}", i).replace("words 3", f"wo{mark}rds 3") for i in range(10)]
    found, reasons = gather({"d.xml": dump(*pages)}, "wikipedia")
    assert texts(found) == [f"T{i}\n\nwords {i}" for i in range(10)] and not reasons


def test_a_damaged_stream_of_a_multistream_dump_costs_its_pages(gather):
    packed_alone = [dump().removesuffix(b"</mediawiki>")]
    packed_alone += ["".join(page(f"words {i}", f"T{i}", i) for i in range(n, n + 10)).encode() for n in range(0, 50, 10)]
    packed = [bytearray(bz2.compress(stream)) for stream in [*packed_alone, b"</mediawiki>"]]
    packed[2][len(packed[2]) // 2] ^= 0x10
    found, reasons = gather({"d.xml.bz2": b"".join(packed)})
    assert [int(row["origin"].split("#")[1].split()[0]) for row in found] == [*range(10), *range(20, 50)] and reasons == {DAMAGED: 1}
    packed[0][8] ^= 0x10  # the language is not known then, and nothing else
    found, reasons = gather({"d.xml.bz2": b"".join(packed)}, "wikipedia")
    assert len(found) == 40 and reasons == {DAMAGED: 2}


def test_damage_is_counted_in_bytes(tmp_path):
    pages = [page(f"words {i}", f"T{i}", i) for i in range(4)]
    pages[1] = pages[1].replace("words 1", "words & 1")
    (tmp_path / "d.xml").write_bytes(dump(*pages) + b" " * 100)
    statistics = Statistics()
    assert len(list(wikipedia.read(str(tmp_path / "d.xml"), work_units.FileRange("d.xml", 0, None, 1), statistics))) == 3
    assert statistics.dropped == {DAMAGED: Amount(1, len(pages[1]))}


@pytest.mark.parametrize("size", [1, 5, 300])
def test_pages_do_not_depend_on_how_much_is_read_at_a_time(gather, monkeypatch, size):
    monkeypatch.setattr(streams, "CHUNK", size)
    monkeypatch.setattr(xml, "CHUNK", size)
    found, reasons = gather({"d.xml": dump(*(page(f"words {i}", f"T{i}", i) for i in range(10)))}, "wikipedia")
    assert texts(found) == [f"T{i}\n\nwords {i}" for i in range(10)] and not reasons
