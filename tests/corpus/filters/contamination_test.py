import bz2
import gzip
import json
import lzma
import random

import numpy as np
import opencc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.corpus import rows, tokens
from teleflm_jax.corpus.config import DecontaminateConfig
from teleflm_jax.corpus.filters import contamination
from teleflm_jax.documents.statistics import Amount, Statistics
from teleflm_jax.documents.streams import DAMAGED
from teleflm_jax.errors import UserError

ENGLISH = "Anna has twelve red marbles and gives a third of them to Ben; how many marbles does she keep for herself?"
SHORT = "Which planet has the longest day of all?"  # 8 tokens
CHINESE = "小明有十二个红色的弹珠，他把其中的三分之一送给了小红，请问他自己还剩下多少个弹珠？"
SHORT_CHINESE = "哪颗行星的一天最长？"  # 9 tokens
ITEMS = [ENGLISH, SHORT, CHINESE, SHORT_CHINESE]
FILLER = "\n".join(f"Line {i} of a long document speaks of nothing that anybody would ask. 第{i}行说的是别的事情。" for i in range(60))


def indexed(tmp_path, items=ITEMS, **settings):
    (tmp_path / "items.jsonl").write_text("".join(json.dumps({"question": item}) + "\n" for item in items))
    config = DecontaminateConfig(benchmarks={"quiz": str(tmp_path / "items.jsonl")}, **settings)
    return contamination.index(config), config


def searched(found, config, *texts):
    """Texts that stay, the rows of the list, and the statistics."""
    statistics, listed = Statistics(), []
    documents = [(i, "web", "source", f"origin {i}", "", "", "en", None, text) for i, text in enumerate(texts)]
    batches = contamination.decontaminate(
        statistics.entering(rows.batches(documents, rows.DOCUMENT)), found, statistics, listed, config=config
    )
    return [text for batch in statistics.leaving(batches) for text in batch["text"].to_pylist()], listed, statistics


DISGUISES = {
    "verbatim": str,
    "in capitals": str.upper,
    "between other words": lambda item: f"Question 7: {item} Answer: 8",
    "in other lines": lambda item: item.replace(" ", "\n  ").replace("，", "，\n"),
    "with blanks between Chinese characters": lambda item: item if item.isascii() else " ".join(item),
    "without punctuation": lambda item: "".join(one for one in item if one.isalnum() or one == " "),
    "in traditional characters": opencc.OpenCC("s2t").convert,
    "as Taiwan writes it": opencc.OpenCC("s2tw").convert,
    "in a long document": lambda item: f"{FILLER}\n{item}\n{FILLER}",
}


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("item", ITEMS, ids=["English", "short", "Chinese", "short Chinese"])
def test_items_are_found_however_they_are_written(tmp_path, item, disguise):
    found, config = indexed(tmp_path)
    text = DISGUISES[disguise](item)
    left, [row], statistics = searched(found, config, FILLER, text, FILLER)
    assert left == [FILLER, FILLER] and statistics.dropped == {"benchmark: quiz": Amount(1, len(text.encode()))}
    assert row["id"] == 1 and row["origin"] == "origin 1" and row["benchmark"] == "quiz"
    size = {ENGLISH: 13, CHINESE: 20}.get(item, len(tokens.tokens([item]).hashes))
    assert row["hits"] == len(tokens.tokens([item]).hashes) - size + 1
    in_one_script = contamination.in_one_script
    assert in_one_script([row["text"]]).hashes.tolist() == in_one_script([item]).hashes.tolist()[:size]


@pytest.mark.parametrize("item", [CHINESE, SHORT_CHINESE])
def test_items_in_traditional_characters_are_found_in_simplified_ones(tmp_path, item):
    found, config = indexed(tmp_path, [opencc.OpenCC("s2t").convert(item)], ignored="")
    assert searched(found, config, FILLER, item)[0] == [FILLER]


