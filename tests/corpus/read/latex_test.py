import gzip
import io
import random
import tarfile
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.corpus.read import latex
from teleflm_jax.corpus.read.latex import macros, scanner
from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Statistics

DAMAGED = "truncated or damaged file"
UNSAFE = "link or path that leads out of its archive"
UNFOLDS = "inputs or macros that unfold too far"
TOWER = "".join(f"\\def\\{name}{{" + f"\\{below}" * 10 + "}" for below, name in zip("abcdefghijkl", "bcdefghijklm", strict=True))
PAPER = b"\\documentclass{article}\n\\begin{document}\nA paper.\n\\end{document}\n"


def tar(files, *members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        for member in members:
            out.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def document(body, preamble=""):
    return f"\\documentclass{{article}}\n{preamble}\n\\begin{{document}}\n{body}\n\\end{{document}}\nafter".encode()


def texts(found):
    return [row["content"].decode() for row in found]


@pytest.fixture
def paper(gather):
    """The text of one paper of one file, or of an archive's files."""

    def paper(files):
        files = {"main.tex": files} if isinstance(files, bytes) else files
        found, reasons = gather({"p.tar.gz": gzip.compress(tar(files))}, "latex")
        assert len(found) == 1 and not reasons
        return found[0]["content"].decode()

    return paper


@pytest.mark.parametrize(
    ("name", "content", "origins"),
    [
        ("a.tex", PAPER, ["a.tex"]),
        ("a.gz", gzip.compress(PAPER, mtime=0), ["a.gz"]),
        ("a.tex.gz", gzip.compress(PAPER, mtime=0), ["a.tex.gz"]),
        ("a.gz", gzip.compress(tar({"m.tex": PAPER}), mtime=0), ["a.gz"]),
        ("a.tgz", gzip.compress(tar({"./m.tex": PAPER, "fig.eps": b"%!PS"}), mtime=0), ["a.tgz"]),
        ("a.TAR.GZ", gzip.compress(tar({"dir/m.TEX": PAPER}), mtime=0), ["a.TAR.GZ"]),
        ("a.tar", tar({"m.tex": PAPER}), ["a.tar"]),
        (
            "src.tar",
            tar({"2401/1.gz": gzip.compress(PAPER), "2401/2.gz": gzip.compress(tar({"m.tex": PAPER}))}),
            ["src.tar#2401/1.gz", "src.tar#2401/2.gz"],
        ),
    ],
)
def test_every_form_in_which_papers_come_is_read(gather, name, content, origins):
    found, reasons = gather({name: content}, "latex")
    assert texts(found) == ["A paper."] * len(origins) and [row["origin"] for row in found] == origins and not reasons
    assert {(row["kind"], row["charset"]) for row in found} == {("text", "utf-8")}


def test_what_is_no_paper_is_counted_by_its_reason(gather):
    files = {
        "a.pdf": b"%PDF",
        "b.gz": gzip.compress(b"%PDF-1.5"),
        "c.tar.gz": gzip.compress(tar({"fig.png": b"x"})),
        "d.tar": tar({"1.pdf": b"%PDF", "2.gz": gzip.compress(PAPER)}),
        "e.tex": b"Neither of both.",
        "f.gz": gzip.compress(b""),
        "g.tex": document(""),
    }
    found, reasons = gather(files, "latex")
    assert texts(found) == ["A paper."]
    assert reasons == {"no LaTeX by its name": 2, "no TeX in the archive": 2, "neither a document nor a section": 3}


def test_comments_go_and_percent_signs_stay(paper):
    body = (
        "50\\% of % gone\n% a line\n   % another\nit \\\\% gone too\nnext%\n"
        "\\url{http://a/%20b} \\href{b%20c}{d}\n\\begin{comment}\nno\n\\end{comment}last % end"
    )
    assert paper(document(body)) == "50\\% of \nit \\\\\nnext\n\\url{http://a/%20b} \\href{b%20c}{d}\nlast"


def test_verbatim_text_stays_as_it_is(paper):
    body = (
        "\\begin{verbatim}\n% kept \\x\n\n\n  \\bibli{\n\\end{verbatim}\n\\verb|%\\x| \\verb*+%+ % gone\n"
        "\\begin{lstlisting}\na % b\n\\end{lstlisting}\\x"
    )
    got = paper(document(body, "\\def\\x{X}"))
    assert (
        got.startswith("\\begin{verbatim}\n% kept \\x\n")
        and "\\verb|%\\x| \\verb*+%+ \n" in got
        and got.endswith("a % b\n\\end{lstlisting}X")
    )


def test_a_verbatim_in_a_comment_is_none(paper):
    assert paper(document("a\n% \\begin{verbatim}\nb % gone\n% \\end{verbatim}\nc")) == "a\nb \nc"


def test_preamble_bibliography_and_what_follows_are_gone(paper):
    body = "\\section{One}\nwords\n\\bibliographystyle{plain}\n\\bibliography{refs}\n\\appendix\nproofs"
    assert paper(document(body, "\\title{A}")) == "\\section{One}\nwords"
    assert paper(document("words\n\\begin{thebibliography}{9}\n\\bibitem{a} B.\n\\end{thebibliography}\nmore")) == "words"
    assert paper(document("words\n\\appendix\nproofs\n\\printbibliography")) == "words\n\\appendix\nproofs"


def test_without_a_document_the_first_section_begins_the_text(paper):
    assert paper(b"\\input amstex\nfront matter \\chapter*{One} words \\section{Two}") == "\\chapter*{One} words \\section{Two}"


def test_macros_without_arguments_are_written_out(paper):
    preamble = (
        "\\newcommand{\\be}{\\begin{equation}}\\newcommand\\ee{\\end{equation}}\n"
        "\\def\\R{\\mathbb{R}}\n\\renewcommand*{\\epsilon} {\\varepsilon}\n"
        "\\DeclareMathOperator{\\tr}{tr}\\DeclareMathOperator*{\\argmax}{arg\\,max}\n\\newcommand{\\Rn}[0]{\\R^n}\n\\providecommand{\\e}{}\n"
        "\\newcommand{\\pair}[2]{(#1, #2)}\\def\\half#1{#1/2}\\makeatletter\\renewcommand{\\section}{\\@startsection}\\makeatother"
    )
    body = "\\section{A}\\be \\epsilon\\in\\Rn, \\argmax_x \\tr(x)\\e \\ee \\pair{a}{b} \\half{c} \\Real \\begin{R}"
    assert paper(document(body, preamble)) == (
        "\\section{A}\\begin{equation} \\varepsilon\\in\\mathbb{R}^n, \\operatorname*{arg\\,max}_x \\operatorname{tr}(x) \\end{equation}"
        " \\pair{a}{b} \\half{c} \\Real \\begin{R}"
    )


def test_a_macro_means_what_it_was_last_defined_as(paper):
    assert paper(document("\\def\\x{1}\\x \\def\\x{2}\\x \\renewcommand{\\x}[1]{#1}\\x{3}")) == "1 2 \\renewcommand{\\x}[1]{#1}\\x{3}"


def test_macros_that_name_themselves_end(paper):
    preamble = "\\def\\x{a\\x\\x}\\newcommand{\\y}{b\\z}\\newcommand{\\z}{c\\y}" + "".join(
        f"\\def\\n{'i' * i}{{\\n{'i' * (i + 1)}}}" for i in range(1, 90)
    )
    assert paper(document("\\x{} \\y{} \\ni", preamble)).startswith("a\\x\\x{} bc\\y{} \\ni")


@pytest.mark.parametrize(
    "preamble",
    [
        TOWER + "\\def\\a{" + "x" * 1000 + "}",
        TOWER + "\\def\\a{}",
        "\\def\\x{" * 250_000,
    ],
)
def test_macros_that_unfold_without_bound_are_counted(gather, preamble):
    start = time.process_time()
    assert gather({"a.tex": document("\\m", preamble)}, "latex") == ([], {UNFOLDS: 1})
    assert time.process_time() - start < 15


def test_files_of_the_archive_are_put_where_they_are_input(paper):
    files = {
        "src/main.tex": document(
            "\\input{sec/one} \\include{two}\\input ../three \\subfile{four}\\includegraphics{f}\\input{missing} \\m", "\\input{macros}"
        ),
        "src/sec/one.tex": b"ONE \\input{sec/deep.tex}",
        "src/sec/deep.tex": b"DEEP",
        "src/macros.tex": b"\\newcommand{\\m}{M}",
        "two.tex": b"TWO % gone",
        "three.tex": b"THREE",
        "src/four.tex": document("FOUR"),
    }
    assert paper(files).split() == ["ONE", "DEEP", "TWO", "THREE", "FOUR", "\\includegraphics{f}", "M"]


def test_of_several_documents_the_longest_is_the_paper(paper):
    assert (
        paper({"a.tex": document("reply"), "b.tex": document("\\input{c}"), "c.tex": b"the paper itself, in one part"})
        == "the paper itself, in one part"
    )


def test_inputs_never_leave_the_archive(paper, tmp_path):
    (tmp_path / "secret.tex").write_text("secret")
    body = f"a\\input{{{tmp_path}/secret}}\\input{{/etc/passwd}}\\input{{../../../../../../etc/passwd}}\\input{{../secret.tex}}\\input{{}}b"
    assert paper(document(body)) == "a\\input{}b"


def test_inputs_of_one_another_end(paper):
    assert paper({"main.tex": document("a \\input{b}"), "b.tex": b"b \\input{c}", "c.tex": b"c \\input{b} \\input{main}"}).split() == [
        "a",
        "b",
        "c",
    ]
    chain = {f"f{i}.tex": f"{i} \\input{{f{i + 1}}}".encode() for i in range(30)}
    assert len(paper(chain | {"main.tex": document("x \\input{f0}")}).split()) == 1 + latex.MAX_INPUT_DEPTH


def test_inputs_that_unfold_without_bound_are_counted(gather):
    start = time.process_time()
    for content in (b"", b"x" * 10_000):
        files = {f"f{i}.tex": content + b"\\input{f%d}" % (i + 1) * 10 for i in range(10)}
        archive = gzip.compress(tar(files | {"main.tex": document("\\input{f0}")}))
        assert gather({"p.tar.gz": archive}, "latex") == ([], {UNFOLDS: 1})
    assert time.process_time() - start < 15


def test_links_and_paths_that_lead_out_are_counted_and_passed_over(gather, tmp_path):
    (tmp_path / "secret.tex").write_bytes(document("secret"))
    links = []
    for name, kind in (("s.tex", tarfile.SYMTYPE), ("h.tex", tarfile.LNKTYPE), ("d.tex", tarfile.CHRTYPE), ("p.tex", tarfile.FIFOTYPE)):
        link = tarfile.TarInfo(name)
        link.type, link.linkname = kind, str(tmp_path / "secret.tex")
        links.append(link)
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    hostile = {"/etc/evil.tex": PAPER, "../evil.tex": PAPER, "a/../../evil.tex": PAPER, "a/../m.tex": PAPER}
    before = sorted(tmp_path.rglob("*"))
    found, reasons = gather({"p.tar": tar(hostile, folder, *links)}, "latex")
    assert texts(found) == ["A paper."] and reasons == {UNSAFE: 7}
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "source", tmp_path / "source" / "p.tar"])


