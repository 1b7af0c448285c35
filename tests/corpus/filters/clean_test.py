import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.corpus import config, rows
from teleflm_jax.corpus.config import CleanConfig
from teleflm_jax.corpus.filters import clean
from teleflm_jax.documents.statistics import Amount, Statistics, total

BARE = {"rules": {}, "unspaced_rules": {}, "code_rules": {}}
ENGLISH = "The harbour was quiet that morning, and the boats that had come in with the tide were being unloaded by the men of the village."
CHINESE = "今天早上港口很安静，随着潮水进来的船只正在由村里的人们卸货，孩子们在岸边看着他们工作。"


def batches(*documents):
    """Of (text, language before cleaning, domain)."""
    found = [(i, domain, "source", f"origin {i}", "", "", language, None, text) for i, (text, language, domain) in enumerate(documents)]
    return list(rows.batches(found, rows.DOCUMENT))


def cleaned(*documents, **settings):
    """Texts that stay, their languages, and the statistics."""
    statistics = Statistics()
    found = list(statistics.leaving(clean.clean(statistics.entering(batches(*documents)), statistics, config=CleanConfig(**settings))))
    texts, languages = ([value for batch in found for value in batch[name].to_pylist()] for name in ("text", "language"))
    return texts, languages, statistics


def text_of(text, **settings):
    return cleaned((text, "", "web"), **BARE | settings)[0]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("one\r\ntwo\rthree\u2028four", "one\ntwo\nthree\nfour"),
        ("Cafe\u0301", "Café"),
        ("\ufeffzero\u200bwidth so\u00adft \x00\x07bell", "zerowidth soft bell"),
        ("a\u00a0b\u2009c  \t\u3000\nd", "a b c\nd"),
        ("\n\none\n \n\n\n\ntwo\n", "one\n\ntwo"),
        ("　　全角缩进，不动", "　　全角缩进，不动"),
        ("ＡＢＣ ﬁ ½", "ＡＢＣ ﬁ ½"),
        ("    indented\tas it was", "    indented\tas it was"),
        ("", ""),
    ],
)
def test_uniform_by_hand(text, wanted):
    assert clean.normalize(text) == wanted


@pytest.mark.parametrize("marks", ["\u0323\u0301", "\u0316\u0301", "\u05b0\u05b1", "\u0f71\u0f72"])
def test_long_runs_of_marks_are_divided_as_uax_15_divides_them(marks):
    """In order, which takes the square of a run's length, and so minutes for these."""
    text = clean.normalize("ab€" + marks[::-1] * 200_000 + "c")
    parts = text[3:-1].split(clean.JOINER)
    assert (text[:3], text[-1]) == ("ab€", "c") and {len(part) for part in parts[:-1]} == {30} and len(parts) == 13_334
    assert parts[0] == marks[0] * 15 + marks[1] * 15 and parts[-1] == marks[0] * 5 + marks[1] * 5
    assert unicodedata.is_normalized("NFC", text) and clean.normalize(text) == text


def test_divided_runs_are_counted_and_short_ones_stay():
    short, long = (f"{ENGLISH}€" + "\u0323\u0301" * pairs for pairs in (15, 16))
    texts, _, statistics = cleaned((short, "", "web"), (long, "", "web"), (f"{long}\u034f", "", "web"), **BARE)
    assert [text.count("\u034f") for text in texts] == [0, 1, 2]
    assert statistics.changed == {clean.JOINED: Amount(2, 4)}


MENDED = [
    "schön, “quoted” – Straße… Å à í",
    "Это предложение, «в кавычках».",
    "这是一个中文句子，用来测试。",
    "Żółć gęślą jaźń",
    "a\u200bb “x”",
]


@pytest.mark.parametrize("text", MENDED)
def test_utf8_that_was_read_as_latin_1_is_mended(text):
    assert clean.normalize(text.encode().decode("latin-1")) == clean.normalize(text)


