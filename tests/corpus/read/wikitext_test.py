import time
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.corpus.config import LANGUAGES
from teleflm_jax.corpus.read import wikitext
from teleflm_jax.corpus.read.wikitext import headings, keywords, plain, removals


@pytest.mark.parametrize(
    ("language", "source", "shown"),
    [
        ("zh", "柏林是十六个-{zh-hans:联邦州; zh-hant:邦}-之一，这个国家", "柏林是十六个联邦州之一，这个国家"),
        ("zh", "柏林是十六個-{zh-hans:联邦州; zh-hant:邦}-之一，這個國家", "柏林是十六個邦之一，這個國家"),
        ("zh", "-{zh-cn:软件; zh-tw:軟體; zh-hk:軟件;}-", "软件"),
        ("zh", "這個-{zh-cn:软件; zh-hk:軟件; zh-tw:軟體;}-", "這個軟體"),
        ("zh", "-{zh:利兹;zh-sg:里兹}-大学", "里兹大学"),
        ("zh", "-{A|zh-cn:人工智能; zh-tw:人工智慧}-很好", "人工智能很好"),
        ("zh", "-{T|zh-cn:甲; zh-tw:乙}--{H|zh-cn:甲; zh-tw:乙}--{-|zh-cn:甲; zh-tw:乙}--{A;H|zh-cn:甲; zh-tw:乙}-丙", "丙"),
        ("zh", "-{R|乾隆}-和-{干}-", "乾隆和干"),
        ("zh", "-{zh-hans|简体}-和-{zh;zh-hant|繁体}-", "简体和繁体"),
        ("zh", "-{H|公釐=>zh-cn:毫米;}-和-{公釐=>zh-cn:毫米}-", "和毫米"),
        ("zh", "單位，-{zh-hans:台湾作-{公釐}-或-{公厘}-;zh-hant:港澳稱為-{毫米}-;}-這個", "單位，港澳稱為毫米這個"),
        ("zh", "-{zh-hans:[[甲|乙]]; zh-hant:{{lang|en|C}}}-。", "乙。"),
        ("zh", "{{lang|en|-{A}-}}和-{zh-cn:甲&amp;乙;zh-tw:丙}-", "A和甲&乙"),
        ("zh", "-{zh-hans:甲:乙 http://a.b/;zh-hant:丙}-", "甲:乙 http://a.b/"),
        ("zh", "<math>x^{-{a}}-{b}-1</math>和-{甲", "$x^{-{a}}-{b}-1$和-{甲"),
        ("zh", "== -{参考文献}- ==\n甲", ""),
        ("zh-classical", "-{甲}-", "-{甲}-"),
        ("sr", "Берлин је шири, дугачак 56 -{km}- и -{sr-ec:лево; sr-el:levo}-", "Берлин је шири, дугачак 56 km и лево"),
        ("sr", "Berlin je širi, kuća -{sr-ec:лево; sr-el:levo}-", "Berlin je širi, kuća levo"),
        ("en", "a set -{x}- b", "a set -{x}- b"),
    ],
)
def test_of_the_forms_of_a_language_the_pages_own_is_shown(language, source, shown):
    assert plain(source, language) == shown


@pytest.mark.parametrize("language", LANGUAGES)
def test_links_to_files_and_categories_are_gone_by_every_name_of_their_namespaces(language):
    for space in keywords.MEDIA_NAMESPACES[language].split() + ["File", "image", "CATEGORY"]:
        text = f"one [[{space}:A b.JPG|thumb|220px|right|a [[link|caption]] {{{{x}}}}]]\n[[{space.upper()} : C|D]]two"
        assert plain(text, language) == "one\ntwo", space


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("zh", "[[文件:甲.jpg|缩略图|220px|乙]]"),
        ("de", "[[Bild:A.png|mini|hochkant|Ein [[Hafen|Bild]]]]"),
        ("la", "[[Fasciculus:A.svg|thumb|x]]"),
        ("en", "[[Datei:A.webm|mini|x]]"),
        ("en", "[[simple:Port]]"),
        ("de", "[[Datei:a.jpg|mini|ein Bild [http://a.b c]]]"),
        ("en", "[[be-x-old:Порт]]"),
        ("en", "[[FR:Port|port]]"),
    ],
)
def test_links_of_other_languages_and_unknown_namespaces_are_gone(language, source):
    assert plain(f"one {source} two", language) == "one two"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("[[:File:A.jpg|a picture]]", "a picture"),
        ("[[:Category:Ports]]", "Category:Ports"),
        ("[[:fr:Port|port]]", "port"),
        ("[[voy:Berlin|a guide]]", "a guide"),
        ("[[Mission: Impossible|a film]]", "a film"),
        ("[[to be|To be]], [[no: not one]]", "To be,"),
        ("[[Node.js]]", "Node.js"),
        ("[http://a.b/ a title] [http://c.d/], http://e.f/", "a title, http://e.f/"),
    ],
)
def test_links_that_are_text_stay(source, shown):
    assert plain(source, "en") == shown