def test_what_is_ignored_is_ignored_in_either_script(tmp_path):
    (tmp_path / "ignored.txt").write_text(opencc.OpenCC("s2t").convert(CHINESE))
    found, config = indexed(tmp_path, ignored=str(tmp_path / "ignored.txt"))
    assert found.ignored == {"quiz": 1} and searched(found, config, CHINESE)[0] == [CHINESE]


@pytest.mark.parametrize(
    "item, text",
    [
        ("Welche Straße führt am weißen Haus in der Nähe vorbei?", "WELCHE STRASSE FÜHRT AM WEISSEN HAUS IN DER NÄHE VORBEI?"),
        ("Welche Strasse fu\u0308hrt am Haus in der Nähe vorbei?", "welche strasse führt am haus in der nähe vorbei"),
        (
            "Chemistry: what is 12 of the 16 g O2 here?",
            "Ｃｈｅｍｉｓｔｒｙ：ｗｈａｔ　ｉｓ　１２　ｏｆ　ｔｈｅ　１６　ｇ　Ｏ２　ｈｅｒｅ？",
        ),
        ("小明有12个弹珠，给了小红4个，还剩几个？", "小明有１２个弹珠,给了小红４个,还剩几个"),
        ("zero\u200bwidth spaces are in this very item of a benchmark", "zerowidth spaces are in this very item of a benchmark"),
    ],
)
def test_sharp_s_composition_and_full_width_forms_do_not_matter(tmp_path, item, text):
    found, config = indexed(tmp_path, [item])
    assert searched(found, config, FILLER, f"Before. {text} After.")[0] == [FILLER]


LICENCE = (
    "Redistribution and use in source and binary forms, with or without modification, are permitted provided that the conditions are met."
)


def test_phrases_to_be_ignored_are_no_items(tmp_path):
    (tmp_path / "licences.txt").write_text(f"Text of a licence.\n{LICENCE}\n")
    items = [f"{LICENCE} {ENGLISH}", LICENCE, SHORT]
    found, config = indexed(tmp_path, items)
    assert searched(found, config, LICENCE, ENGLISH, SHORT)[0] == []
    found, config = indexed(tmp_path, items, ignored=str(tmp_path / "licences.txt"))
    assert searched(found, config, LICENCE, ENGLISH, SHORT)[0] == [LICENCE]
    assert (found.items, found.too_short, found.ignored) == ({"quiz": 2}, {"quiz": 0}, {"quiz": 1})
    with pytest.raises(UserError, match="1 that decontaminate.ignored has"):
        indexed(tmp_path, [LICENCE], ignored=str(tmp_path / "licences.txt"))


def test_phrases_of_many_documents_are_told(tmp_path):
    found, config = indexed(tmp_path, [LICENCE, ENGLISH, SHORT])
    few, many = contamination.COMMON, contamination.COMMON + 1
    _, listed, _ = searched(found, config, *[f"{i} {LICENCE} {i}" for i in range(many)], *[f"{ENGLISH} {i}" for i in range(few)])
    [(benchmark, phrase, count)] = contamination.common(listed)
    assert (benchmark, count) == ("quiz", many) and phrase.startswith("redistribution and use in source")


def test_a_part_of_an_item_as_long_as_a_gram_is_found_and_a_shorter_one_is_not(tmp_path):
    found, config = indexed(tmp_path)
    words, characters = ENGLISH.split(), CHINESE.replace("，", "").strip("？")
    parts = [
        " ".join(words[4:17]),
        " ".join(words[4:16]),
        characters[5:25],
        characters[5:24],
        " ".join(SHORT.split()[1:]),
        SHORT_CHINESE[1:],
    ]
    left, listed, _ = searched(found, config, *parts)
    assert left == [parts[1], *parts[3:]] and [row["id"] for row in listed] == [0, 2]


