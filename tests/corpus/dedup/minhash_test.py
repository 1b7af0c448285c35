import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.corpus import tokens
from teleflm_jax.corpus.dedup import minhash

SETTINGS = {"shingle_tokens": 3, "bands": 20, "rows": 6, "seed": 0}
PAIRS, SHINGLES = 200, 300


def buckets(texts, **changed):
    return minhash.buckets(tokens.tokens(texts), **SETTINGS | changed)


def pairs(jaccard):
    """Texts of random words, two and two with the same beginning, and the exact similarity of their sets of shingles."""
    draw = random.Random(7)
    common = round(2 * SHINGLES * jaccard / (1 + jaccard))
    texts = []
    for _ in range(PAIRS):
        words = [f"{draw.getrandbits(40):x}" for _ in range(common + 2 + 2 * (SHINGLES - common))]
        shared, own = words[: common + 2], words[common + 2 :]
        texts += [" ".join(shared + own[: SHINGLES - common]), " ".join(shared + own[SHINGLES - common :])]
    return texts, common / (2 * SHINGLES - common)


def exact(first, second):
    one, other = ({tuple(words[i : i + 3]) for i in range(len(words) - 2)} for words in (first.split(), second.split()))
    return len(one & other) / len(one | other)


@pytest.mark.parametrize("jaccard", [0.5, 0.8, 0.9])
def test_pairs_share_values_and_buckets_as_often_as_their_similarity_says(jaccard):
    texts, similarity = pairs(jaccard)
    assert exact(*texts[:2]) == pytest.approx(similarity) == pytest.approx(jaccard, abs=0.005)
    values, _ = buckets(texts, bands=120, rows=1)
    deviation = math.sqrt(similarity * (1 - similarity) / values[::2].size)
    assert np.mean(values[::2] == values[1::2]) == pytest.approx(similarity, abs=4 * deviation)  # 24,000 draws, four deviations
    found, _ = buckets(texts)
    wanted = 1 - (1 - similarity**6) ** 20
    deviation = math.sqrt(wanted * (1 - wanted) / PAIRS)
    assert np.mean((found[::2] == found[1::2]).any(axis=1)) == pytest.approx(wanted, abs=4 * deviation + 1 / PAIRS)


def test_texts_without_a_word_in_common_share_no_bucket():
    found, _ = buckets(pairs(0)[0])
    assert len(np.unique(found)) == found.size


TEXTS = st.lists(
    st.one_of(st.just(""), st.just("…"), st.lists(st.sampled_from(["a", "b", "cd", "中"]), max_size=9).map(" ".join)), max_size=8
)


@given(TEXTS, st.sampled_from([1, 2, 5]), st.sampled_from([3, 1 << 13]))
def test_neighbours_in_the_batch_do_not_matter(texts, n, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minhash, "CHUNK", chunk)
        found, filled = buckets(texts, shingle_tokens=n)
    assert found.shape == (len(texts), 20) and found.dtype == np.int64
    for i, text in enumerate(texts):
        alone, has = buckets([text], shingle_tokens=n)
        assert alone[0].tolist() == found[i].tolist() and has[0] == filled[i] == any(map(str.isalnum, text))


@given(TEXTS)
def test_equal_sets_of_shingles_lie_in_equal_buckets(texts):
    batch = tokens.tokens(texts)
    found, filled = buckets(texts)
    sets = {tuple(tokens.shingles(batch, i, 3).tolist()): tuple(row.tolist()) for i, row in enumerate(found) if filled[i]}
    for i, row in enumerate(found):
        assert not filled[i] or tuple(row.tolist()) == sets[tuple(tokens.shingles(batch, i, 3).tolist())]


def test_texts_without_tokens_are_named_and_lie_nowhere():
    found, filled = buckets(["", "word", "… !"])
    assert filled.tolist() == [False, True, False] and not found[[0, 2]].any() and found[1].all()


def test_another_seed_chooses_other_buckets():
    texts, _ = pairs(0.9)
    assert np.array_equal(buckets(texts)[0], buckets(texts)[0])
    assert not (buckets(texts)[0] == buckets(texts, seed=1)[0]).any()


def test_a_text_in_every_band_lies_in_another_bucket():
    found, _ = buckets(["one two three four five"])
    assert len(set(found[0].tolist())) == 20