TRAILING = {
    "bg": "Бележки и източници",
    "ca": "Notes i referències",
    "cs": "Poznámky a reference",
    "da": "Noter og referencer",
    "de": "Quellen und Weblinks",
    "en": "Notes, references, and further reading",
    "es": "Notas y referencias",
    "fr": "Notes et références",
    "hr": "Literatura i izvori",
    "hu": "Jegyzetek és források",
    "it": "Note e bibliografia",
    "ja": "脚注・出典",
    "nl": "Bronnen, noten en/of referenties",
    "pl": "Przypisy i bibliografia",
    "pt": "Notas e referências",
    "ro": "Note și referințe",
    "ru": "Примечания и ссылки",
    "sl": "Opombe in reference",
    "sr": "Белешке и референце",
    "sv": "Källor och noter",
    "uk": "Примітки та джерела",
    "zh": "参考来源与注释",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_articles_end_at_headings_of_two_names_too(language):
    assert plain(f"one\n\n== {TRAILING[language]} ==\ntwo", language) == "one"
    first = headings.TRAILING[language].split("|")[0]
    assert plain(f"one\n\n== {first} ==\ntwo", language) == "one"
    assert plain(f"one\n\n== {first} x ==\ntwo", language).endswith("two")


@pytest.mark.parametrize(
    "heading",
    [
        "== References<!-- see the guide --> ==",
        "== References == <!-- see the guide -->",
        "== '''References''' ==",
        "== [[Citation|References]] and {{anchor|x}} notes: ==",
        "==<span id='r'>References</span>==",
        "== References<ref>x</ref> ==",
        "== REFERENCES ==",
        "== Notes & references ==",
        "== Notes / References ==",
    ],
)
def test_markup_in_a_heading_does_not_hide_its_name(heading):
    assert plain(f"one\n\n{heading}\ntwo", "en") == "one"


def test_a_subsection_ends_the_article_only_where_nothing_else_follows():
    culture = "== Kultur ==\n=== Litteratur ===\ntwo\n=== Teater ===\nthree\n== Sport ==\nfour"
    assert plain(f"one\n{culture}\n== Referenser ==\nfive", "sv").endswith("four")
    assert plain(f"one\n{culture}\n=== Litteratur ===\nfive\n==== Böcker ====\nsix\n== Noter ==\nseven", "sv").endswith("four")
    assert plain("one\n== Odkazy ==\n=== Reference ===\ntwo", "cs") == "one"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("Let <math>x</math> be a point.", "Let $x$ be a point."),
        ("Let <math display=block>\n  f''(x)\n  < 1 </math> hold.", "Let $f''(x) < 1$ hold."),
        ("Water is <chem>H2O</chem> or <ce>H2O</ce>.", r"Water is $\ce{H2O}$ or $\ce{H2O}$."),
        ("Nothing <math></math> here.", "Nothing here."),
        ("10<sup>6</sup> m<sup>−2</sup>, H<sub>2</sub>O, the 1<sup>st</sup> x<sub>ij</sub>", "10⁶ m⁻², H₂O, the 1st xij"),
        ("Call <syntaxhighlight lang=c inline>f()</syntaxhighlight> or <code>g()</code>.", "Call f() or g()."),
        ("<ruby>漢字<rp>（</rp><rt>かんじ</rt><rp>）</rp></ruby>", "漢字(かんじ)"),
    ],
)
def test_formulas_are_tex_and_leave_no_placeholder(source, shown):
    assert plain(source, "en") == shown


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("Berlin ({{x}}) is", "Berlin is"),
        ("Berlin ({{x}}, {{y}}; {{z}}), a city", "Berlin, a city"),
        ("Berlin ({{x}}, Barliń) is", "Berlin (Barliń) is"),
        ("Berlin (Barliń, {{x}}) is", "Berlin (Barliń) is"),
        ("Berlin (a; {{x}}; b) is", "Berlin (a; b) is"),
        ("one [[File:a.svg|20px]] two <ref>x</ref>, three <ref>y</ref>.", "one two, three."),
        ("{{x}} one", "one"),
        ("* {{cite web|url=x}}.\n* two", "two"),
        ("One.<ref>x</ref>Two", "One. Two"),
        ("{{x}}, one", "one"),
        ("柏林（{{x}}）是", "柏林是"),
        ("柏林（{{x}}，德国）、{{y}}，城", "柏林（德国），城"),
        ("「{{x}}」", ""),
        ("call main() or f( ) ; a , b", "call main() or f( ) ; a , b"),
        ("une ville {{x}} : oui ; non {{y}} !", "une ville : oui ; non !"),
        ("a (b ({{x}})) c", "a (b) c"),
    ],
)
def test_removed_markup_leaves_no_trace(source, shown):
    assert plain(source, "en") == shown


