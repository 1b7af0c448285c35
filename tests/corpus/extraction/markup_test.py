"""What a reader sees of a page, resiliparse's gaps filled: each case failed with resiliparse alone."""

import pytest

from teleflm_jax.corpus.extraction import extract, markup


def text(body, head=""):
    """The text of a page with this body, its lines without indentation."""
    page = f"<html>{head}<body>{body}</body></html>"
    return "\n".join(line.strip() for line in extract.extracted_text(page).split("\n") if line.strip())


LIST = "<p>Before.</p><ul><li>one</li><li>two <b>words</b></li></ul><p>After.</p>"


@pytest.mark.parametrize("level", range(6))
def test_lists_are_text_however_near_to_the_body_they_stand(level):
    for element in ("div", "section", "blockquote"):
        assert text(f"<{element}>" * level + LIST + f"</{element}>" * level) == "Before.\n• one\n• two words\nAfter."


@pytest.mark.parametrize("level", range(6))
def test_lists_of_links_are_navigation_wherever_they_stand(level):
    links = "".join(f'<li><a href="{name}">{name}</a></li>' for name in ("Home", "About us", "Contact"))
    assert text("<div>" * level + f"<p>Before.</p><ul>{links}</ul><p>After.</p>" + "</div>" * level) == "Before.\nAfter."
    assert text("<div>" * level + f"<ul>{links}</ul><ul><li>one</ul>" + "</div>" * level) == "• one"


def test_lists_in_lists_keep_their_order_and_indentation():
    page = "<ul><li>a<ul><li>b<ol><li>c</ol></ul><li>d</ul><menu><li>e<menu><li>f</menu><li>g</menu><p>h<dir><li>i</dir>j"
    assert extract.extracted_text(page) == "  • a\n    • b\n      1. c\n  • d\n  • e\n    • f\n  • g\n\nh\n\n  • i\nj"


def test_links_in_a_line_of_text_make_no_navigation_of_a_list():
    item = '<li>See <a href="a.html">the chapter about harbours</a>, <a href="b.html">boats</a>.</li>'
    for levels in (0, 5):
        assert text("<div>" * levels + f"<ul>{item * 2}</ul>") == "\n".join(["• See the chapter about harbours, boats."] * 2)
    assert text('<ul><li>参见 <a href="a">关于港口的一章</a>。</ul>') == "• 参见 关于港口的一章。"
    typed = '<li><code>flag</code> <a href="a">&lt;boolean&gt;</a> on</li>'
    assert text(f"<ul>{typed}</ul>") == "• flag <boolean> on"


def test_links_to_a_heading_stay_out_of_it():
    for link in (
        '<a class="headerlink" href="#a" title="Link">¶</a>',
        '<a href="#a">¶</a>',
        '<a href="#a">\uf0c1</a>',
        '<a href="#a">&para;</a>',
    ):
        assert text(f"<h2>Title{link}</h2><p>Text.") == "Title\nText."
    assert text('<p>Text <a class="skip-link" href="x">Skip</a>') == "Text"


@pytest.mark.parametrize("character", ["漢", "の", "예", "ก", "→", "✓", "—", "…", "€", "。", "&rarr;", "&#10003;", "&#x6f22;", "&euro;"])
def test_a_single_character_between_tags_is_text(character):
    shown = {"&rarr;": "→", "&#10003;": "✓", "&#x6f22;": "漢", "&euro;": "€"}.get(character, character)
    for before, after in (("<b>", "</b>"), ("<span>\n  ", "\n </span>"), ("<i>a</i>", "<i>b</i>")):
        for others in ("", "漢字"):  # a page of Latin-1, and one that is not
            assert shown in text(f"<p>x{before}{character}{after}y {others}"), (before, others)
    assert text(f"<table><tr><td>a<td>{character}</td></tr></table>").split() == ["a", shown]


