"""Merges from counts are those of `tokenizers` on the text that was counted."""

import json
import pathlib
import random

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import layout, merges, train, words

ROOT = pathlib.Path(__file__).resolve().parents[2]


def learn(counted: dict[str, int], num_pieces: int, min_count: int) -> tuple[list[str], list[tuple[str, str]]]:
    pieces, pairs = merges.learn(pa.array(counted), np.array([*counted.values()], np.int64), num_pieces, min_count=min_count)
    names = ["".join(map(layout.byte_character, piece)) for piece in pieces]
    return names, [(names[left], names[right]) for left, right in pairs]


def library(counted: dict[str, int], num_pieces: int, min_count: int) -> tuple[list[str], list[tuple[str, str]]]:
    """The same by `tokenizers`, from a text that has each word as often as it counts."""
    blank = tokenizers.Tokenizer(models.BPE())
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    blank.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split("|", "removed"), bytewise])
    trainer = trainers.BpeTrainer(
        vocab_size=num_pieces, min_frequency=min_count, initial_alphabet=sorted(layout.alphabet()), show_progress=False
    )
    blank.train_from_iterator(["|".join([word] * count) for word, count in counted.items()], trainer)
    model = json.loads(blank.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].__getitem__), [tuple(pair) for pair in model["merges"]]


# Few letters and long words make pieces that can be had of several pairs, pairs that overlap themselves, and ties.
counted = st.dictionaries(st.text("ab", min_size=1, max_size=14) | st.text("abc中", min_size=1, max_size=9), st.integers(1, 5), max_size=40)


@given(counted, st.sampled_from([256, 260, 290, 2000]), st.sampled_from([1, 2, 3]))
@example({"aaaa": 1, "aaaaa": 2}, 2000, 1)
@example({"abab": 2, "bababa": 1, "aab": 4, "abb": 4}, 2000, 1)
def test_merges_and_pieces_are_the_librarys(counted, num_pieces, min_count):
    assert learn(counted, num_pieces, min_count) == library(counted, num_pieces, min_count)


def test_a_case_computed_by_hand():
    # a-b 5 beats b-c 4 and c-d 2. Then b-c, c-d and ab-c tie at 2: b is the lowest id. Of ab-c and bc-d, at 2, ab is the older piece.
    names, pairs = learn({"ab": 3, "abc": 2, "bcd": 2, "x": 9}, 1000, 2)
    assert pairs == [("a", "b"), ("b", "c"), ("ab", "c"), ("bc", "d")]
    assert names[256:] == ["ab", "bc", "abc", "bcd"]


def test_pairs_that_overlap_themselves_are_merged_from_the_left():
    names, pairs = learn({"aaaaa": 2}, 1000, 2)  # aa aa a, where aa-a and aa-aa tie
    assert pairs == [("a", "a"), ("aa", "a"), ("aa", "aaa")] and names[256:] == ["aa", "aaa", "aaaaa"]


def real_texts() -> list[str]:
    pages = [path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]]
    code = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "teleflm_jax" / "tokenizer").glob("*.py"))]
    draw = random.Random(0)
    han = "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其里所"
    chinese = ["".join(draw.choices(han, k=80)) + "，2024 年 3 月 15 日。" for _ in range(60)]
    digits = ["\n".join(f"{draw.randrange(10**6)} + {draw.random():.7f}" for _ in range(50))]
    return [*pages, *code, *chinese, *digits, "", " \n\t ", "e\u0301 \ufeff\u2028 x  \r\n\r\n  y"]


def librarys_tokenizer(texts: list[str], vocab_size: int) -> tuple[dict[str, int], list[list[str]]]:
    """The pieces and merges that `tokenizers` learns from the texts, cut into words by our pattern."""
    blank = tokenizers.Tokenizer(models.BPE())
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    blank.pre_tokenizer = pre_tokenizers.Sequence([words.splitter(), bytewise])
    alphabet = sorted(layout.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + vocab_size - layout.FIRST_PIECE, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    blank.train_from_iterator(texts, trainer)
    model = json.loads(blank.to_str())["model"]
    return {piece: rank - len(alphabet) for piece, rank in model["vocab"].items() if piece not in layout.alphabet()}, model["merges"]


def test_real_text_gives_the_librarys_tokenizer():
    texts = real_texts()
    model = json.loads(train.train(iter(texts), 1500))["model"]
    pieces, merges = librarys_tokenizer(texts, 1500)
    fixed = layout.alphabet() | layout.controls()
    assert {piece: index - layout.FIRST_PIECE for piece, index in model["vocab"].items() if piece not in fixed} == pieces
    assert model["merges"] == merges


def test_neither_the_order_of_words_nor_the_batches_they_were_counted_in_matter():
    texts = real_texts()
    whole = train.train(iter(texts), 1500)
    found = words.gather(words.count(texts, characters=1000))
    assert sorted(found["word"].to_pylist()) == sorted(set(found["word"].to_pylist()))
    assert train.train_counted(found.take(np.random.default_rng(0).permutation(len(found))), 1500) == whole


@pytest.mark.parametrize("word, merges, longest", [("ab" * 1_000_000, 6, 2**6), ("的一是不了人我在有他" * 40_000, 34, 30 * 2**7)])
def test_words_of_megabytes_are_learned_from(word, merges, longest):
    # The library would look through the whole word at each merge: minutes for 120 kB, hours for this.
    model = json.loads(train.train(iter([word]), layout.FIRST_PIECE + merges))["model"]
    assert len(model["merges"]) == merges and max(map(len, model["vocab"])) == longest


def test_too_few_words_say_how_many_pieces_they_yield():
    found = pa.table({"word": ["ab", " ab"], "count": [1, 2]}, schema=words.COUNTS)
    with pytest.raises(UserError, match=r"yields 383 ids; .*vocab_size=1,000"):
        train.train_counted(found, 1000)


def test_no_words_are_too_few():
    with pytest.raises(UserError, match="yields 381 ids"):
        train.train_counted(words.COUNTS.empty_table(), 1000)


def test_more_words_than_places_fit_are_refused(monkeypatch):
    monkeypatch.setattr(merges, "MOST_BYTES", 6)
    with pytest.raises(UserError, match="mix.min_word_count"):
        learn({"abc": 1, "d": 1, "e": 1}, 300, 1)


def test_progress_ends_at_what_was_wanted():
    seen = []
    found = pa.table({"word": ["abcdefgh"], "count": [2]}, schema=words.COUNTS)
    train.train_counted(found, layout.FIRST_PIECE + 7, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(256 + i, 263) for i in range(1, 8)]
