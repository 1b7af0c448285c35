import bz2
import gzip
import html
import random
import time
import tracemalloc
from xml.sax.saxutils import quoteattr

import pytest

from teleflm_jax.corpus.read import stackexchange, xml
from teleflm_jax.documents import streams, work_units
from teleflm_jax.documents.statistics import Amount, Statistics

DAMAGED = "truncated or damaged file"


def row(**attributes):
    return "  <row " + " ".join(f"{name}={quoteattr(str(value), {chr(10): '&#xA;'})}" for name, value in attributes.items()) + " />\n"


def question(number, accepted=None, body="<p>How?</p>", title="Title", **more):
    chosen = {} if accepted is None else {"AcceptedAnswerId": accepted}
    return row(
        Id=number, PostTypeId=1, **chosen, CreationDate=f"2020-01-01T00:00:{number % 60:02d}.000", Score=1, Title=title, Body=body, **more
    )


def answer(number, parent, score=1, body=None):
    return row(Id=number, PostTypeId=2, ParentId=parent, Score=score, Body=body or f"<p>answer {number}</p>")


def dump(*rows):
    return ('\ufeff<?xml version="1.0" encoding="utf-8"?>\n<posts>\n' + "".join(rows) + "</posts>").encode()


def texts(found):
    return [one["content"].decode() for one in found]


def test_a_question_stands_with_the_accepted_answer_before_the_others_by_score(gather):
    body = "<p>Is <code>1 &lt; 2</code>?</p>\n\n<pre><code>if x:\n    y()\n</code></pre>\n<p><a href='http://a'>Here</a>.</p>"
    rows = [question(1, 3, body, "Grüße & <b>"), answer(2, 1, 7), answer(3, 1, 0), answer(4, 1, 9), answer(6, 1, 7), answer(5, 1, 7)]
    found, reasons = gather({"math.stackexchange.com/Posts.xml": dump(*rows)}, "stackexchange")
    assert texts(found) == [
        "Q: Grüße & <b>\n\nIs 1 < 2?\n\nif x:\n    y()\n\nHere.\n\nA: answer 3\n\nA: answer 4\n\nA: answer 2\n\nA: answer 5\n\nA: answer 6"
    ]
    del found[0]["content"], found[0]["id"]
    assert found[0] == {
        "kind": "text",
        "origin": "math.stackexchange.com/Posts.xml#1",
        "family": "math.stackexchange.com/Posts.xml#1",
        "date": "2020-01-01T00:00:01.000",
        "charset": "utf-8",
    }
    assert not reasons


def test_what_becomes_no_part_of_a_document_is_counted_by_its_reason(gather):
    rows = [
        question(1, 4),
        *(answer(number, 1, number) for number in range(2, 10)),
        answer(10, 1, 0),
        answer(11, 1, -3),
        answer(12, 99),
        question(13),
        question(14, 77),
        answer(15, 14, 0),
        question(16, body=""),
        answer(17, 16),
        question(18),
        answer(19, 18, body="<p> </p>"),
        question(1),
        answer(9, 1, 9),
        row(Id=20, PostTypeId=4, Body="about a tag"),
        row(Id=21, Body="nothing"),
        row(PostTypeId=1, Body="no number"),
        row(Id="9" * 5000, PostTypeId=1, Body="a number too long"),
        row(Id="22", PostTypeId=2, ParentId="x", Body="an answer to nothing"),
    ]
    found, reasons = gather({"Posts.xml": dump(*rows)}, "stackexchange")
    assert [text.count("\n\nA: ") for text in texts(found)] == [5]
    assert texts(found)[0].endswith("A: answer 4\n\nA: answer 9\n\nA: answer 8\n\nA: answer 7\n\nA: answer 6")
    assert reasons == {
        "answer after the best 5": 3,
        "answer that nobody found useful": 3,
        "answer without a question": 2,
        "question without an answer worth keeping": 3,
        "post without text": 2,
        "post given twice": 2,
        "neither question nor answer": 2,
        "post without its number": 3,
    }