def test_items_that_are_too_short_are_counted(tmp_path):
    found, config = indexed(tmp_path, [ENGLISH, "Yes", "", "one two three four five six seven", "一二三四五六七", SHORT])
    assert (found.items, found.too_short) == ({"quiz": 2}, {"quiz": 4})
    found, config = indexed(tmp_path, [ENGLISH, "one two three"], shortest=3)
    assert (found.items, found.too_short) == ({"quiz": 2}, {"quiz": 0})
    assert searched(found, config, "One, two, three!", "one two")[0] == ["one two"]


@pytest.mark.parametrize("item", ITEMS, ids=["English", "short", "Chinese", "short Chinese"])
def test_no_item_is_found_across_the_border_of_two_documents(tmp_path, item):
    found, config = indexed(tmp_path)
    for cut in range(1, len(item)):
        texts = [item[:cut], "", item[cut:]]
        assert searched(found, config, *texts)[0] == [text for text in texts if searched(found, config, text)[0]]
    assert searched(found, config, item[: len(item) // 2], item[len(item) // 2 :])[1] == []


WORDS = st.lists(st.sampled_from(["a", "b", "c", "中"]), max_size=12)


@given(st.lists(WORDS, min_size=1, max_size=4), st.lists(WORDS, max_size=5))
def test_what_is_found_is_what_plain_python_finds(tmp_path_factory, items, texts):
    config = DecontaminateConfig(words=4, characters=5, shortest=2)
    wanted = set()
    for item in [["a", "b"], *items]:
        n = min(len(item), 5 if 2 * item.count("中") > len(item) else 4)
        wanted |= {tuple(item[i : i + n]) for i in range(len(item) - n + 1)} if n >= 2 else set()
    found, _ = indexed(
        tmp_path_factory.mktemp("items"), [" ".join(item) for item in [["a", "b"], *items]], words=4, characters=5, shortest=2
    )
    left, _, _ = searched(found, config, *map(" ".join, texts))
    clean = [text for text in texts if not any(tuple(text[i : i + n]) in wanted for n in range(2, 6) for i in range(len(text) - n + 1))]
    assert left == list(map(" ".join, clean))


def test_cutting_takes_the_lines_of_a_hit_and_keeps_the_rest(tmp_path):
    found, config = indexed(tmp_path, cut=True)
    spread = ENGLISH.replace(" of ", "\nof ").replace("; ", "\n")
    text = f"Before.\nİİ ẞ Q: {spread} A: 8.\nBetween.\nQ: {CHINESE}\nAfter."
    left, [row], statistics = searched(found, config, FILLER, text)
    assert left == [FILLER, "Before.\nBetween.\nAfter."]
    assert row["hits"] == len(tokens.tokens([ENGLISH]).hashes) - 12 + len(tokens.tokens([CHINESE]).hashes) - 19
    assert statistics.changed == {"cut: quiz": Amount(1, len(text.encode()))} and not statistics.dropped


def test_a_document_of_which_cutting_leaves_nothing_is_dropped(tmp_path):
    found, config = indexed(tmp_path, cut=True)
    left, _, statistics = searched(found, config, f"\n{SHORT}\n \n")
    assert left == [] and statistics.dropped == {"nothing left: quiz": Amount(1, len(SHORT) + 4)} and not statistics.changed


def test_hits_are_listed_by_document_and_benchmark(tmp_path):
    for name, items in (("one", [ENGLISH]), ("two", [SHORT, ENGLISH]), ("three", [CHINESE])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    config = DecontaminateConfig(benchmarks={name: str(tmp_path / f"{name}.jsonl") for name in ("one", "two", "three")})
    texts = [SHORT, f"{CHINESE} {SHORT} {SHORT} {ENGLISH}", FILLER, CHINESE]
    left, listed, statistics = searched(contamination.index(config), config, *texts)
    grams = [len(tokens.tokens([ENGLISH]).hashes) - 12, len(tokens.tokens([CHINESE]).hashes) - 19]
    wanted = [(0, "two", 1), (1, "one", grams[0]), (1, "two", 2), (1, "three", grams[1]), (3, "three", grams[1])]
    assert sorted((row["id"], row["benchmark"], row["hits"]) for row in listed) == sorted(wanted)
    assert {row["text"] for row in listed if row["benchmark"] == "two"} == {SHORT.lower().rstrip("?")}
    assert left == [FILLER] and {rule: amount.documents for rule, amount in statistics.dropped.items()} == {
        "benchmark: one": 1,
        "benchmark: two": 1,
        "benchmark: three": 1,
    }


def test_all_strings_of_json_parquet_and_plain_files_count(tmp_path):
    nested = {"id": 7, "a": [{"b": ENGLISH}, None, [[SHORT]]], "c": {"d": CHINESE}}
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(nested, ensure_ascii=False).encode() + b"\n\n")
    (tmp_path / "b.txt").write_text(SHORT_CHINESE)
    pq.write_table(pa.table({"text": ["eight words that stand in a parquet file"]}), tmp_path / "c.parquet")
    config = DecontaminateConfig(benchmarks={"all": str(tmp_path)})
    found = contamination.index(config)
    assert found.items == {"all": 5}
    assert searched(found, config, *ITEMS, "Eight words that stand in a Parquet file.", FILLER)[0] == [FILLER]


def test_a_saved_index_comes_back(tmp_path):
    found, _ = indexed(tmp_path)
    contamination.save(found, tmp_path / "index.npz")
    again = contamination.load(tmp_path / "index.npz")
    assert (again.benchmarks, again.items, again.too_short) == (found.benchmarks, found.items, found.too_short)
    assert set(again.sums) == set(found.sums) == set(again.owners) == {8, 9, 13, 20}
    for n in found.sums:
        assert np.array_equal(again.sums[n], found.sums[n]) and again.sums[n].dtype == np.uint64
        assert np.array_equal(again.owners[n], found.owners[n]) and again.owners[n].dtype == np.int32


def test_without_benchmarks_nothing_is_found(tmp_path):
    config = DecontaminateConfig()
    contamination.save(contamination.index(config), tmp_path / "index.npz")
    assert searched(contamination.load(tmp_path / "index.npz"), config, *ITEMS)[0] == ITEMS


def test_a_large_benchmark_gives_the_same_index_in_groups_of_any_size(tmp_path, monkeypatch):
    draw = random.Random(0)
    items = [" ".join(draw.choices("abcdefgh", k=draw.randrange(30))) for _ in range(50)]
    whole, _ = indexed(tmp_path, items)
    monkeypatch.setattr(contamination, "BATCH_ITEMS", 7)
    grouped, _ = indexed(tmp_path, items)
    assert grouped.items == whole.items and all(np.array_equal(grouped.sums[n], whole.sums[n]) for n in whole.sums)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b'"fine"\noops\n', "not JSON"),
        (b'"\xff\xfe latin"\n', "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b'"too short"\n', "1 texts, none of 8 tokens"),
        (b"", "0 texts"),
        (b"7\n", "0 texts"),
    ],
)
def test_wrong_benchmarks_are_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "items.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        contamination.index(DecontaminateConfig(benchmarks={"quiz": str(path)}))
    message = str(error.value)
    assert words in message and str(path) in message and "decontaminate.benchmarks" in message and "\n" not in message