@given(
    st.lists(
        st.sampled_from(
            [
                (" one", " one"),
                (" two,", " two,"),
                (" (three)", " (three)"),
                (" {{x}}", ""),
                ("<ref>y</ref>", ""),
                (" [[File:a.png]]", ""),
                (" ({{x}})", ""),
                (" ({{x}}, four)", " (four)"),
                (" (five; {{x}})", " (five)"),
                (" ({{x}}{{y}}, {{z}})", ""),
            ]
        ),
        max_size=12,
    )
)
def test_a_text_without_what_is_taken_out_is_as_if_it_had_never_been_there(ranges):
    source, shown = ("Text" + "".join(file_range[i] for file_range in ranges) + " end." for i in (0, 1))
    assert plain(source, "en") == shown


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("one<br>two<br />three</br>four<br clear=all>five", "one\ntwo\nthree\nfour\nfive"),
        ("<ul><li>one</li><li>two<li>three</ul>four", "one\n\ntwo\n\nthree\n\nfour"),
        ("one<p>two</p>three<div>four</div>five", "one\n\ntwo\n\nthree\n\nfour\n\nfive"),
        ("<dl><dt>one<dd>two</dl>", "one\n\ntwo"),
        (";term:meaning\n:indented\n::more\n*item", "term: meaning\nindented\nmore\nitem"),
        ("one<blockquote>two</blockquote>", "one\n\ntwo"),
        ("<poem>one\ntwo</poem>three", "one\ntwo\n\nthree"),
        ("<span style='display: none'>key</span>one<span style='color:red'>two</span>", "onetwo"),
        ("one </small></span><ref name=x>two", "one two"),
        ("one<section begin=a />two<pre>print('', <b>)</pre>three", "onetwo\nprint('', <b>)\nthree"),
        ("<nowiki><b> ''x'' {{y}} [[z]]</nowiki>", "<b> ''x'' {{y}} [[z]]"),
    ],
)
def test_words_are_not_glued_at_tags(source, shown):
    assert [line for line in plain(source, "en").split("\n") if line] == [line for line in shown.split("\n") if line]
    assert "\n\n\n" not in plain(source, "en")


def test_a_link_to_a_file_without_an_end_takes_its_line():
    assert plain("one\n[[Datei:a.jpg|mini|ein Bild\ntwo [[x: a]\n\nthree", "de") == "one\n\ntwo [[x: a]\n\nthree"


def test_entities_are_characters_unless_there_are_none():
    assert plain("a&nbsp;b&#8217;c&#x2014;d&#39;&#39;e&lt;br&gt;", "en") == "a\xa0b\u2019c\u2014d''e<br>"
    assert plain("a&#xD800;b&#2;c&#1;d", "en") == "abcd"


def test_a_character_that_does_not_exist_ends_no_dump(gather):
    pages = "".join(
        f"<page><title>T</title><ns>0</ns><id>1</id><revision><text>{text}</text></revision></page>" for text in ("a&amp;#xDC00;b", "c")
    )
    found, reasons = gather({"d.xml": f"<mediawiki xml:lang='en'>{pages}</mediawiki>".encode()}, "wikipedia")
    assert [one["content"] for one in found] == [b"T\n\nab", b"T\n\nc"] and not reasons