def test_quotes_of_windows_are_mended_and_right_text_is_left_alone():
    assert clean.normalize("a \x93quoted\x94 word\x85") == "a “quoted” word…"
    assert clean.normalize("schÃ¶n â€” wirklich") == "schön — wirklich"
    for text in MENDED[:-1] + [ENGLISH, CHINESE, "SÃO PAULO", "naïve façade, 50 €"]:
        assert clean.normalize(text) == text


# joined from lists, since st.text draws from a union of alphabets as from one, where these would be rare
SPECIAL = st.sampled_from("ab \n\r\t\x00\x0b\u2028\u00a0\u3000\u00ad\u200b\ufeffe\u0301é한\u1100\u1161中。")
GAPS, NO_SURROGATES = st.sampled_from(" \t\u3000\n"), st.characters(exclude_categories=["Cs"])
BEYOND_BYTES = st.characters(min_codepoint=0x100)  # noise of bytes looks like text that was decoded wrongly, again and again


@given(st.lists(st.one_of(SPECIAL, BEYOND_BYTES), max_size=40).map("".join))
def test_uniform_text_stays_as_it_is(text):
    once = clean.normalize(text)
    assert clean.normalize(once) == once


@given(st.lists(st.tuples(st.lists(st.one_of(SPECIAL, GAPS, NO_SURROGATES), max_size=40).map("".join), st.booleans()), max_size=5))
def test_a_batch_is_made_uniform_as_each_text_is(rows):
    texts, codes = [text for text, _ in rows], [is_code for _, is_code in rows]
    texts += [text.encode().decode("latin-1") for text in texts]  # decoded wrongly
    found = clean.normalize_texts(pa.array(texts, pa.string()), codes * 2)
    assert found == [clean.normalize(text, is_code=is_code) for text, is_code in zip(texts, codes * 2, strict=True)]


@given(st.lists(st.one_of(SPECIAL, st.characters()), max_size=40).map("".join))
def test_uniform_code_stays_as_it_is(text):
    once = clean.normalize(text, is_code=True)
    assert clean.normalize(once, is_code=True) == once and "\r" not in once and once.endswith("\n")


def test_of_code_line_ends_and_control_characters_alone_change():
    code = 'def f():\r\n\tx = "e\u0301\u00a0schÃ¶n"   \r\n\r\n\r\n\r\n    return x\x00'
    assert clean.normalize(code, is_code=True) == 'def f():\n\tx = "e\u0301\u00a0schÃ¶n"   \n\n\n\n    return x\n'


def test_languages_outside_of_the_list_are_dropped_and_counted():
    german = "Der Hafen war an diesem Morgen still, und die Boote wurden von den Männern des Dorfes entladen."
    texts, languages, statistics = cleaned((ENGLISH, "", "web"), (german, "", "web"), (CHINESE, "", "web"), languages=("en", "zh"), **BARE)
    assert texts == [ENGLISH, CHINESE] and languages == ["en", "zh"]
    assert statistics.dropped == {"language": Amount(1, len(german.encode()))}
    assert statistics.samples["language"] == [{"origin": "origin 1", "text": german}]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("This site USES COOKIES to improve your visit.", "cookie lines"),
        ("© 2020 Harbour News. All rights reserved.", "terms lines"),
        ("Please enable JavaScript to view this page", "script lines"),
        ("Skip to main content", "share lines"),
        ("版权所有 港口新闻网", "Chinese footer lines"),
        ("京ICP备12345678号", "Chinese footer lines"),
        ("上一篇：港口的早晨", "Chinese navigation lines"),
    ],
)
def test_boilerplate_lines_go_when_they_are_short(line, rule):
    texts, _, statistics = cleaned((f"{ENGLISH}\n{line}\n{CHINESE}", "", "web"), **BARE)
    assert texts == [f"{ENGLISH}\n{CHINESE}"]
    assert statistics.changed == {rule: Amount(1, len(line.encode()))} and statistics.samples[rule][0]["text"] == line
    long = line + ENGLISH
    assert text_of(long) == [long]