@pytest.mark.parametrize("icon", ["\uf015", "\ue000", "\uf8ff", "&#xf015;", "&#61461;", "¶", "&para;", "&#182;"])
def test_icons_and_pilcrows_alone_are_no_text(icon):
    for others in ("", " 漢字"):
        assert text(f"<p>x<i>{icon}</i>y<b>\n{icon} </b>{others}").replace(" ", "") == "xy" + others.strip()


@pytest.mark.parametrize(
    "ruby",
    [
        "<ruby>漢<rt>kan</rt>字<rt>ji</rt></ruby>",
        "<ruby>漢字<rt>kanji</rt></ruby>",
        "<ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp>字<rp>(</rp><rt>ji</rt><rp>)</rp></ruby>",
        "<ruby>漢<rt>kan</rt>字<rt>ji</ruby>",
        "<ruby><rb>漢</rb><rb>字</rb><rt>kan</rt><rt>ji</rt></ruby>",
        "<ruby><rb>漢<rb>字<rt>kan<rt>ji</ruby>",
        "<ruby><rb>漢</rb><rb>字</rb><rtc><rt>kan</rt><rt>ji</rt></rtc></ruby>",
        "<RUBY>漢字<RT>kanji</RT></RUBY>",
        "<ruby>漢<rt>k<b>an</b></rt></ruby>字",
    ],
)
def test_characters_with_readings_stay_and_the_readings_go(ruby):
    assert text(f"<p>An {ruby} b") == "An 漢字 b"


MATHML = "<mrow><msup><mi>x</mi><mn>2</mn></msup></mrow>"
TEX = '<annotation encoding="application/x-tex">x^2</annotation>'
HTML = '<span class="katex-html" aria-hidden="true"><span class="base">x2</span></span>'


@pytest.mark.parametrize(
    ("formula", "shown"),
    [
        (f'<span class="katex"><span class="katex-mathml"><math><semantics>{MATHML}{TEX}</semantics></math></span>{HTML}</span>', "$x^2$"),
        (f'<span class="katex-display"><math display="block"><semantics>{MATHML}{TEX}</semantics></math>{HTML}</span>', "$$x^2$$"),
        (f'<span class="katex"><math><semantics>{MATHML}</semantics></math></span>', "x^2"),
        (f'<math alttext="x^{{2}}">{MATHML}</math>', "$x^{2}$"),
        (
            f'<span class="mwe-math-element"><span style="display: none;"><math><semantics>{MATHML}{TEX}</semantics></math></span>'
            '<img src="x" class="mwe-math-fallback-image-inline" aria-hidden="true" alt="x^2"></span>',
            "$x^2$",
        ),
        ('<script type="math/tex">x &lt y</script>', "$x &lt y$"),
        ('<script type="math/tex; mode=display">x<y</script>', "$$x<y$$"),
        ('<span class="MathJax_Preview">x</span><span class="MathJax">x2</span><script type="math/tex">x^2</script>', "$x^2$"),
        ('<img class="formulaInl" alt="$x^2$" src="form_0.png">', "$x^2$"),
        ('<img src="a.png" alt="$x^2$">', "$x^2$"),
        ('<img class="math" src="a.png" alt="x^2">', "$x^2$"),
        ('<img class="photo" src="a.png" alt="A boat">', ""),
        ("<math><mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mn>2</mn></mfrac></math>", "(a+b)/2"),
        ("<math><msqrt><mi>x</mi></msqrt><msubsup><mi>a</mi><mi>i</mi><mn>2</mn></msubsup></math>", "√(x)a_i^2"),
        ("<math><msub><mi>a</mi></msub></math>", "a"),
        ("<math></math>", ""),
    ],
)
def test_a_formula_stands_once(formula, shown):
    assert text(f"<p>Let {formula} be.").split() == ["Let", *shown.split(), "be."]


