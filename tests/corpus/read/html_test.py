from teleflm_jax.corpus import read


def test_pages_are_taken_and_other_files_are_counted(gather):
    pages = {"a.html": b"<p>one", "b/c.HTM": b"<p>two", "d.xhtml": b"<p>three"}
    found, reasons = gather(pages | {"e.css": b"p {}", "f.png": b"\x89PNG\0"}, "html")
    assert {row["origin"]: row["content"] for row in found} == pages
    assert {row["kind"] for row in found} == {"html"} and {row["charset"] for row in found} == {""}
    assert reasons == {"not HTML": 2}


def test_bytes_stay_as_they_are_whatever_their_character_set(gather):
    pages = {"a.html": "Grüße".encode("latin-1"), "b.html": "你好".encode("gbk"), "c.html": b"\xff\xfe" + "words".encode("utf-16-le")}
    found, reasons = gather(pages, "html")
    assert {row["origin"]: row["content"] for row in found} == pages and not reasons


def test_names_tell_a_page_without_a_format(gather):
    found, reasons = gather({"a.html": b"<p>one", "b.txt": b"two"})
    assert [(row["kind"], row["origin"]) for row in found] == [("html", "a.html"), ("text", "b.txt#0")] and not reasons


def test_empty_and_too_long_pages_are_counted(gather):
    found, reasons = gather({"a.html": b" \n", "b.html": b"", "c.html": b"a" * (read.LONGEST + 1), "d.html": b"a" * read.LONGEST}, "html")
    assert [row["origin"] for row in found] == ["d.html"]
    assert reasons == {"empty": 2, "longer than 16 MiB": 1}
