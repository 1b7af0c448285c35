import base64
import random
import warnings

import pytest
import tiktoken

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


def ranks_file(path, *pieces: bytes, count: int = 0):
    """A rank file with every byte and these pieces, filled up to so many ranks with pieces that no text has."""
    ranks = [bytes([byte]) for byte in range(256)] + list(pieces)
    ranks += [b"\xff" + number.to_bytes(4, "big") for number in range(count - len(ranks))]
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(ranks)))
    return path


def test_tiktoken_beside_with_its_pattern_named(tmp_path):
    name, count = report.other(ranks_file(tmp_path / "own.tiktoken", b"ab", b"12", b"123"))
    assert name == f"{tmp_path / 'own.tiktoken'} (cl100k pattern)"
    assert count(["abab 1234"]) == 2 + 1 + 2  # ab ab, the space, 123 4


@pytest.mark.parametrize(
    "ranks, name, tokens",
    # "aB" is a word in all but o200k, "123" in all but Qwen, " 1" in GPT-2 alone, and a piece has no more than one word.
    [(50_256, "GPT-2", 5), (100_256, "cl100k", 6), (128_000, "Llama 3", 6), (151_643, "Qwen", 9), (199_998, "o200k", 7)],
)
def test_the_number_of_ranks_says_whose_file_it_is_whatever_its_name(tmp_path, ranks, name, tokens):
    path = ranks_file(tmp_path / "tokenizer.model", b"aB", b"12", b"123", b" 1", b" 12", b"\n\n", count=ranks)
    named, count = report.other(path)
    assert named == f"{path} ({name} pattern)"
    assert count(["aB 12", "\n\n", "x123"]) == tokens


@pytest.mark.parametrize(
    "text", [" " * 10**6 + "a", " " * 10**6, "a" * 10**6, "\n" * 10**6, "!" * 10**6, "\t \r\n" * 250_000, "中" * 10**6]
)
def test_text_without_a_place_to_cut_is_counted(tmp_path, text):
    _, count = report.other(ranks_file(tmp_path / "own.tiktoken"))
    assert count([text]) == len(text.encode())  # the file has no piece but the bytes


def test_where_text_is_cut_no_token_is_lost_or_won(tmp_path):
    pieces = [b"  ", b"    ", b" a", b"ab", b" ab", b"\n\n", b"\n ", b"!!", b"12", b"123", b".\n", b"a b", b"\n\na"]
    path = ranks_file(tmp_path / "own.tiktoken", *pieces)
    _, count = report.other(path)
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in path.read_bytes().splitlines())}
    whole = tiktoken.Encoding("whole", pat_str=report.PATTERNS[100_256][1], mergeable_ranks=ranks, special_tokens={})
    draw = random.Random(0)
    for _ in range(20):
        text = "".join(draw.choices(["ab", "a", " ", "  ", "\n", "\n\n", ".", "!!", "123", "中", "\r\n", "'s"], k=60_000))
        assert count([text]) == len(whole.encode_ordinary(text))


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
    with pytest.raises(UserError, match="does not exist"):
        report.other(tmp_path / "none.json")