def found_in(folder, *texts, **settings):
    """Which of the texts hold an item of the benchmark in a folder."""
    config = DecontaminateConfig(benchmarks={"quiz": str(folder)}, **settings)
    left, _, _ = searched(contamination.index(config), config, *texts)
    return [text for text in texts if text not in left]


CELL = 'She said, "how many red marbles are there in the blue bag?"'
PUBLISHED = {
    "gsm8k/test-00000-of-00001.parquet": {"question": [ENGLISH], "answer": [FILLER]},
    "mmlu/test.parquet": {"question": ["?"], "choices": [["a", ENGLISH]]},
    "nested.parquet": {"rows": [{"deep": [{"er": ENGLISH}]}]},
    "HumanEval.jsonl.gz": gzip.compress(json.dumps({"prompt": ENGLISH}).encode()),
    "items.ndjson.zst": zstandard.compress(json.dumps({"prompt": ENGLISH}).encode()),
    "dev.json": json.dumps({"data": [{"paragraphs": [{"qas": [{"question": ENGLISH}]}]}]}, indent=1).encode(),
    "array.json.bz2": bz2.compress(json.dumps([{"question": ENGLISH}]).encode()),
    "high_school_test.csv": f'"{ENGLISH}",12,13,14,15,B\n'.encode(),
    "items.tsv.xz": lzma.compress(f'1\t"quoted\t{ENGLISH}\n'.encode()),
    "items.txt.gz": gzip.compress(ENGLISH.encode()),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_format_of_sources_is_read_beside_others(tmp_path, name):
    (tmp_path / "quiz" / name).parent.mkdir(parents=True)
    (tmp_path / "quiz" / "other.jsonl").write_text(json.dumps(CHINESE) + "\n")
    if isinstance(PUBLISHED[name], dict):
        pq.write_table(pa.table(PUBLISHED[name]), tmp_path / "quiz" / name)
    else:
        (tmp_path / "quiz" / name).write_bytes(PUBLISHED[name])
    assert found_in(tmp_path / "quiz", f"{FILLER[:200]} {ENGLISH}", "nothing of the kind", CHINESE) == [
        f"{FILLER[:200]} {ENGLISH}",
        CHINESE,
    ]


def test_a_cell_of_csv_is_an_item(tmp_path):
    quoted = CELL.replace('"', '""')
    (tmp_path / "a.csv").write_text(f'question,a\n"{quoted}",{SHORT}\n')
    assert found_in(tmp_path, SHORT, CELL, "question a") == [SHORT, CELL]


def test_surrogates_that_stand_alone_do_not_hide_an_item(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(f"\ud800 {ENGLISH}") + "\n")
    assert found_in(tmp_path, ENGLISH) == [ENGLISH]


def test_a_snapshots_benchmark_is_read(tmp_path):
    repository = tmp_path / "datasets--openai--gsm8k"
    (repository / "snapshots" / "f0" / "main").mkdir(parents=True)
    (repository / "blobs").mkdir()
    pq.write_table(pa.table({"question": [ENGLISH]}), repository / "blobs" / "abc")
    (repository / "snapshots" / "f0" / "main" / "test.parquet").symlink_to("../../../blobs/abc")
    assert found_in(repository / "snapshots" / "f0", ENGLISH) == [ENGLISH]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.parquet", b"PAR1 and no more", DAMAGED),
        ("a.jsonl.gz", gzip.compress(json.dumps(ENGLISH).encode(), mtime=0)[:-9], DAMAGED),
        ("a.json", b'{"a": [\n"b"', "not JSON"),
        ("a.zip", b"PK\x03\x04\0\0", "binary"),
        ("a.txt", "grüße".encode("latin-1"), "not UTF-8"),
        ("a.txt.zst", zstandard.compress(b"x" * 1000)[:-5], DAMAGED),
        ("a.csv", b'"' + b"x" * 200_000 + b'"', "not CSV"),
        ("a.warc", b"WARC/1.0\r\n", "web archive"),
    ],
)
def test_a_benchmarks_file_that_cannot_be_read_is_an_error(tmp_path, name, content, reason):
    (tmp_path / "b.jsonl").write_text(json.dumps(ENGLISH) + "\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / ".gitattributes").write_bytes(b"\0\0")
    assert found_in(tmp_path, ENGLISH) == [ENGLISH]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        found_in(tmp_path, ENGLISH)
    assert reason in str(error.value) and str(tmp_path / name) in str(error.value) and "change decontaminate.benchmarks" in str(error.value)
    (tmp_path / name).unlink()
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="symbolic link"):
        found_in(tmp_path, ENGLISH)
