import itertools
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.corpus import tokens

ALPHABET = "aAbBzZßİΣσς0٣9 \n\t.,-_'é\u0301\u0308中文字のカー・ｶไก。！𠀀ѣЯ😀"
# joined from lists, since st.text draws from a union of alphabets as from one, where these would be rare
TEXTS = st.lists(st.lists(st.one_of(st.sampled_from(ALPHABET), st.characters()), max_size=30).map("".join), max_size=6)
OTHER, WORD, SINGLE = tokens.OTHER, tokens.WORD, tokens.SINGLE


def is_single(character):
    return tokens.classes()[ord(character)] == SINGLE


def cut(text):
    """(start, token) of a text, one character after the other."""
    found, inside = [], False
    for i, character in enumerate(text.lower()):
        counts = unicodedata.category(character)[0] in "LMN"
        if counts and inside and not is_single(character):
            found[-1] = (found[-1][0], found[-1][1] + character)
        elif counts:
            found.append((i, character))
        inside = counts and not is_single(character)
    return found


def words(text):
    return [token for _, token in cut(text)]


def hashes_of(text):
    return tokens.tokens([text]).hashes.tolist()


@given(TEXTS)
def test_texts_are_cut_where_plain_python_cuts_them(texts):
    found = tokens.tokens(texts)
    borders = list(itertools.accumulate(map(len, map(str.lower, texts)), initial=0))
    wanted = [[(borders[i] + start, token) for start, token in cut(text)] for i, text in enumerate(texts)]
    whole = "".join(map(str.lower, texts))
    got = [(start, whole[start : start + size]) for start, size in zip(found.starts.tolist(), found.lengths.tolist(), strict=True)]
    assert [got[found.of(i)] for i in range(len(texts))] == wanted and len(got) == sum(map(len, wanted))
    assert found.single.tolist() == [is_single(token[0]) for _, token in got]
    assert len(found.offsets) == len(texts) + 1 and len(found.hashes) == len(got)


@given(TEXTS)
def test_hashes_are_equal_where_tokens_are(texts):
    hashes = tokens.tokens(texts).hashes.tolist()
    named = [token for text in texts for token in words(text)]
    assert len(set(zip(hashes, named, strict=True))) == len(set(named)) == len(set(hashes))


@given(TEXTS)
def test_neighbours_in_the_batch_do_not_matter(texts):
    found = tokens.tokens(texts)
    for i, text in enumerate(texts):
        alone = tokens.tokens([text])
        at = found.of(i)
        assert alone.hashes.tolist() == found.hashes[at].tolist() and alone.lengths.tolist() == found.lengths[at].tolist()


@pytest.mark.parametrize(
    ("characters", "kind"), [("中のカーｶ々〇ไกကກཀក𠀀豈", SINGLE), ("aЯ٣é7²한ᄀ\u0301", WORD), ("・。！ \n\u200b_-😀⺀", OTHER)]
)
def test_classes_by_hand(characters, kind):
    assert [tokens.classes()[ord(character)] for character in characters] == [kind] * len(characters)


def test_letters_digits_and_marks_of_unicode_count_and_nothing_else():
    table = tokens.classes()
    counts = [unicodedata.category(chr(i))[0] in "LMN" for i in range(0x110000)]
    assert ((table != OTHER) == counts).all()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("It's 3.5 km_h", ["it", "s", "3", "5", "km", "h"]),
        ("我爱Python3编程！", ["我", "爱", "python3", "编", "程"]),
        ("カタカナとひら", ["カ", "タ", "カ", "ナ", "と", "ひ", "ら"]),
        ("cafe\u0301 naïve", ["cafe\u0301", "naïve"]),
        ("한국어 텍스트", ["한국어", "텍스트"]),
        ("…— \n", []),
        ("", []),
    ],
)
def test_tokens_by_hand(text, wanted):
    found = tokens.tokens([text])
    lowered = text.lower()
    assert [lowered[start : start + size] for start, size in zip(found.starts, found.lengths, strict=True)] == wanted == words(text)


def spread(value):
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        value = (value ^ value >> shift) * factor % 2**64
    return value


@given(st.text(st.sampled_from("abzéя"), min_size=1, max_size=8))
def test_hashes_are_the_same_on_every_machine(word):
    powers = [pow(0x9E3779B97F4A7C15, i, 2**64) for i in range(len(word))]
    wanted = spread(sum(spread(ord(one)) * power for one, power in zip(word, powers, strict=True)) % 2**64)
    assert hashes_of(word) == [wanted]


