import gzip
import lzma
import random
import types

import pytest

from examples import compressors
from teleflm_jax.packing.records import HeldOut

WORDS = ["time ", "house ", "你好，", "déjà ", "\U0001f600", "water\n", "12_34 "]


def text(num_words, seed=0):
    return "".join(random.Random(seed).choices(WORDS, k=num_words))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 10_000])
def test_pieces_join_to_the_text_and_break_no_character(size):
    sample = text(200)
    pieces = list(compressors.cut(sample, size))
    assert "".join(piece.decode() for piece in pieces) == sample
    longest = max(len(character.encode()) for character in sample)
    assert all(0 < len(piece) <= max(size, longest) for piece in pieces)
    assert all(len(piece) > size - longest for piece in pieces[:-1])


def test_pieces_by_hand():
    assert list(compressors.cut("ab你cd", 4)) == [b"ab", "你c".encode(), b"d"]
    assert list(compressors.cut("你好", 1)) == ["你".encode(), "好".encode()]
    assert list(compressors.cut("", 5)) == []


@pytest.mark.parametrize("num_words", [0, 1, 300, 4000])
def test_sizes_are_those_of_the_programs(num_words):
    data = text(num_words).encode()
    assert compressors.gzip_size(data) == len(gzip.compress(data, 9))
    assert compressors.xz_size(data) == len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def test_bits_per_byte_by_hand():
    sample = "abcdefgh" * 100
    found = compressors.compare(sample, 400)
    assert found["gzip -9"]["whole"] == 8 * compressors.gzip_size(sample.encode()) / 800
    assert found["xz -9e"]["pieces"] == 8 * 2 * compressors.xz_size(sample[:400].encode()) / 800
    for sizes in found.values():
        assert 0 < sizes["whole"] < sizes["pieces"] < 8


def test_held_out_text_comes_back_from_its_tokens(monkeypatch):
    documents = {"web": [HeldOut(tokens=[0, 1], num_bytes=4), HeldOut(tokens=[1], num_bytes=3)]}
    monkeypatch.setattr(compressors.load, "load", lambda path: None)
    monkeypatch.setattr(compressors, "piece_bytes", lambda tokenizer: [b"a", "你".encode()])
    monkeypatch.setattr(compressors.documents, "heldout", lambda data, domains, **limits: documents)
    run = types.SimpleNamespace(
        data=types.SimpleNamespace(tokenizer=""),
        evaluation=types.SimpleNamespace(domains=(), max_bytes=0),
        model=types.SimpleNamespace(vocab_size=2, context_length=6),
    )
    assert list(compressors.heldout(run)) == [("web", "a你\n你", 14)]
