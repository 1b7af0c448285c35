"""A tokenizer.json of anyone: what nothing bounds, or makes the library panic, is refused in a line before the library sees it."""

import base64
import copy
import json

import pytest
import tokenizers

from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import load, panics, specials, validate

REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}
SPLIT = {"type": "Split", "pattern": {"Regex": "a+"}, "behavior": "Isolated", "invert": False}


def table(units: list[int], texts: bytes) -> dict:
    """A normalizer of SentencePiece's with a table of characters."""
    blob = (4 * len(units)).to_bytes(4, "little") + b"".join(unit.to_bytes(4, "little") for unit in units) + texts
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(blob).decode()}


def template(*single: dict, **known: dict) -> dict:
    return {"type": "TemplateProcessing", "single": [*single, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": known}


def row(count: int, index: int = 1) -> dict:
    return {"id": "x", "ids": [index] * count, "tokens": ["x"] * count}


X = {"SpecialToken": {"id": "x", "type_id": 0}}
UNIGRAM = {"type": "Unigram", "unk_id": 0, "byte_fallback": True}
WRONG = {
    "an id beyond all": (("model", "vocab", "a"), 200_000_000, "unique ids below 2,097,152"),
    "an id below 0": (("model", "vocab", "a"), -1, "unique ids"),
    "an id that is none": (("model", "vocab", "a"), "5", "unique ids"),
    "an id of two": (("model", "vocab", "a"), 4, "unique ids"),
    "a long piece": (("model", "vocab", "a" * 1025), 999, "at most 1,024 characters"),
    "chance": (("model", "dropout"), 0.5, "has a dropout"),
    "a prefix on which the library panics": (("model", "continuing_subword_prefix"), "é", "continuing_subword_prefix"),
    "a model of words": (("model",), {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}, "neither BPE nor Unigram"),
    "no model": (("model",), None, "neither BPE nor Unigram"),
    "a vocabulary of the other model": (("model",), UNIGRAM | {"vocab": {"a": 0}}, "does not fit its model"),
    "rows that are none": (("model",), UNIGRAM | {"vocab": [["a"]]}, "rows other than a piece and a number"),
    "an unknown piece beyond the rows": (("model",), UNIGRAM | {"vocab": [["a", 0.0]], "unk_id": 1}, "unk_id"),
    "added tokens that are none": (("added_tokens",), {}, "added_tokens is not a list"),
    "many added tokens": (("added_tokens",), [{"id": 1, "content": "b"}] * 32_769, "32,769 added tokens"),
    "an empty added token": (("added_tokens",), [{"id": 1, "content": ""}], "without a content"),
    "an added token beyond all ids": (("added_tokens",), [{"id": 2**31, "content": "b"}], "without an id below"),
    "an unknown component": (("normalizer",), {"type": "Shell"}, "unknown normalizer"),
    "a component that is none": (("pre_tokenizer",), [], "unknown pre_tokenizer"),
    "a sequence that is none": (("decoder",), {"type": "Sequence", "decoders": {}}, "not a list"),
    "many components": (("pre_tokenizer",), {"type": "Sequence", "pretokenizers": [SPLIT] * 65}, "65 components; at most 64"),
    "a text that doubles": (("normalizer",), {"type": "Sequence", "normalizers": [REPLACE | {"content": "aa"}] * 9}, "512 times as long"),
    "a long replacement": (("normalizer",), REPLACE | {"content": "b" * 257}, "257 times as long"),
    "a replacement of nothing": (("normalizer",), REPLACE | {"pattern": {"String": ""}}, "without a pattern"),
    "a replacement by nothing that is text": (("decoder",), REPLACE | {"content": 5}, "without replacement text"),
    "a long text in front": (("normalizer",), {"type": "Prepend", "prepend": "é" * 200}, "400 times as long"),
    "a slow replacement": (("normalizer",), REPLACE | {"pattern": {"Regex": "(a+)+b"}}, "an expression"),
    "a slow cut": (("pre_tokenizer",), SPLIT | {"pattern": {"Regex": "a+a+a+b"}}, "an expression"),
    "a pattern of two kinds": (("pre_tokenizer",), SPLIT | {"pattern": {"Regex": "a", "String": "a"}}, "without a pattern"),
    "pieces of no length": (("pre_tokenizer",), {"type": "FixedLength", "length": 0}, "above 0"),
    "a strip without end": (("decoder",), {"type": "Strip", "content": "a", "start": 2**40, "stop": 0}, "strips an impossible number"),
    "an unknown token in the template": (("post_processor",), template(X), "not in its table"),
    "a long template": (("post_processor",), template(*[X] * 64, x=row(1)), "65 entries"),
    "many ids for one token": (("post_processor",), template(X, x=row(65)), "not a table of ids"),
    "an id of the template beyond all": (("post_processor",), template(X, x=row(1, 2**32)), "not a table of ids"),
    "a template in words": (("post_processor",), template() | {"single": "$A"}, "not a list"),
    "a table that is not in base64": (("normalizer",), {"type": "Precompiled", "precompiled_charsmap": "é"}, "base64"),
    "a table that is longer than itself": (("normalizer",), table([], b"abcd"), "differs from its header"),
    "a table that leads out": (("normalizer",), table([1 << 20, *[0] * 255], b"a\0"), "outside the map"),
    "a table whose text is not there": (("normalizer",), table([1 << 8, *[0] * 255], b""), "outside the map"),
    "a table whose text begins in another": (("normalizer",), table([1 << 8 | 1 << 10, 1, *[0] * 254], b"ab\0"), "outside the map"),
    "a table that writes much": (("normalizer",), table([0] * 256, b"a" * 257 + b"\0"), "more than 256 bytes"),
    "a table that writes no text": (("normalizer",), table([0] * 256, b"\xff\0"), "invalid UTF-8"),
}


@pytest.fixture(scope="module")
def content():
    return json.loads(tokenizers.Tokenizer(tokenizers.models.BPE({"b": 4, "a": 5, "ab": 6}, [("a", "b")])).to_str())


def put(content: dict, place: tuple[str, ...], value: object) -> str:
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize("name", WRONG)
def test_what_nothing_bounds_is_refused_with_the_reason(content, tmp_path, name):
    place, value, why = WRONG[name]
    path = tmp_path / "tokenizer.json"
    path.write_text(put(content, place, value))
    with pytest.raises(UserError, match=f"which is not a tokenizer.json .*{why}"):
        load.load(path)


@pytest.mark.parametrize(
    "text, why",
    [
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "more than 64 levels"),
        ('{"a": 1, "a": 1}', "duplicate name"),
        ('["\\ud800"]', "surrogate"),
    ],
)
def test_what_is_no_json_of_models_is_refused(tmp_path, text, why):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match=why):
        load.load(tmp_path / "tokenizer.json")