@pytest.mark.parametrize("lost", [1, 9, 100, 400])
def test_a_truncated_archive_is_counted_and_gives_no_half_paper(gather, lost):
    noise = random.Random(0).randbytes(3000).hex().encode()
    packed = gzip.compress(tar({"m.tex": document("x"), "b.tex": b"\\section{a}" + noise}))
    assert gather({"p.tar.gz": packed[:-lost]}, "latex") == ([], {DAMAGED: 1})
    found, reasons = gather(
        {"p.tar.gz": packed, "q.tar": tar({"1.gz": gzip.compress(PAPER), "2.gz": packed[:-lost], "3.gz": packed})}, "latex"
    )
    assert len(found) == 3 and reasons == {DAMAGED: 1}


def test_a_truncated_tar_gives_its_whole_papers(gather):
    whole = tar({"1.gz": gzip.compress(PAPER), "2.gz": gzip.compress(PAPER), "3.gz": random.Random(0).randbytes(4000)})
    found, reasons = gather({"p.tar": whole[: 512 * 6]}, "latex")
    assert texts(found) == ["A paper."] * 2 and reasons == {DAMAGED: 1}
    own = tar({"m.tex": document("words " * 1000)})
    assert gather({"p.tar": own[:2000]}, "latex") == ([], {DAMAGED: 1})


