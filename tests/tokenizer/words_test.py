"""Words and their counts: the library's cut, whatever segments a text is cut into first."""

import collections

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from teleflm_jax.tokenizer import patterns, words


def cut(text: str, pattern: str = patterns.TELEFLM) -> list[str]:
    return [word for word, _ in words.splitter(pattern).pre_tokenize_str(text)]


def total(batches) -> collections.Counter[str]:
    found = collections.Counter()
    for batch in batches:
        for row in batch.to_pylist():
            found[row["word"]] += row["count"]
    return found


parts = [*" \n\r\t_'(-a1中é", "\u0301", "\u3000", "\x1c", "\x85", "\u180e", "  ", "\r\n", "ab c", ").\n"]
tricky = st.lists(st.sampled_from(parts)).map("".join)


@given(tricky | st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 8), st.sampled_from(list(patterns.PATTERNS.values())))
@example("x)\n\n   y", 1, patterns.TELEFLM)
@example("a \x1c\n\x1cb", 1, patterns.TELEFLM)
def test_segments_change_no_word(text, length, pattern):
    pieces = list(words.segments(text, length, longest=10**6))
    assert "".join(pieces) == text
    assert [word for piece in pieces for word in cut(piece, pattern)] == cut(text, pattern)


def test_patterns_cut_where_they_say():
    text = "if x:\n    don't 中文abc 42"
    assert cut(text, patterns.TELEFLM) == ["if", " x", ":\n   ", " don", "'t", " ", "中文", "abc", " ", "4", "2"]
    assert cut(text, patterns.QWEN2) == ["if", " x", ":\n", "   ", " don", "'t", " 中文abc", " ", "4", "2"]
    assert cut("'sound", patterns.QWEN2) == ["'s", "ound"] and cut("'ſound", patterns.QWEN2) == ["'ſound"]


def test_a_segment_without_a_safe_place_is_cut_all_the_same():
    assert list(map(len, words.segments("中" * 25, 4, longest=10))) == [10, 10, 5]
    assert list(words.segments("中文" * 4 + " " + "字" * 8, 4, longest=10)) == ["中文" * 4, " " + "字" * 8]


@given(st.lists(tricky, max_size=8), st.integers(1, 30))
def test_counts_are_those_of_all_texts_in_any_batches(texts, characters):
    batches = list(words.count(texts, characters=characters))
    assert total(batches) == collections.Counter(word for text in texts for word in cut(text))
    assert all(batch.schema == words.COUNTS and batch.num_rows for batch in batches)


def test_memory_is_bounded_by_batches():
    texts = [f"word{chr(97 + i)} " * 10 for i in range(20)]
    assert max(batch.num_rows for batch in words.count(texts, characters=120)) <= 3 * 2  # texts of 60 characters; with and without a space


def test_a_lone_surrogate_raises():
    with pytest.raises(UnicodeEncodeError):
        list(words.count(["a \ud800"]))


def test_a_table_is_the_same_however_its_rows_lie_in_files(tmp_path):
    rows = [{"word": word, "count": i} for i, word in enumerate(["b", "a", "中", " a", "é"], 1)]
    for name, groups in (("one", [rows]), ("two", [rows[3:], rows[:3]]), ("other", [[*rows[:4], {"word": "é", "count": 6}]])):
        (tmp_path / name).mkdir()
        for i, group in enumerate(groups):
            pq.write_table(pa.Table.from_pylist(group, words.COUNTS), tmp_path / name / f"{i}.parquet")
    one, two, other = (words.load(tmp_path / name) for name in ("one", "two", "other"))
    assert one.equals(two) and one["word"].to_pylist() == sorted(row["word"] for row in rows)
    assert words.digest(one) == words.digest(two) != words.digest(other)
