import json
import os
import subprocess
import sys

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import decoders

from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import layout, patterns, train, words
from teleflm_jax.tokenizer.config import TokenizerConfig

FORBIDDEN = frozenset(layout.controls().values())
unicode = st.text(st.characters(exclude_categories=["Cs"]))
controls = st.lists(st.sampled_from([*layout.controls(), "_", "😈", "😡", "1234567890", " ", "\n", "中文"])).map("".join)


@given(unicode | controls)
@example("</s><s> <_user>问<_bot>答<|endoftext|>")
@example("😈😡 １２３ 123_456")
@example("\n\n  def f():\r\n\treturn  \x00\u2028\ufeff e\u0301 \U0010ffff")
def test_any_text_comes_back_and_yields_no_control_id(tokenizer, text):
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert not FORBIDDEN & set(ids)
    assert tokenizer.encode_batch_fast([text])[0].ids == ids


def test_digits_stand_alone_with_their_own_ids(tokenizer):
    assert tokenizer.encode("0123456789").ids == list(range(4, 14))
    assert tokenizer.encode("a42").ids[-2:] == [8, 6]


def test_underscore_alone_has_its_own_id(tokenizer):
    assert tokenizer.encode("_").ids == [layout.UNDERSCORE]


def test_no_piece_joins_han_and_other_letters(tokenizer):
    pieces = [tokenizer.decode([index]) for index in range(layout.FIRST_PIECE, tokenizer.get_vocab_size())]
    han = [any("\u4e00" <= character <= "\u9fff" for character in piece) for piece in pieces]
    latin = [any(character.isascii() and character.isalnum() for character in piece) for piece in pieces]
    assert any(han) and any(latin) and not any(map(lambda a, b: a and b, han, latin))


def test_line_end_and_indentation_are_one_piece(tokenizer):
    assert tokenizer.encode("(\n        self").tokens[-1] == "Ġself"
    assert len(tokenizer.encode("):\n        return").ids) == 2


def test_size_is_exact_and_ids_have_no_gap(content):
    vocabulary = json.loads(content)["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(1500))


def test_the_pattern_is_in_the_file_and_keeps_pieces_from_reaching_across(texts):
    content = train.train(iter(texts), 900, pattern=patterns.QWEN2)
    found = pa.Table.from_batches(words.count(texts, pattern=patterns.QWEN2))
    assert train.train_counted(found, 900, pattern=patterns.QWEN2) == content
    made = json.loads(content)
    assert made["pre_tokenizer"]["pretokenizers"][0]["pattern"] == {"Regex": patterns.QWEN2}
    cut = words.splitter(patterns.QWEN2)
    pieces = [decoders.ByteLevel().decode([name]) for name, index in made["model"]["vocab"].items() if index >= layout.FIRST_PIECE]
    whole = [piece for piece in pieces if "\ufffd" not in piece]
    assert len(whole) > 300 and all(len(cut.pre_tokenize_str(piece)) == 1 for piece in whole if piece.strip())


def test_too_little_text_says_how_many_pieces_it_yields():
    # "ab" at the start, " ab" twice: two merges make all there is to make.
    with pytest.raises(UserError, match=r"yields 383 ids; .*vocab_size=1,000; lower tokenizer.vocab_size"):
        train.train(iter(["ab ab ab"]), 1000)


def test_same_bytes_again_and_on_other_numbers_of_threads(content, texts):
    program = "import json, sys; from teleflm_jax.tokenizer import train; sys.stdout.write(train.train(iter(json.load(sys.stdin)), 1500))"
    for settings in ({"RAYON_NUM_THREADS": "1"}, {"RAYON_NUM_THREADS": "5"}, {"TOKENIZERS_PARALLELISM": "false"}):
        environment = os.environ | settings | {"PYTHONUTF8": "1"}
        done = subprocess.run(
            [sys.executable, "-c", program], input=json.dumps(texts), env=environment, capture_output=True, check=True, text=True
        )
        assert done.stdout == content


@pytest.mark.parity
def test_loads_in_transformers(path, tokenizer):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
    text = "def f(x_1):\n    return '中文' 2024"
    assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text).ids
    assert theirs.convert_tokens_to_ids("</s>") == layout.EOS


def opened(**domains):
    return {name: (lambda texts=texts: iter(texts)) for name, texts in domains.items()}


def config(**changes):
    return TokenizerConfig(**({"sample_documents": 10, "sample_bytes": 10**9} | changes))


def test_sample_is_shared_out_by_proportions():
    texts = opened(a=[f"a{index}" for index in range(100)], b=[f"b{index}" for index in range(100)])
    samples = train.draw(texts, {"a": 3.0, "b": 2.0, "not there": 5.0}, config())
    sample = list(train.drawn(texts, samples))
    assert [draw.documents for draw in samples] == [6, 4]
    assert [sum(text.startswith(domain) for text in sample) for domain in "ab"] == [6, 4]
    assert len(set(sample)) == 10


def test_small_domain_is_taken_whole_and_says_so():
    texts = opened(a=["x", "y"], b=["z"] * 100)
    small, large = train.draw(texts, {"a": 1.0, "b": 1.0}, config())
    assert small.everything and (small.documents, small.documents_asked) == (2, 5)
    assert not large.everything and large.documents == 5


def test_sample_keeps_to_its_bytes():
    texts = opened(a=["é" * (1 + index % 7) for index in range(500)])
    (draw,) = train.draw(texts, {"a": 1.0}, config(sample_documents=400, sample_bytes=100))
    sample = list(train.drawn(texts, [draw]))
    assert sum(len(text.encode()) for text in sample) == draw.num_bytes <= 100
    assert len(sample) == draw.documents > 5


def test_sample_depends_on_the_seed_alone():
    texts = opened(a=[str(index) for index in range(1000)])

    def sample(seed):
        return list(train.drawn(texts, train.draw(texts, {"a": 1.0}, config(seed=seed))))

    assert sample(0) == sample(0) != sample(1)


def test_lone_surrogate_is_counted_and_passed_over():
    texts = opened(a=["good", "bad \ud800", "fine"])
    (draw,) = train.draw(texts, {"a": 1.0}, config())
    assert (draw.documents, draw.not_unicode, draw.everything) == (2, 1, True)
    assert list(train.drawn(texts, [draw])) == ["good", "fine"]