def test_names_in_an_archive_that_are_no_text_do_no_harm(gather):
    names = {"\udcff.gz": gzip.compress(PAPER), "a\udcff.pdf": b"%PDF", "\udcff.tex": PAPER}
    found, reasons = gather({"p.tar": tar(names)}, "latex")
    assert [row["origin"] for row in found] == ["p.tar#\ufffd.gz", "p.tar"] and reasons == {"no LaTeX by its name": 1}


@pytest.mark.parametrize("name", ["a.gz", "a.tar", "a.tgz"])
def test_garbage_is_counted(gather, name):
    assert gather({name: b"garbage that is nothing of the kind\n" * 50}, "latex") == ([], {DAMAGED: 1})


def test_bombs_are_bounded(gather):
    zeros = gzip.compress(bytes(100 << 20), 1)
    long = PAPER.replace(b"A paper.", b"word " * (4 << 20))
    files = {
        "a.gz": zeros,
        "b.tar": tar({"1.gz": zeros, "2.gz": gzip.compress(PAPER)}),
        "c.tar.gz": gzip.compress(tar({"m.tex": PAPER, "long.tex": bytes(17 << 20)}), 1),
        "d.tex": long,
        "e.gz": gzip.compress(long, 1),
        "f.gz": gzip.compress(bytes(1 << 20)),
    }
    found, reasons = gather(files, "latex")
    assert [row["origin"] for row in found] == ["b.tar#2.gz", "c.tar.gz"]
    assert reasons == {"archive longer than 64 MiB": 2, "longer than 16 MiB": 3, "no TeX in the archive": 1}


