import base64
import warnings

import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import report


def test_ratio_by_hand():
    texts = {"english": ["ab cd", "e"], "chinese": ["中文"]}
    counters = {"words": lambda batch: sum(len(text.split()) for text in batch), "characters": lambda batch: sum(map(len, batch))}
    ratios, num_bytes = report.ratios(texts, counters)
    assert num_bytes == {"english": 6, "chinese": 6}
    assert ratios == {"words": {"english": 3 / 6, "chinese": 1 / 6}, "characters": {"english": 1.0, "chinese": 2 / 6}}


def test_large_text_is_read_in_batches(monkeypatch):
    monkeypatch.setattr(report, "BATCH_BYTES", 10)
    sizes = []
    ratios, num_bytes = report.ratios({"a": iter(["x" * 6] * 5)}, {"one": lambda batch: sizes.append(len(batch)) or len(batch)})
    assert sizes == [2, 2, 1] and num_bytes == {"a": 30} and ratios["one"]["a"] == 5 / 30


def test_weights_are_the_proportions_or_equal():
    assert report.weights(["a", "b"], {"a": 3.0, "b": 1.0, "c": 5.0}) == ({"a": 0.75, "b": 0.25}, "data.proportions")
    assert report.weights(["a", "z"], {"a": 3.0}) == ({"a": 0.5, "z": 0.5}, "equal weights")
    assert report.weighted({"a": 0.2, "b": 0.4}, {"a": 0.75, "b": 0.25}) == pytest.approx(0.25)


def test_domain_without_text_is_refused():
    with pytest.raises(UserError, match="no text for a"):
        report.ratios({"a": []}, {"one": len})


def test_ours_counts_without_special_tokens(tokenizer):
    assert report.counter(tokenizer)(["123", "</s>"]) == 3 + len(tokenizer.encode("</s>").ids)


def test_tokenizer_json_beside(path, tokenizer):
    name, count = report.other(path)
    assert name == str(path) and count(["def f():", "2024"]) == len(tokenizer.encode("def f():").ids) + 4


def test_tiktoken_beside_with_its_pattern_named(tmp_path):
    ranks = [bytes([byte]) for byte in range(256)] + [b"ab", b"12", b"123"]
    path = tmp_path / "own.tiktoken"
    path.write_bytes(b"\n".join(base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(ranks)))
    name, count = report.other(path)
    assert name == f"{path} (cl100k pattern)"
    assert count(["abab 1234"]) == 2 + 1 + 2  # ab ab, the space, 123 4


def test_sentencepiece_beside(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of SWIG, at import
        import sentencepiece
    texts = ["the cat sat on the mat", "a dog and the cat"] * 20
    with open(tmp_path / "own.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=file, vocab_size=40, model_type="bpe", minloglevel=2
        )
    _, count = report.other(tmp_path / "own.model")
    assert 2 <= count(["the cat"]) <= 8


@pytest.mark.parametrize(
    "name, content",
    [("a.txt", b""), ("a.tiktoken", b"a b c"), ("a.tiktoken", b"YWI= 0"), ("a.tiktoken", b"!!! x"), ("a.model", b"x"), ("a.json", b"{}")],
)
def test_what_is_no_tokenizer_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"change --beside"):
        report.other(path)
    with pytest.raises(UserError, match="not there"):
        report.other(tmp_path / "none.json")
