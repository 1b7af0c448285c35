import collections

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.corpus import config, tokens
from teleflm_jax.corpus.filters import rules
from teleflm_jax.errors import UserError

OWN = {"max_braces": 5}
WORDS = "river stone paper light water house music garden winter summer letter window forest bridge island valley market copper".split()
LINES = [
    f"The {one} {WORDS[i - 5]} and {WORDS[i - 7]} have a {WORDS[i - 11]}, {i} of {WORDS[i - 14]} {WORDS[i - 2]} to {WORDS[i - 8]} over."
    for i, one in enumerate(WORDS)
]
PROSE = "\n".join(LINES[:6]) + "\n\n" + "\n".join(LINES[6:])
"""Keeps all rules."""


def measures(text, unspaced=False, stop_words=config.STOP_WORDS["en"]):
    return rules.Measures([text], tokens.tokens([text]), np.array([unspaced]), [frozenset(stop_words)])


def rejection_reason(found, thresholds):
    [reason] = rules.rejection_reasons(found, [thresholds])
    return reason


def numbered(count):
    return " ".join(f"w{i}" for i in range(count))


def repeated(n, times):
    """n words over and over, between words that come once."""
    return " ".join(f"{' '.join(WORDS[:n])} once{i} again{i}" for i in range(times))


BROKEN = {
    "min_units": numbered(49),
    "max_units": numbered(100_001),
    "min_mean_word": "a an of by me " * 20,
    "max_mean_word": "incomprehensibility " * 20,
    "max_unreadable": PROSE + "\ufffd\ufffd",
    "max_lorem_ipsum": PROSE + "\nLorem Ipsum dolor sit amet.",
    "max_symbols": PROSE.replace("over.", "over ## …"),
    "max_bullet_lines": PROSE.replace("The", "- The"),
    "max_ellipsis_lines": PROSE.replace("over.", "over..."),
    "min_lettered_words": PROSE + " 12 34 56 78 90 |" * 10,
    "min_stop_words": numbered(100),
    "min_ended_lines": PROSE.replace("over.", "over"),
    "max_short_lines": PROSE.replace(" ", "\n"),
    "max_newlines": PROSE.replace(" ", "\n"),
    "max_braces": PROSE + "{" * 20,
    "max_duplicate_lines": PROSE + "\nAgain." * 20,
    "max_duplicate_line_characters": PROSE + ("\n" + "A long line that is said over and over again in full length. " * 3) * 5,
    "max_duplicate_paragraphs": PROSE + "\n\nAgain." * 3,
    "max_duplicate_paragraph_characters": PROSE + "\n\n" + PROSE,
    "max_top_2gram": repeated(2, 20),
    "max_top_3gram": repeated(3, 20),
    "max_top_4gram": repeated(4, 20),
} | {f"max_duplicate_{n}gram": repeated(n, 20) for n in range(5, 11)}
KEPT = (
    {name: PROSE for name in rules.RULES}
    | {
        "min_units": numbered(50),
        "max_units": numbered(100_000),
        "min_mean_word": "the cat",
        "max_mean_word": "everything else is here",
        "max_bullet_lines": PROSE.replace("The", "- The", 16),
        "max_ellipsis_lines": PROSE.replace("over.", "over…", 5),
        "max_duplicate_lines": PROSE + "\nAgain." * 5,
        "max_duplicate_paragraphs": PROSE + "\n\nAgain.",
    }
    | {f"max_duplicate_{n}gram": repeated(n - 1, 20) for n in range(6, 11)}
)


@pytest.mark.parametrize("name", rules.RULES)
def test_every_rule_is_kept_by_one_text_and_broken_by_another(name):
    thresholds = {name: (config.RULES | OWN)[name]}
    assert rejection_reason(measures(KEPT[name]), thresholds) == ""
    assert rejection_reason(measures(BROKEN[name]), thresholds) == name


def test_prose_keeps_all_rules():
    assert rejection_reason(measures(PROSE), config.RULES | OWN) == ""


def test_thresholds_are_of_rules_that_there_are():
    assert {*config.RULES, *OWN} == set(rules.RULES)
    assert {*config.UNSPACED_RULES, *config.CODE_RULES} <= set(rules.RULES)