def test_headers_made_to_ask_for_memory_or_to_run_without_end_are_counted(gather):
    def header(kind, size):
        block = bytearray(tar({"m.tex": b"x"})[:512])
        block[156:157] = kind
        block[124:136] = b"\x80" + size.to_bytes(11, "big") if size >= 0 else b"\xff" + (256**11 + size).to_bytes(11, "big")
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block)

    start = tar({"1.gz": gzip.compress(PAPER)})[:1024]
    made_up = [header(kind, size) for kind in (b"0", b"x", b"g", b"L") for size in (1 << 40, 1 << 62, -512, -1024, -(1 << 60))]
    for hostile in [*made_up, header(b"x", 0) * 5000]:
        found, reasons = gather({"p.tar": start + hostile + bytes(2048)}, "latex")
        assert texts(found) == ["A paper."] and set(reasons) <= {DAMAGED, "longer than 16 MiB"}


@pytest.mark.parametrize(
    ("declared", "codec"),
    [
        ("latin1", "latin-1"),
        ("latin9", "iso-8859-15"),
        ("ansinew", "cp1252"),
        ("applemac", "mac-roman"),
        ("utf8", "utf-8"),
        ("", "latin-1"),
    ],
)
def test_character_sets_are_those_that_the_paper_declares(paper, declared, codec):
    text = "Größe, naïve café, über Flüsse"
    preamble = f"\\usepackage[{declared}]{{inputenc}}" if declared else ""
    assert paper(document(text, preamble).decode().replace("\n", "\r\n").encode(codec)) == text


def test_text_that_is_no_text_is_counted(gather):
    assert gather({"a.tex": PAPER.replace(b"A", b"\0")}, "latex") == ([], {"unknown character set": 1})


@pytest.mark.parametrize(
    "unit",
    [
        "\\begin{verbatim}",
        "\\verb|",
        "\\def\\x",
        "\\newcommand{",
        "%",
        "\\url{",
        "\\begin{comment}",
        "\\input{",
        "\\bibliography ",
        "\\\n",
        "\n \t",
        "{",
        "\\input ",
    ],
)
def test_text_made_to_be_slow_is_not(gather, unit):
    start = time.process_time()
    gather({"a.tex": b"\\begin{document}" + unit.encode() * (1 << 16)}, "latex")
    gather({"a.tex": b"\\section{" + unit.encode() * (1 << 16)}, "latex")
    assert time.process_time() - start < 4  # half a second at most; the square takes minutes


PIECES = st.lists(
    st.sampled_from(
        [
            "\\x",
            "\\def\\x{",
            "}",
            "{",
            "\\y",
            "\\newcommand{\\y}{",
            "%",
            "\n",
            " ",
            "\\verb|",
            "|",
            "\\begin{verbatim}",
            "\\end{verbatim}",
            "\\",
            "a",
        ]
    )
)


@given(PIECES)
def test_any_text_loses_its_comments_and_macros_without_failing(ranges):
    text = "".join(ranges)
    bare = scanner.without_comments(text)
    assert len(bare) <= len(text)
    assert isinstance(macros.expand(bare, macros.Macros()), str)


def test_drafts_of_a_paper_are_left_out_in_all_its_files(paper):
    main = document("\\input{a}\n\\ifdraft\nTODO\n\\else\nFinal.\n\\fi\n\\iffalse\n\\input{b}\n\\fi", "\\newif\\ifdraft")
    files = {"main.tex": main, "a.tex": b"Text\n\\iffalse old \\fi\nmore.\n\\endinput\nrest", "b.tex": b"never"}
    assert paper(files) == "Text\nmore.\n\nFinal."


@given(st.lists(st.tuples(st.integers(0, 2559), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_archive_never_fails(changes):
    data = bytearray(tar({"m.tex": PAPER, "1.gz": gzip.compress(PAPER)}))
    for position, value in changes:
        data[position] = value
    list(latex._read_tar(io.BytesIO(bytes(data)), "p.tar", Statistics()))


def test_a_file_is_read_by_its_own_name(tmp_path):
    (tmp_path / "a.tex").write_bytes(PAPER)
    (found,) = latex.read(str(tmp_path / "a.tex"), work_units.FileRange("b/a.tex", 0, None, 1), Statistics())
    assert found.origin == "b/a.tex"
