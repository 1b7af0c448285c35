import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import layout, load, specials
from teleflm_jax.tokenizer.pieces import piece_bytes

TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(
    st.sampled_from(["<|begin|>", "<|end|>", "<unk>", "<tool>", "</s>", "<0x41>", " ", "ab", "é", "中", "\n", "\x00"])
).map("".join)


def test_ours_have_the_layout_s(tokenizer):
    ours = specials.of(tokenizer)
    assert (ours.bos, ours.eos, ours.pad, ours.ends) == (layout.BOS, layout.EOS, layout.PAD, (layout.EOS,))
    assert specials.prompt(tokenizer, "</s>") == [layout.BOS, *tokenizer.encode("</s>").ids]
    assert specials.controls(tokenizer) == frozenset(layout.controls().values())


def test_an_imported_one_says_itself_what_wraps_a_text(imported):
    loaded = load.load(imported)
    begin, end = loaded.token_to_id("<|begin|>"), loaded.token_to_id("<|end|>")
    found = specials.of(loaded)
    assert (found.bos, found.eos, found.pad, found.ends) == (begin, end, begin, (end,))
    assert specials.prompt(loaded, "<|end|> ab") == loaded.encode("<|end|> ab").ids
    assert specials.controls(loaded) == {loaded.token_to_id(name) for name in ("<unk>", "<|begin|>", "<|end|>")}


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


@pytest.mark.parametrize(
    "change",
    [
        lambda said: None,
        lambda said: said["special_tokens"].pop("config.eos_token_id") and said,
        lambda said: said | {"single": [*said["single"], {"Sequence": {"id": "A", "type_id": 0}}]},
        lambda said: {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True},
    ],
    ids=["nothing", "no end", "a text twice", "another kind"],
)
def test_one_that_does_not_say_what_its_ids_are_for_is_refused(imported, tmp_path, change):
    content = json.loads(imported.read_text(encoding="utf-8"))
    content["post_processor"] = change(content["post_processor"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="which does not describe its special ids; allowed: a tokenizer of `tokenizer train` or `import`"):
        load.load(tmp_path / "tokenizer.json")


BOS, EOS, PAD = (f"tokenizer_config.{name}_token" for name in ("bos", "eos", "pad"))
BEGIN, END, ENDS = "config.bos_token_id", "config.eos_token_id", "generation_config.eos_token_id"
CASES = {  # what is put in front, what files say -> bos, eos, pad, ends
    "Llama 2": ((1,), {BOS: (1,), EOS: (2,), END: (2,), ENDS: (2,)}, (1, 2, 1, (2,))),
    "Llama 3": ((5,), {BOS: (5,), EOS: (8,), END: (6, 7), ENDS: (6, 8)}, (5, 8, 5, (6, 7, 8))),
    "Qwen": ((), {EOS: (8,), PAD: (6,), BEGIN: (6,), END: (8,), ENDS: (8, 6)}, (8, 8, 8, (8, 6))),
    "a name that ends no text of the model": ((), {EOS: (3,), END: (6, 7)}, (6, 6, 6, (6, 7))),
    "no end but the tokenizer's": ((4,), {EOS: (3,), PAD: (9,)}, (4, 3, 9, (3,))),
}


@pytest.mark.parametrize("case", CASES)
def test_what_wraps_a_document_and_what_ends_a_text_follow_from_what_the_files_name(case):
    before, named, wanted = CASES[case]
    found = specials.Specials(before=before, after=(), named=named)
    assert (found.bos, found.eos, found.pad, found.ends) == wanted


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
    with pytest.raises(UserError, match="not a sequence of bytes"):
        piece_bytes(load.load(tmp_path / "tokenizer.json"))
