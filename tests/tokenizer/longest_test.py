"""The bound by which a text is refused before it is encoded: no text has fewer tokens than it says."""

import json
import unicodedata

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.tokenizer import pieces, specials, train


@pytest.fixture(scope="module")
def ours():
    texts = ["the time of the house " * 9, " " * 400, "é e\u0301 가 \u1100\u1161"]
    found = tokenizers.Tokenizer.from_str(train.train(iter(texts), 390))
    found.encode_special_tokens = True
    return found


def changed(tokenizer, **parts):
    return tokenizers.Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | parts))


def bounds(tokenizer, text):
    return len(text.encode()) <= pieces.longest(tokenizer) * len(specials.encoding(tokenizer, text).ids)


@given(text=st.text(min_size=1) | st.text("\u1fbe\u0308\u0341\u1100\u1161\u11a8e\u0301", min_size=1) | st.text(" the", min_size=1))
def test_no_text_has_fewer_tokens(ours, text):
    assert bounds(ours, text)
    assert bounds(changed(ours, normalizer={"type": "NFC"}), text)


def test_what_shrinks_most_in_nfc_stays_within_the_factor():
    marks = ("", "\u0301", "\u0341", "\u0308\u0301", "\u0308\u0341", "\u0344", "\u0345", "\u0313\u0301\u0345", "\u0313\u0341\u0345")
    most = 0.0
    for letter in filter(unicodedata.decomposition, map(chr, range(0x110000))):
        for mark in marks if letter in "\u1fbe\u2126\u212a\u212b" else ("",):
            text, composed = letter + mark, unicodedata.normalize("NFC", letter + mark)
            longest = max(len(each.encode()) for each in (text, unicodedata.normalize("NFD", text)))
            most = max(most, longest / len(composed.encode()))
    assert 3 < most <= pieces.SHRINK["NFC"]


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "}},
        {"pre_tokenizer": {"type": "WhitespaceSplit"}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}},
    ],
)
def test_what_leaves_parts_of_a_text_out_has_no_bound(ours, parts):
    assert pieces.longest(changed(ours, **parts)) is None


def test_an_added_token_that_takes_spaces_along_has_no_bound(ours):
    state = json.loads(ours.to_str())
    state["added_tokens"][-1]["lstrip"] = True
    assert pieces.longest(tokenizers.Tokenizer.from_str(json.dumps(state))) is None


def test_the_longest_piece_is_the_bound(ours):
    assert pieces.longest(ours) == max(
        max(map(len, pieces.piece_bytes(ours))), *(len(t.content) for t in ours.get_added_tokens_decoder().values())
    )
    sequence = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": pieces.SPACE}, {"type": "NFC"}]}
    assert pieces.longest(changed(ours, normalizer=sequence)) == 4 * pieces.longest(ours)


def test_ids_are_those_of_encode(ours):
    for text in ("", "the time</s>", "e\u0301 가 \U0001f600 x" * 50):
        assert specials.encode(ours, text) == ours.encode(text, add_special_tokens=False).ids