def test_case_spaces_and_punctuation_do_not_count():
    assert hashes_of("The cat, the CAT!") == hashes_of("the\n\ncat — “THE” cat")
    assert hashes_of("今天 天气，很 好") == hashes_of("今天天气很好。")
    assert hashes_of("ice cream") != hashes_of("icecream")


@given(st.lists(st.sampled_from(["a", "b", "ab", "中"]), max_size=20), st.integers(1, 8))
def test_grams_are_equal_where_tuples_of_tokens_are(named, n):
    found = tokens.grams(tokens.tokens([" ".join(named)]).hashes, n).tolist()
    tuples = [tuple(named[i : i + n]) for i in range(len(named) - n + 1)]
    assert len(found) == len(tuples)
    assert len(set(zip(found, tuples, strict=True))) == len(set(tuples)) == len(set(found))


@given(st.integers(0, 40), st.sets(st.integers(1, 20)))
def test_windows_are_the_sums_of_every_size(count, sizes):
    hashes = tokens.tokens([" ".join(map(str, range(count)))]).hashes
    found = dict(tokens.windows(hashes, sorted(sizes)))
    assert found.keys() == sizes
    for n, sums in found.items():
        assert np.array_equal(sums, tokens.sums(hashes, n)) and np.array_equal(tokens.mix(sums.copy()), tokens.grams(hashes, n))


def test_grams_leave_the_hashes_alone():
    hashes = tokens.tokens(["one two three"]).hashes
    before = hashes.copy()
    for n in (1, 2, 3, 4):
        tokens.grams(hashes, n)
    assert np.array_equal(hashes, before)


@given(st.lists(st.lists(st.sampled_from("xyz"), max_size=12), min_size=1, max_size=4), st.integers(1, 6))
def test_shingles_are_a_sorted_set_and_short_texts_are_one(lists, n):
    found = tokens.tokens([" ".join(named) for named in lists])
    for i, named in enumerate(lists):
        shingles = tokens.shingles(found, i, n).tolist()
        size = min(n, len(named))
        assert shingles == sorted(set(shingles))
        assert len(shingles) == (len({tuple(named[j : j + size]) for j in range(len(named) - size + 1)}) if named else 0)


def test_a_batch_without_texts_has_no_tokens():
    for texts in ([], ["", ""]):
        found = tokens.tokens(texts)
        assert len(found.hashes) == len(found.starts) == len(found.lengths) == 0 and found.offsets.tolist() == [0] * (len(texts) + 1)


def test_simplified_forms_by_hand():
    table = tokens.simplified_forms()
    pairs = zip("個學國發髮後后裡薴中a々カ", "个学国发发后后里苎中a々カ", strict=True)
    assert all(chr(table[ord(old)]) == new for old, new in pairs)
    assert (table[table] == table).all() and table.dtype == np.uint32


@given(st.lists(st.tuples(st.text(st.sampled_from("個个學学 ab，"), max_size=8), st.booleans()), max_size=5))
def test_texts_are_simplified_each_by_itself_and_nothing_else_changes(marked):
    texts = [text for text, _ in marked]
    found = tokens.tokens(texts, [simplified for _, simplified in marked])
    wanted = tokens.tokens([text.translate(str.maketrans("個學", "个学")) if simplified else text for text, simplified in marked])
    plain = tokens.tokens(texts)
    assert found.hashes.tolist() == wanted.hashes.tolist()
    assert found.starts.tolist() == plain.starts.tolist() and found.offsets.tolist() == plain.offsets.tolist()


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40), st.lists(st.integers(0, 40), min_size=2, max_size=8))
def test_runs_are_hashed_by_what_is_in_them_wherever_they_are(values, borders):
    borders = sorted({border for border in borders if border < len(values)} | {len(values)})
    values, starts, ends = np.array(values, np.uint64), np.array(borders[:-1], np.int64), np.array(borders[1:], np.int64)
    inside = (values[start:end].tolist() for start, end in zip(starts, ends, strict=True))
    sums = [sum(value * 12345677**place for place, value in enumerate(run)) % 2**64 for run in inside]
    alone = tokens.mix(np.array(sums, np.uint64)).tolist()
    assert tokens.runs(values, starts, ends, 12345677).tolist() == alone
    far = np.concatenate([np.ones(100_003, np.uint64), values])
    assert tokens.runs(far, starts + 100_003, ends + 100_003, 12345677).tolist() == alone