def test_the_first_rule_in_order_is_the_reason():
    both = "word\n" * 10
    assert rejection_reason(measures(both), {"min_units": 50, "max_newlines": 0.3}) == "min_units"
    assert rejection_reason(measures(both), {"max_newlines": 0.3, "min_units": 50}) == "max_newlines"


def test_an_unknown_rule_is_refused_in_one_line():
    rules.refuse_unknown("clean.rules", config.RULES)
    with pytest.raises(UserError, match=r"^got the rule 'min_wrods' in clean\.rules; allowed: min_units, .*; change clean\.rules$"):
        rules.refuse_unknown("clean.rules", {"min_units": 5, "min_wrods": 5})


def test_in_unspaced_text_characters_count():
    text = "今天天气很好，我们去公园散步。" * 8
    found = measures(text, unspaced=True, stop_words=config.STOP_WORDS["zh"])
    assert found.units.tolist() == [13 * 8] and rejection_reason(found, {"min_units": 100, "min_stop_words": 0}) == ""
    assert measures("他的书是新的。", unspaced=True, stop_words=config.STOP_WORDS["zh"]).stop_words_found().tolist() == [2]
    line = "这一行有十二个字以上的内容。"
    assert measures(line, unspaced=True).short_lines().tolist() == [0] and measures(line).short_lines().tolist() == [1]


def test_a_language_without_stop_words_passes():
    assert rejection_reason(measures("", stop_words=()), {"min_stop_words": 2}) == ""


@pytest.mark.parametrize("text", ["", "\n", "…"])
def test_every_rule_measures_a_text_without_words(text):
    for rule in rules.RULES.values():
        rule.measure(measures(text))


LISTS = st.lists(st.sampled_from(["a", "bb", "ccc", "dddd", "中"]), max_size=40)


def grams(words, n):
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


@given(LISTS, st.integers(2, 4))
def test_the_commonest_gram_is_that_of_plain_python(words, n):
    counts = collections.Counter(grams(words, n))
    [(gram, most)] = counts.most_common(1) or [((), 0)]  # of several the first
    wanted = most * sum(map(len, gram)) / max(1, sum(map(len, words))) if most > 1 else 0.0
    assert measures(" ".join(words)).repetitions[n][0] == pytest.approx(wanted)


@given(st.one_of(LISTS, LISTS.map(lambda words: words[:12] * 3)), st.integers(5, 10))
def test_repeated_grams_cover_what_they_cover_in_plain_python(words, n):
    seen, covered = set(), set()
    for i, gram in enumerate(grams(words, n)):
        if gram in seen:
            covered.update(range(i, i + n))
        seen.add(gram)
    wanted = sum(len(words[i]) for i in covered) / max(1, sum(map(len, words)))
    assert measures(" ".join(words)).repetitions[n][0] == pytest.approx(wanted)


TEXTS = st.lists(st.sampled_from([PROSE, *BROKEN.values(), *KEPT.values(), "", "\n", "今天天气很好，我们去公园散步。" * 8]), max_size=6)


@given(TEXTS)
def test_a_text_is_measured_the_same_whatever_stands_beside_it(texts):
    batch = rules.Measures(texts, tokens.tokens(texts), np.zeros(len(texts), bool), [config.STOP_WORDS["en"]] * len(texts))
    together = rules.rejection_reasons(batch, [config.RULES] * len(texts))
    assert together == [rejection_reason(measures(text), config.RULES) for text in texts]


def test_words_are_what_stands_between_blanks():
    found = rules.Measures(["one two\u3000 3", "", " \tvier_ __ 5a\n6"], tokens.tokens(["", "", ""]), np.zeros(3, bool), [()] * 3)
    assert [counts.tolist() for counts in found.words] == [[3, 0, 4], [2, 0, 2]]


def test_a_stop_word_counts_with_punctuation_beside_it_and_a_phrase_only_inside_of_a_text():
    assert measures("(The) cat, and: the dog").stop_words_found().tolist() == [2]
    texts = ["of lorem", "ipsum. Lorem, ipsum; lorem ipsum"]
    assert rules.Measures(texts, tokens.tokens(texts), np.zeros(2, bool), [()] * 2).phrase("lorem ipsum").tolist() == [0, 2]