def test_deep_formulas_are_cut_in_levels_and_not_in_characters():
    deep = 300
    assert text(f"<p>Let <math>{'<mrow>' * deep}x{'</mrow>' * deep}</math> be.") == "Let x be."


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("<p>10<sup>6</sup> m<sup>-2</sup>, H<sub>2</sub>O, 1<sup>st</sup>, a<sub>i</sub>", "10⁶ m⁻², H₂O, 1st, ai"),
        ("<P>10<SUP>6</SUP> H<SUB>2</SUB>O", "10⁶ H₂O"),
        ("<table><tr><td>a<td>&nbsp;<td>&emsp;<td>b</table>", "a\t\t\xa0\t\t\t\tb"),
        ("<details><summary>More</summary>Text</details>", "More\nText"),
        ("<details><summary><h3>More</h3></summary><p>Text</details>", "More\nText"),
        ("<figure><img><figcaption>A boat.</figcaption></figure><p>Text", "A boat.\nText"),
        ("<figure><pre>x  = 1</pre></figure>", "x  = 1"),
        ("<figure><table><tr><td>1</table></figure>", "1"),
        ("<p>On <time>1 May</time> they came.", "On 1 May they came."),
        ("<p>He said <q>no</q>.", 'He said "no".'),
        ("<listing>a\n  b</listing>", "a\nb"),
        ('<p>It is.<aside class="footnote" role="note"><span>1</span><p>A note.</aside>', "It is.\n1\nA note."),
        ('<p>It is.<aside class="admonition">Mind.</aside>', "It is.\nMind."),
        ("<p>It is.<aside>Related.</aside>", "It is."),
        ('<div class="sidebar"><div class="titlepage"><p>Tip</p></div><p>Mind.</div><p>End', "Tip\nMind.\nEnd"),
        ('<div class="sidebar"><p class="first sidebar-title">Tip</p><p>Mind.</div><p>End', "Tip\nMind.\nEnd"),
        ('<div class="sidebar"><ul><li>Archive</ul></div><p>End', "End"),
        ("<h2 id=\"related-work\">Related work</h2><h3 id='search'>Search</h3><p>End", "Related work\nSearch\nEnd"),
        ('<p>a <a id="b"/>c</p><ul><li>one</li></ul>', "a c\n• one"),
    ],
)
def test_what_resiliparse_leaves_out_or_runs_together(body, shown):
    head = '<html xmlns="http://www.w3.org/1999/xhtml">'
    assert text(body, head) == shown


def test_the_title_of_a_page_of_asciidocs_is_text():
    page = '<html><body class="article">\n<div id="header">\n<h1>git(1)</h1></div><div id="content"><p>Text</div></body></html>'
    assert extract.extracted_text(page).split() == ["git(1)", "Text"]
    assert extract.extracted_text(page.replace("article", "blog")).split() == ["Text"]


def test_what_is_hidden_or_no_text_stays_out():
    body = "<template>a</template><noscript>b</noscript><p hidden>c</p><p style='display:none'>d</p><span aria-hidden='true'>e</span>"
    assert text(f"{body}<textarea>f</textarea><input value=g><nav>h</nav><script>i</script><p>Text.") == "Text."


def test_words_are_neither_cut_nor_joined():
    assert text("<p>long<wbr>word a<br>b c&nbsp;d &amp;lt; &#x4e2d; e") == "longword a\nb c\xa0d &lt; 中 e"
    assert extract.extracted_text("<pre>\n a\n\n   b  <i>c</i>\n</pre>") == " a\n\n   b  c"
    assert text("<p dir=rtl>שלום <bdi>abc</bdi> עולם</p><ul dir=rtl><li>אחד</ul>") == "שלום abc עולם\n• אחד"
    assert text("<dl><dt>a<dd>b<dd>c</dl><blockquote>d<p>e</blockquote><table><tr><th>f<th>g<tr><td>h<td>i</table>").split() == list(
        "abcdefghi"
    )


@pytest.mark.parametrize("page", ["", "<frameset><frame></frameset>", "<body>", "\ufdd0", "<p>" + markup.MARK])
def test_pages_without_text_have_none(page):
    assert extract.extracted_text(page) == ""
