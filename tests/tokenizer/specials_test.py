import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import layout, load, specials
from teleflm_jax.tokenizer.pieces import piece_bytes

TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(
    st.sampled_from(["<|begin|>", "<|end|>", "<unk>", "<tool>", "</s>", "<0x41>", " ", "ab", "é", "中", "\n", "\x00"])
).map("".join)


def test_ours_have_the_layout_s(tokenizer):
    assert specials.of(tokenizer) == specials.Specials(bos=layout.BOS, eos=layout.EOS, pad=layout.PAD)
    assert specials.controls(tokenizer) == frozenset(layout.controls().values())


def test_an_imported_one_says_itself_what_wraps_a_text(imported):
    loaded = load.load(imported)
    begin, end = loaded.token_to_id("<|begin|>"), loaded.token_to_id("<|end|>")
    assert specials.of(loaded) == specials.Specials(bos=begin, eos=end, pad=begin)
    assert specials.controls(loaded) == {loaded.token_to_id(name) for name in ("<unk>", "<|begin|>", "<|end|>")}


@settings(deadline=None)
@given(TEXT)
@example("<|end|> ab")
def test_ids_of_any_text_are_its_bytes_and_none_is_special(imported, text):
    loaded = load.load(imported)
    ids = loaded.encode(text, add_special_tokens=False).ids
    assert not specials.controls(loaded) & set(ids)
    found = b"".join(piece_bytes(loaded)[index] for index in ids)
    # the one with byte fallback puts a space in front, and writes spaces as U+2581
    if loaded.normalizer is not None:
        found, text = (written.replace("\u2581", " ").replace(" ", "") for written in (found.decode(), text))
        assert found == text
    else:
        assert found == text.encode()


def test_one_that_wraps_a_text_in_one_id_only_is_refused(imported, tmp_path):
    content = json.loads(imported.read_text(encoding="utf-8"))
    content["post_processor"]["single"].pop()
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="which wraps a text in 1 ids"):
        load.load(tmp_path / "tokenizer.json")


def test_limits_and_padding_that_a_file_asks_for_are_ignored(imported, tmp_path):
    content = json.loads(imported.read_text(encoding="utf-8"))
    content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert len(load.load(tmp_path / "tokenizer.json").encode("ab " * 9, add_special_tokens=False).ids) > 3


def test_a_vocabulary_of_neither_kind_is_refused(imported, tmp_path):
    content = json.loads(imported.read_text(encoding="utf-8"))
    content["model"]["byte_fallback"] = False
    content["model"]["vocab"] |= {"▁x": 10_000}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="no row of bytes"):
        piece_bytes(load.load(tmp_path / "tokenizer.json"))