def test_padding_and_truncation_are_not_taken_over(content):
    padding = {"strategy": {"Fixed": 10_000_000}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}
    truncation = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    text = json.dumps(content | {"padding": padding | {"pad_token": "a"}, "truncation": truncation})
    assert load.parse(text).encode("abab").ids == [6, 6]


def test_the_table_of_sentencepiece_is_taken(tmp_path):
    import io

    import sentencepiece

    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the time of the house"] * 9), model_writer=made, vocab_size=15, minloglevel=2
    )
    from sentencepiece import sentencepiece_model_pb2

    read = sentencepiece_model_pb2.ModelProto.FromString(made.getvalue()).normalizer_spec.precompiled_charsmap
    assert len(read) > 100_000
    charsmap = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(read).decode()}
    validate.refuse({"model": {"type": "BPE", "vocab": {}, "merges": []}, "normalizer": charsmap})


def test_a_panic_is_an_error_and_an_interrupt_is_none():
    with pytest.raises(ValueError, match="charsmap"), panics.as_errors():
        broken = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
        tokenizers.Tokenizer.from_str(json.dumps({"model": {"type": "BPE", "vocab": {}, "merges": []}, "normalizer": broken}))
    with pytest.raises(KeyboardInterrupt), panics.as_errors():
        raise KeyboardInterrupt


def test_a_special_token_among_the_pieces_of_a_unigram_is_no_text():
    made = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), ("<s>", 0.0), ("<", -1.0), ("s", -1.0), (">", -1.0)], 0, True))
    made.add_special_tokens([tokenizers.AddedToken("<s>", special=True, normalized=False)])
    made.encode_special_tokens = True
    assert made.encode("<s>").ids == [1] and specials.encode(made, "<ss>") == [2, 3, 3, 4]
    with pytest.raises(UserError, match="finds the special token '<s>'"):
        specials.encode(made, "s<s>")


@pytest.mark.parametrize(
    "vocabulary, merges, text",
    [
        ({"<": 0, "s": 1, ">": 2, "<s": 3, "<s>": 4}, [("<", "s"), ("<s", ">")], "<s>"),  # its own merges make one
        ({"a": 4}, [], "a"),  # a character is one
    ],
    ids=["merges", "a character"],
)
def test_a_special_token_among_the_model_s_pieces_is_no_text(vocabulary, merges, text):
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    [name] = [piece for piece, index in vocabulary.items() if index == 4]
    made.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False)])
    made.encode_special_tokens = True
    assert made.encode(text).ids == [4]
    with pytest.raises(UserError, match="finds the special token"):
        specials.encode(made, text)
    with pytest.raises(UserError, match="finds the special token"):
        specials.prompt(made, f"{text}{text}")
