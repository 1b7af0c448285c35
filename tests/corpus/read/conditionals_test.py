import time

import pytest

from teleflm_jax.corpus.read.latex import conditionals


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (r"A\iffalse B\fi C", "A C"),
        ("One.\n\\iffalse\nDraft.\n\n\\fi\nTwo.", "One.\nTwo."),
        (r"\iffalse a\else b\fi", " b"),
        (r"\iftrue a\else b\fi c", " a c"),
        (r"\iffalse a\ifx\b\c d\else e\fi f\fi g", " g"),
        (r"\iffalse a \iffalse b\fi c\fi d", " d"),
        (r"\iffalse $a \iff b$, \ifthenelse{a}{b}{c} \fi d", " d"),
        (r"$a \iff b$ \ifthenelse{a}{b}{c}", r"$a \iff b$ \ifthenelse{a}{b}{c}"),
        (r"\ifx\a\b c\else d\fi", r"\ifx\a\b c\else d\fi"),
        (r"\ifx\a\b c\iffalse d\fi\else e\fi", r"\ifx\a\b c\else e\fi"),
        ("\\if0 hidden\\fi shown", " shown"),
        ("\\if01 hidden\\else seen\\fi", " seen"),
        (r"\if0\x unknown\fi", r"\if0\x unknown\fi"),
        (r"\newif\ifdraft \ifdraft a\else b\fi", r"\newif\ifdraft  b"),
        (r"\newif\ifdraft\drafttrue \ifdraft a\else b\fi \draftfalse\ifdraft c\fi", r"\newif\ifdraft\drafttrue  a \draftfalse"),
        (r"\newif\ifdraft\iffalse\drafttrue\fi\ifdraft a\fi", r"\newif\ifdraft"),
        (r"A \iffalse without an end", r"A \iffalse without an end"),
        (r"A \fi B \else C", r"A \fi B \else C"),
        (r"\verb|\iffalse| A \verb|\fi|", r"\verb|\iffalse| A \verb|\fi|"),
        ("a\\iftrue\\iffalse x\\fi\\fi\nb", "a\nb"),
    ],
)
def test_what_is_not_typeset_is_left_out(text, kept):
    assert conditionals.without_dead_branches(text) == kept


@pytest.mark.parametrize("part", [r"\iffalse ", r"\ifx ", r"\fi ", r"\iffalse\else ", r"\newif\ifa\ifa", "\\iffalse\n\\fi\n"])
def test_many_conditionals_take_time_in_proportion(part):
    start = time.process_time()
    conditionals.without_dead_branches(part * 100_000)
    assert time.process_time() - start < 10  # two seconds; the square would be hours
