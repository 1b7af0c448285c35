"""Planted near-duplicates in real text: that the truth is true, and that the stage finds it. Those of 50,000: docs/corpus.md."""

import itertools
import pathlib
import random
import sysconfig

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import duplicates, near_copies
from teleflm_jax.corpus import tokens
from teleflm_jax.corpus.config import DuplicateConfig

TEXTS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=14).map(" ".join), max_size=8)


@given(TEXTS, st.sampled_from([0.5, 0.7, 0.8, 1.0]))
def test_all_pairs_are_found_and_no_other(texts, threshold):
    exact = near_copies.Exact([near_copies.Passage("en", text) for text in texts])
    sets = [near_copies.shingles(text, "en") for text in texts]
    wanted = {(a, b): len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a, b in itertools.combinations(range(len(texts)), 2)}
    assert exact.pairs(threshold) == {pair: similarity for pair, similarity in wanted.items() if similarity >= threshold}


# joined from lists, since st.text draws from a union of alphabets as from one, where these would be rare
@given(st.lists(st.one_of(st.sampled_from("aB9 .é中個ก\n"), st.characters(exclude_categories=["Cs"])), max_size=40).map("".join))
def test_plain_words_are_what_the_corpus_counts(text):
    for language in ("en", "zh"):
        assert len(near_copies.words(text, language)) == len(tokens.tokens([text]).hashes)
    assert near_copies.words("個個 The cat", "zh") == ["个", "个", "the", "cat"] != near_copies.words("個個 The cat", "en")


def test_components_by_hand():
    assert near_copies.groups(7, [(5, 1), (1, 3), (6, 2)]) == [[1, 3, 5], [2, 6]]


@pytest.mark.corpus
def test_the_stage_finds_what_is_planted_and_nothing_else(tmp_path):
    pytest.importorskip("pyspark", reason="requirements-corpus.txt is not installed")
    from teleflm_jax.corpus import spark

    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    modules = [path.read_text("utf-8", "replace") for path in sorted(library.glob("*.py"))]
    passages = [near_copies.Passage("code", text) for module in modules for text in near_copies.cut(module, "code")]
    documents = near_copies.add_near_copies(random.Random(0).sample(passages, 1800), 3000, 0)
    exact = near_copies.Exact(documents)
    truth = exact.pairs(0.8)
    assert sum(exact.similarity(i, document.of) < 0.8 for i, document in enumerate(documents) if document.of >= 0) > 300
    session = spark.session("local[2]", tmp_path / "spark")
    try:
        duplicates.deduplicated(session, tmp_path, documents, DuplicateConfig())
    finally:
        session.stop()
    found = duplicates.answer(tmp_path)
    judged = duplicates.judged(documents, truth, found.links)
    assert judged["precision"] == 1 and judged["recall"] >= 0.99 and len(truth) > 500
    kept = set(range(len(documents))) - found.kept_for.keys()
    assert len(kept) == len(documents) - sum(len(group) - 1 for group in near_copies.groups(len(documents), found.links))
