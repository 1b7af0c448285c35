"""Work per partition of the search for duplicates; the Spark part is in pipeline_test.py."""

import random

import numpy as np

from teleflm_jax.corpus import rows
from teleflm_jax.corpus.config import DuplicateConfig
from teleflm_jax.corpus.dedup import duplicates
from teleflm_jax.documents.statistics import Statistics

CONFIG = DuplicateConfig()


def batch(texts, language="en"):
    return rows.batches([(i, "web", "s", f"o{i}", "f", "", language, None, text) for i, text in enumerate(texts)], rows.DOCUMENT)


def signed(texts, language="en", config=CONFIG):
    return [row for found in duplicates.signatures(batch(texts, language), priority=3, config=config) for row in found.to_pylist()]


def words(generator, count):
    return [generator.choice("abcdefghijklmnopqrstuvwxyz") + str(generator.randrange(500)) for _ in range(count)]


def brute(one: str, other: str) -> float:
    sets = []
    for text in (one, other):
        partitions = text.split()
        sets.append({tuple(partitions[i : i + 5]) for i in range(len(partitions) - 4)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_shingle_sets_give_the_exact_similarity():
    generator = random.Random(0)
    for changed in (1, 3, 10):
        one = words(generator, 150)
        other = [generator.choice(("x", "y")) + word if generator.random() < changed / 50 else word for word in one]
        texts = [" ".join(one), " ".join(other)]
        [found] = duplicates.shingle_sets(batch(texts), frozenset((0, 1)), config=CONFIG)
        a, b = (set(row["shingles"]) for row in found.to_pylist())
        assert len(a & b) / len(a | b) == brute(*texts)


def test_copies_have_one_hash_whatever_their_case_and_spaces():
    one, other, third = signed(["One text, of a few words.", "one  TEXT of a\nfew words", "one text of a few word"])
    assert one["whole"] == other["whole"] != third["whole"] and one["buckets"] == other["buckets"]
    assert one["priority"] == 3 and one["shingles"] == 2 and one["length"] == len("One text, of a few words.")


def test_a_document_is_signed_alike_in_any_batch():
    texts = [" ".join(words(random.Random(i), 40)) for i in range(30)]
    whole = signed(texts)
    for i in (0, 13, 29):
        assert {**signed([texts[i]])[0], "id": i} == whole[i]


def test_texts_without_tokens_and_code_that_is_exempt_take_no_part():
    assert [row["id"] for row in signed(["...", "a b", "  "])] == [1]
    assert signed(["x = 1"], "code", DuplicateConfig(code=False)) == [] and len(signed(["x = 1"], "code")) == 1


def test_only_wanted_documents_give_their_shingles():
    found = list(duplicates.shingle_sets(batch(["a b c d e f", "g h", "i j k l m n o"]), frozenset((2,)), config=CONFIG))
    assert [row["id"] for one in found for row in one.to_pylist()] == [2]
    assert [len(row["shingles"]) for one in found for row in one.to_pylist()] == [3]


def test_duplicates_go_and_are_counted_by_kind_and_cluster():
    statistics = Statistics()
    gone = {
        i: {"kept": kept, "exact": exact, "size": 3} for i, (kept, exact) in enumerate([(0, True), (0, False), (-9, True), (-9, False)], 1)
    }
    left = [
        text for found in duplicates.without(batch(["a", "a", "ab", "c", "cd"]), gone, statistics) for text in found["text"].to_pylist()
    ]
    rules = ("copy", "near-duplicate", "copy of an earlier corpus", "near-duplicate of an earlier corpus")
    assert left == ["a"] and {rule: one.documents for rule, one in statistics.dropped.items()} == dict.fromkeys(rules, 1)
    assert statistics.distributions["documents in a cluster"] == {"3": 4}


def test_both_chinese_scripts_give_one_signature_and_one_set_of_shingles_and_other_languages_do_not():
    texts = ["我們去圖書館學習，今天天氣很好。", "我们去图书馆学习，今天天气很好。"]
    for language, config, alike in (("zh", CONFIG, True), ("zh", DuplicateConfig(simplify_chinese=False), False), ("ja", CONFIG, False)):
        one, other = signed(texts, language, config)
        assert (one["whole"] == other["whole"]) == (one["buckets"] == other["buckets"]) == alike
        [found] = duplicates.shingle_sets(batch(texts, language), frozenset((0, 1)), config=config)
        assert (found["shingles"][0] == found["shingles"][1]) == alike


def test_buckets_of_similar_texts_meet_and_of_others_do_not():
    generator = random.Random(5)
    base = words(generator, 300)
    near = [*base[:150], "changed", *base[151:]]
    one, other, far = signed([" ".join(base), " ".join(near), " ".join(words(generator, 300))])
    assert np.intersect1d(one["buckets"], other["buckets"]).size > 10 and not np.intersect1d(one["buckets"], far["buckets"]).size
