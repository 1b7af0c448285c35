"""Expressions of models pass; those that go back and forth over a text are refused, and what passes is as fast as it says."""

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from teleflm_jax.tokenizer import expressions, patterns, report

OF_MODELS = {
    **patterns.PATTERNS,
    **dict(report.PATTERNS.values()),
    "GPT-2, shorter": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "possessive": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    "DeepSeek-V3": r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "DeepSeek's Han": "[一-龥\u3040-ゟ゠-ヿ]+",
    "DeepSeek's blanks": r"\s+$",
    "digits": r"\p{N}{1,3}",
    "BLOOM": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "Falcon": "[0-9][0-9][0-9]",
    "blanks": " {2,}",
}
SLOW = [
    "(a+)+b",
    "(a|aa)+b",
    "a+a+a+b",
    "a+b",
    "ba*c|a+",
    "a+b|a|a+",
    "x*b|x?|x+",
    r"\s*[\r\n]+",
    r"\s+b|\s+$",
    r"\s*\s*\s*a|\s+",
    "a+(?=b)",
    "a{2,}b",
    "a{0,900}b",
    "a{2,3}+",
    "a{2,3}{5}",
    "a**",
    "a+?b|a+?",
    "a*b|a{,}",
    "(?:a?){30}",
    "a?" * 30 + "a" * 30,
    "(a|a)" * 30 + "b",
    "a{0,9}a{0,9}a{0,9}a{0,9}b",
    r"(.*a){20}",
    r"(?<=a+)b",
    r"(?!a+)b",
    r"(a)\1",
    "(?R)",
    "(?x)a +",
    r"\C-[a+)+]",
    r"[\C-]a+)+]",
    "[]a]+",
    "[a-z",
    "\\",
    "(",
    "[[a]b",
    "a" * 20_000,
]


@pytest.mark.parametrize("name", OF_MODELS)
def test_those_of_models_are_taken(name):
    expressions.refuse(OF_MODELS[name])


@pytest.mark.parametrize("expression", SLOW, ids=range(len(SLOW)))
def test_those_that_go_back_and_forth_are_not(expression):
    with pytest.raises(ValueError, match="an expression"):
        expressions.refuse(expression)


PARTS = st.sampled_from(["a", "b", ".", r"\s", "[ab]", "[^a]", "(?:a|b)", "(?!b)", "(?=[^a])", "ab", "\\.", "$", "[[a]&&[^b]]"])
TIMES = st.sampled_from(["", "", "?", "+", "*", "{1,3}", "{2}", "{2,}", "++", "+?"])
MADE = st.lists(st.lists(st.tuples(PARTS, TIMES).map("".join), min_size=1, max_size=4).map("".join), min_size=1, max_size=4).map("|".join)


@given(MADE, st.sampled_from(["a", "b", "ab", " ", "ab "]))
def test_the_engine_never_reaches_its_limit_with_one_that_is_taken(expression, text):
    """Its limit is ten million tries from one character; a run of so many characters would reach it where tries multiply."""
    try:
        expressions.refuse(expression)
    except ValueError:
        return
    cut = pre_tokenizers.Split(tokenizers.Regex(expression), "isolated")
    assert "".join(word for word, _ in cut.pre_tokenize_str(text * 5_000)) == text * 5_000
