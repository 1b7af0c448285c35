import plain_text
import pytest


def test_html_keeps_prose_and_drops_navigation():
    page = """<html><head><title>T</title></head><body><header><p>Menu</p></header><nav><ul><li>Home</li></ul></nav>
    <h1>A &amp; B</h1><p>One <em>fine</em>
    day.<br>Two</p><div class="relatedtopics"><div>See</div> also</div><p><span class="MAC">Cmd</span><span>Ctrl</span>+N</p>
    <script>if (a < b) x();</script><footer>Page 1</footer></body></html>"""
    assert plain_text.from_html(page) == "A & B\nOne fine day.\nTwo\nCtrl+N"


def test_html_keeps_code_as_it_stands():
    assert plain_text.from_html("<p>So:</p><pre>\nif x:\n    <b>y</b>()\n</pre><p>End</p>") == "So:\nif x:\n    y()\nEnd"


def test_html_joins_rows_and_cuts_long_tables():
    rows = "".join(f"<tr><td><p>{number}</p></td><td></td><td>word</td></tr>" for number in range(100))
    lines = plain_text.from_html(f"<table>{rows}</table><p>after</p>").split("\n")
    assert lines[0] == "0 | word" and lines[-1] == "after"
    assert len(lines) == plain_text.MAX_TABLE_ROWS + 1


def test_mallard_drops_the_credits():
    page = """<page xmlns="http://projectmallard.org/1.0/"><info><credit><name>Ann</name></credit><desc>What it does.</desc></info>
    <title>Files</title><p>Press <key>Enter</key> to
    go on.</p><steps><item><p>First.</p></item></steps></page>"""
    assert plain_text.from_mallard(page) == "What it does.\nFiles\nPress Enter to go on.\nFirst."


def test_man_joins_filled_text_and_keeps_examples():
    page = r"""'\" t
.\" a comment
.TH LS 1 2022
.SH 名称
ls \- 列出目录
内容
.SH "SEE ALSO"
.BR services (5),
\fBtwo\fP words\&.
.TS
l l.
a	b
.TE
.TP
\fB\-a\fP
all \(bu \(lqquoted\(rq
.nf
  $ ls \-l
  total 0
.fi
The end."""
    expected = '名称\nls - 列出目录内容\nSEE ALSO\nservices(5), two words.\n-a all * "quoted"\n  $ ls -l\n  total 0\nThe end.'
    assert plain_text.from_man(page) == expected


def test_pod_drops_codes_and_commands():
    marked = "perl - B<bold I<both>> C<< a <=> b >> L<the manual|perlop> E<lt>"
    page = f"=head1 NAME\nX<index>\n\n{marked}\n\n=over 4\n\n=item *\n\n    verbatim B<x>\n\n=cut\n"
    assert plain_text.from_pod(page) == "NAME\n\nperl - bold both a <=> b the manual <\n\n*\n\n    verbatim B<x>"


def test_rst_loses_its_tables_only():
    tables = ".. list-table:: T\n   :widths: 1 2\n\n   * - a\n     - b\n\nText.\n\n+---+---+\n| a | b |\n+---+---+\n\n"
    page = f"Title\n=====\n\n{tables}.. note:: Kept.\n"
    assert plain_text.from_rst(page).split() == ["Title", "=====", "Text.", "..", "note::", "Kept."]


def test_fortunes_are_split_and_put_together():
    source = "\x1b[32m《春晓》\x1b[m\n春眠不觉晓\n%\n100% sure\n%\n" + "x" * 3000 + "\n%\nlast\n"
    assert list(plain_text.from_fortunes(source)) == ["《春晓》\n春眠不觉晓\n\n100% sure\n\n" + "x" * 3000, "last"]


def test_wordnet_gives_words_and_explanation():
    lines = '  1 This software\n00001740 03 n 02 living_thing 0 life(a) 0 001 @ 00002 n 0000 | a living; "it lives"  \n'
    assert list(plain_text.from_wordnet(lines)) == ['living thing, life: a living; "it lives"']


@pytest.mark.parametrize(
    "text, language, expected",
    [
        ("这是中文", "zh", True),
        ("mostly English 中", "zh", False),
        ("ひらがな", "ja", True),
        ("Привет", "ru", True),
        ("Hallo", "de", True),
        ("12", "zh", False),
    ],
)
def test_language_is_known_by_its_script(text, language, expected):
    assert plain_text.is_in_language(text, language) == expected


def test_untranslated_paragraphs_go():
    assert plain_text.without_lines("Hallo\nThis is English still.\nWelt", {"This is English still."}) == "Hallo\nWelt"