def test_the_longest_line_that_may_be_boilerplate_has_phrase_line_characters():
    line = "Skip to main content"
    assert text_of(f"{ENGLISH}\n{line}", phrase_line=len(line)) == [ENGLISH]
    assert text_of(f"{ENGLISH}\n{line}", phrase_line=len(line) - 1) == [f"{ENGLISH}\n{line}"]


def test_what_boilerplate_leaves_is_uniform():
    assert text_of(f"Skip to content\n\n{ENGLISH}\n\nShare this:\n\n{ENGLISH}\n\n返回顶部\n") == [f"{ENGLISH}\n\n{ENGLISH}"]


def test_code_loses_no_lines_and_goes_by_its_own_rules():
    code = "# all rights reserved\n" + "".join(f"x_{i} = function_{i}({i})\n" for i in range(20))
    texts, languages, statistics = cleaned((code, "code", "github"), ("x = 1\n", "code", "github"), languages=())
    assert texts == [code] and languages == ["code"] and not statistics.changed
    assert statistics.dropped == {"min_units": Amount(1, 6)}


def test_a_domain_without_rules_keeps_poems():
    poem = "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate."
    texts, _, statistics = cleaned((poem, "", "poems"), (poem, "", "web"), domain_rules={"poems": {}})
    assert (
        texts == [poem]
        and statistics.out == {"poems en": Amount(1, len(poem))}
        and statistics.dropped == {"min_units": Amount(1, len(poem))}
    )


def test_text_of_a_script_without_spaces_goes_by_its_own_rules():
    only = {"rules": {"min_units": 1000}, "unspaced_rules": {"max_units": 1}}
    statistics = cleaned((ENGLISH, "", "web"), (CHINESE, "", "web"), **only)[2]
    assert {rule: amount.documents for rule, amount in statistics.dropped.items()} == {"min_units": 1, "max_units": 1}


def test_of_many_rules_the_first_is_the_reason():
    for names in (["min_units", "max_units"], ["max_units", "min_units"]):
        statistics = cleaned((ENGLISH, "", "web"), rules=dict.fromkeys(names, 10) | {"min_units": 100})[2]
        assert list(statistics.dropped) == names[:1]


def test_personal_data_is_masked_where_that_is_asked_for_and_not_in_samples():
    text = f"{ENGLISH} Write to captain@harbour.example.org for more."
    assert text_of(text) == [text]
    texts, _, statistics = cleaned((text, "", "web"), mask=("email",), **BARE)
    assert texts == [text.replace("captain@harbour.example.org", "<email>")]
    assert statistics.changed == {"email masked": Amount(1, 27)} and "captain" not in str(statistics.samples)


def test_documents_with_nothing_left_are_counted():
    texts, _, statistics = cleaned(("Skip to content\n \u200b", "", "web"), ("\x00", "code", "github"))
    assert texts == [] and statistics.dropped["nothing left"].documents == 2


DOCUMENTS = st.lists(st.sampled_from([ENGLISH, ENGLISH * 9, CHINESE, CHINESE * 9, "", "Tweet this", "short"]), max_size=8)


@given(DOCUMENTS)
def test_what_comes_in_goes_out_or_is_dropped_with_a_reason_whatever_stands_beside_it(texts):
    kept, _, statistics = cleaned(*((text, "", "web") for text in texts))
    assert statistics.into == Amount(len(texts), sum(len(text.encode()) for text in texts))
    assert total(statistics.out) == Amount(len(kept), sum(len(text.encode()) for text in kept))
    assert statistics.into.documents == len(kept) + total(statistics.dropped).documents
    assert kept == [left for text in texts for left in cleaned((text, "", "web"))[0]]
    assert set(statistics.dropped) <= {*config.RULES, "language", "nothing left"}