def test_other_files_of_a_dump_are_counted(gather):
    posts = dump(question(1), answer(2, 1))
    names = ["Users.xml", "Badges.xml", "NotPosts.xml", "Posts.xml.7z"]
    found, reasons = gather(dict.fromkeys(names, posts) | {"a-Posts.xml": posts, "b/posts.xml": posts}, "stackexchange")
    assert len(found) == 2 and reasons == {"no Posts.xml by its name": 4}


def test_documents_do_not_depend_on_how_posts_are_spread(gather, monkeypatch):
    rows = [question(number, body=f"<p>question {number}</p>") for number in range(1, 200)]
    answers = [answer(1000 + 3 * number + i, number, i + 1) for number in range(1, 200) for i in range(3)]
    random.Random(0).shuffle(answers)
    data = dump(*rows, *answers)
    whole, reasons = gather({"Posts.xml": data}, "stackexchange")
    assert not reasons and [int(one["origin"].partition("#")[2]) for one in whole] == list(range(1, 200))
    monkeypatch.setattr(stackexchange, "BUCKET_BYTES", len(data) // 7)
    for held, chunk in ((1, 1 << 18), (1 << 20, 50), (5000, 777)):
        monkeypatch.setattr(stackexchange, "HELD_BYTES", held)
        monkeypatch.setattr(streams, "CHUNK", chunk)
        monkeypatch.setattr(xml, "CHUNK", chunk)
        spread, _ = gather({"Posts.xml": data}, "stackexchange")
        numbers = [int(one["origin"].partition("#")[2]) for one in spread]
        assert numbers == sorted(numbers, key=lambda number: (number % 8, number))
        assert sorted(texts(spread)) == sorted(texts(whole))


def test_nothing_is_left_behind_also_when_reading_stops(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    (tmp_path / "Posts.xml").write_bytes(dump(*(question(i) + answer(i + 100, i) for i in range(1, 9))))
    reading = stackexchange.read(str(tmp_path / "Posts.xml"), work_units.FileRange("Posts.xml", 0, None, 1), Statistics())
    next(reading)
    assert list(temporary.iterdir())
    reading.close()
    assert not list(temporary.iterdir())


def test_a_row_of_20_megabytes_is_counted_and_costs_no_other(gather):
    long = answer(3, 1, 9, "x" * (20 << 20))
    found, reasons = gather({"Posts.xml": dump(question(1), long, answer(2, 1), question(5, body="y" * (20 << 20)))}, "stackexchange")
    assert texts(found) == ["Q: Title\n\nHow?\n\nA: answer 2"] and reasons == {"longer than 16 MiB": 2}


def test_a_row_without_end_is_counted(gather):
    data = dump(question(1), answer(2, 1)).removesuffix(b"</posts>") + b'<row Id="3" Body="' + b"x" * (40 << 20)
    found, reasons = gather({"Posts.xml": data}, "stackexchange")
    assert len(found) == 1 and reasons == {"longer than 16 MiB": 1, DAMAGED: 1}


def test_a_truncated_dump_gives_what_it_holds_and_is_counted(gather):
    rows = [question(i) + answer(i + 5000, i) for i in range(1, 1000)]
    data = dump(*rows)
    found, reasons = gather({"Posts.xml": data[: len(data) // 2]}, "stackexchange")
    assert 400 < len(found) < 600 and reasons[DAMAGED] == 1 and set(reasons) <= {DAMAGED, "question without an answer worth keeping"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no XML at all",
        b"<posts></wrong>",
        b"\xff\xfe\0\0",
        b"<posts>" + b"<a>" * 200_000,
        b'<posts><row Id="1" Id="2"/></posts>',
        '<posts><row Body="Grüße"/></posts>'.encode("latin-1"),
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><posts><row Id="1" Body="&x;"/></posts>',
        (
            '<!DOCTYPE a [<!ENTITY a0 "ha">'
            + "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(9))
            + "]><posts><row Id='&a9;'/></posts>"
        ).encode(),
    ],
)
def test_damaged_and_hostile_xml_is_counted(gather, data):
    assert gather({"Posts.xml": data}, "stackexchange") == ([], {DAMAGED: 1})


def test_html_made_to_be_slow_is_counted(gather):
    nested, wide = "<div>" * 100_000, "<p " + " ".join(f"a{i}=1" for i in range(100_000)) + ">x"
    start = time.process_time()
    rows = [question(1), answer(2, 1, 5, nested), answer(3, 1, 4, wide), answer(4, 1), question(5, body=nested), answer(6, 5)]
    found, reasons = gather({"Posts.xml": dump(*rows)}, "stackexchange")
    assert texts(found) == ["Q: Title\n\nHow?\n\nA: answer 4"]
    assert reasons == {"nested deeper than 1000": 2, "more than 1000 attributes": 1, "answer without a question": 1}
    assert time.process_time() - start < 10  # the extractor alone takes the square


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(stackexchange, "BUCKET_BYTES", 1 << 20)
    monkeypatch.setattr(stackexchange, "HELD_BYTES", 1 << 20)
    body = "<p>" + "words " * 1000 + "</p>"
    with open(tmp_path / "Posts.xml", "w") as file:
        file.write("<posts>")
        for number in range(1, 2500):
            file.write(question(number, body=body))
        for number in range(1, 2500):
            file.write(answer(number + 10_000, number, body=body))
        file.write("</posts>")
    file_range = work_units.FileRange("Posts.xml", 0, None, 1)
    tracemalloc.start()
    try:
        count = sum(1 for _ in stackexchange.read(str(tmp_path / "Posts.xml"), file_range, Statistics()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 2499 and peak < (tmp_path / "Posts.xml").stat().st_size // 3


def pairs(count):
    """Rows of questions 1, 3, …, each followed by its answer."""
    return [one for i in range(1, 2 * count, 2) for one in (question(i, body=f"<p>question {i}</p>"), answer(i + 1, i))]


def numbers(found):
    return [int(one["origin"].partition("#")[2]) for one in found]


DAMAGE = {
    "an entity that nobody defined": lambda row: row.replace(b"question 7", b"question &nbsp; 7"),
    "bytes that are no UTF-8": lambda row: row.replace(b"question 7", b"question \xe9 7"),
    "a raw sign": lambda row: row.replace(b"&lt;p&gt;", b"<p>"),
    "a torn row": lambda row: row[:60] + b"\n",
    "a quotation mark too few": lambda row: row.replace(b' Title="', b" Title="),
    "a quotation mark too many": lambda row: row.replace(b' Title="', b' Title=""'),
    "an end that is missing": lambda row: row.replace(b"/>", b">"),
    "an attribute given twice": lambda row: row.replace(b" Score=", b' Id="5" Score='),
    "a bare ampersand": lambda row: row.replace(b"question 7", b"question & 7"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_row_costs_itself(gather, damage):
    rows = [one.encode() for one in pairs(22)]
    assert b"question 7" in rows[6]
    rows[6] = DAMAGE[damage](rows[6])
    found, reasons = gather({"Posts.xml": b"<posts>\n" + b"".join(rows) + b"</posts>"}, "stackexchange")
    assert numbers(found) == [i for i in range(1, 44, 2) if i != 7] and reasons == {DAMAGED: 1, "answer without a question": 1}


def test_what_a_damaged_row_was_long_is_counted(tmp_path):
    rows = [one.encode() for one in pairs(3)]
    rows[2] = rows[2].replace(b"question 3", b"question & 3").strip()
    (tmp_path / "Posts.xml").write_bytes(b"<posts>\n" + b"".join(rows) + b"</posts>")
    statistics = Statistics()
    list(stackexchange.read(str(tmp_path / "Posts.xml"), work_units.FileRange("Posts.xml", 0, None, 1), statistics))
    assert statistics.dropped[DAMAGED] == Amount(1, len(rows[2]))


@pytest.mark.parametrize("mark", ["&#x0E;", "&#14;", "&#0;", "&#xD800;", "&#xFFFF;", "&#x110000;", "\x0e", "\0", "\ufffe"])
def test_characters_that_xml_forbids_cost_no_more_than_themselves(gather, tmp_path, mark):
    rows = pairs(22)
    rows[6] = rows[6].replace("question 7", f"que{mark}stion {mark}7&#x41;&#10;")
    found, reasons = gather({"Posts.xml": dump(*rows)}, "stackexchange")
    assert numbers(found) == list(range(1, 44, 2)) and not reasons
    assert texts(found)[3] == "Q: Title\n\nquestion 7A\n\nA: answer 8"
    statistics = Statistics()
    list(stackexchange.read(str(tmp_path / "source" / "Posts.xml"), work_units.FileRange("Posts.xml", 0, None, 1), statistics))
    assert statistics.changed == {xml.REPAIRED: Amount(2, 2 * len(mark.encode()))}


def test_other_character_sets_that_a_dump_declares_are_read(gather):
    rows = [question(1, body="<p>Größe</p>"), answer(2, 1)]
    text = "<posts>" + "".join(rows) + "</posts>"
    for name, data in {
        "a": b'<?xml version="1.0" encoding="iso-8859-1"?>' + text.encode("latin-1"),
        "b": b'<?xml version="1.0" encoding="utf-8"?>' + text.encode(),
        "c": ('<?xml version="1.0" encoding="utf-16"?>' + text).encode("utf-16"),
    }.items():
        found, reasons = gather({f"{name}/Posts.xml": data}, "stackexchange")
        assert texts(found) == ["Q: Title\n\nGröße\n\nA: answer 2"] * len(found) and not reasons


@pytest.mark.parametrize(("name", "compress"), [("a-Posts.xml.bz2", bz2.compress), ("b-Posts.xml.gz", gzip.compress)])
def test_a_compressed_dump_is_told_by_its_content_and_damage_costs_the_rows_of_its_member(gather, name, compress):
    rows, step = pairs(22), 900
    data = dump(*rows)
    packed = [bytearray(compress(data[at : at + step])) for at in range(0, len(data), step)]
    assert numbers(gather({name: b"".join(packed)})[0]) == list(range(1, 44, 2))
    packed[4][-3] ^= 0x10
    found, reasons = gather({name: b"".join(packed)})
    starts = [data.index(one.strip().encode()) for one in rows]
    whole = [start + len(one.strip()) <= 4 * step or start >= 5 * step for start, one in zip(starts, rows, strict=True)]
    assert numbers(found) == [i for i in range(1, 44, 2) if whole[i - 1] and whole[i]] and 15 < len(found) < 22
    assert reasons[DAMAGED] == 1


def test_elements_in_a_row_are_counted_and_not_held(gather):
    nested = b"<row>" + b"<a b='c'>" * 100_000 + b"</a>" * 100_000 + b"</row>"
    declared = b'<row><!DOCTYPE row [<!ATTLIST row Body CDATA "x">]></row>'
    found, reasons = gather({"Posts.xml": b"<posts>" + nested + declared + b"</posts>"}, "stackexchange")
    assert not found and reasons == {DAMAGED: 2}


def test_a_posts_depth_is_its_trees(gather):
    body = html.escape("<div><!--</div>-->" * 20_000)
    rows = f'<row Id="1" PostTypeId="1" Title="T" Body="{body}"/><row Id="2" PostTypeId="2" ParentId="1" Score="1" Body="a"/>'
    found, reasons = gather({"Posts.xml": f"<posts>{rows}</posts>".encode()}, "stackexchange")
    assert not found and reasons == {"nested deeper than 1000": 1, "answer without a question": 1}