def test_comments_are_gone_and_with_them_lines_of_their_own():
    assert plain("one\n<!-- a\nb -->\ntwo<!-- c --> three\n<!-- d --> four <!-- e -->\nfive <!-- six", "en") == "one\ntwo three\nfour\nfive"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("l'''Iliade'' et ''l'Odyssée''", "l'Iliade et l'Odyssée"),
        ("'''bold''' ''italic'' '''''both'''''", "bold italic both"),
        ("dell'''Iliade'' e '''Omero'''", "dell'Iliade e Omero"),
        ("''x'''s end", "x's end"),
        ("rock 'n' roll, 5' 6\", ''''quoted''''", "rock 'n' roll, 5' 6\", 'quoted'"),
    ],
)
def test_apostrophes_that_are_no_markup_stay(source, shown):
    assert plain(source, "en") == shown


@pytest.mark.parametrize(
    ("language", "switch"),
    [
        ("en", "__NOTOC__"),
        ("de", "__INHALTSVERZEICHNIS_ERZWINGEN__"),
        ("ru", "__БЕЗ_ОГЛ__"),
        ("fr", "__SANSSOMMAIRE__"),
        ("ja", "__目次強制__"),
        ("zh", "__无目录__"),
        ("hu", "__NINCSTARTALOMJEGYZÉK__"),
        ("uk", "__БЕЗ_ЗМІСТУ__"),
        ("en", "__NoEditSection__"),
    ],
)
def test_words_to_the_software_are_gone(language, switch):
    if switch.strip("_").lower() in keywords.MAGIC_WORDS:
        assert plain(f"one {switch}two\n{switch}", language) == "one two"
    assert plain("__init__ __index__ __FILE__ a__b", language) == "__init__ __index__ __FILE__ a__b"


@pytest.mark.parametrize(
    "text", ["#REDIRECT [[A]]", "#redirect: [[A]]", "＃転送[[甲]]", "#重定向 [[甲]]", "#WEITERLEITUNG [[A]]", " #перенаправление [[А]]"]
)
def test_old_pages_that_point_elsewhere_are_told_by_their_text(text):
    assert wikitext.is_redirect(text)
    assert not wikitext.is_redirect(f"one {text}") and not wikitext.is_redirect("#first [[A]]")


@pytest.mark.parametrize(
    "text",
    [
        "{{a}}" * 10_000,
        "{{a}}," * 5_000,
        "({{a}})" * 5_000,
        "(" * 20_000 + "{{a}}" + ")" * 20_000,
        "-{" * 50_000 + "}-" * 50_000,
        "-{a" * 50_000,
        "-{zh-hans:;" + " " * 100_000 + "}-",
        "= <!-- " * 20_000,
        "''a'''" * 20_000,
        "__a" * 50_000,
        "{{x|" + "a|" * 5_000 + "}}",
        "-{{{a}}}-" * 5_000,
    ],
)
def test_markup_made_to_be_slow_is_not(text):
    start = time.process_time()
    plain(text, "zh")
    assert time.process_time() - start < 10  # a second in truth


@given(
    st.lists(
        st.sampled_from(
            [
                "-{",
                "}-",
                "zh-cn:",
                ";",
                "|",
                "A",
                "{{",
                "}}",
                "[[",
                "]]",
                "(",
                ")",
                ",",
                " ",
                "\n",
                "''",
                "<br>",
                "<li>",
                "<math>",
                "</math>",
                "lang",
                "甲",
            ]
        )
    ),
    st.sampled_from(LANGUAGES),
)
def test_any_wikitext_becomes_text_without_marks(bits, language):
    text = plain("".join(bits), language)
    assert removals.REMOVED not in text and "\1" not in text and text == text.strip()


@pytest.mark.parametrize("joined", ["<!<!---->-- ", "<!-{}--- "])
def test_comments_that_taking_out_markup_makes_do_not_reach_the_parser(joined):
    with mock.patch.object(wikitext.mwparserfromhell, "parse", wraps=wikitext.mwparserfromhell.parse) as parse:
        text = plain(joined * 3 + "words", "zh")
    assert "<!--" not in parse.call_args[0][0] and text.endswith("words")
