import dataclasses
import pathlib

import numpy as np
import pytest

from teleflm_jax.data.config import DataConfig
from teleflm_jax.errors import UserError
from teleflm_jax.evaluate import documents
from teleflm_jax.packing import pack
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.packing.records import HeldOut
from teleflm_jax.tokenizer import load, train
from teleflm_jax.tokenizer.pieces import piece_bytes

PIECES = [b"a", b"bb", b"", b"dddd", b"x\xe4\xbd", b"\xa0"]


def held_out(*tokens):
    return HeldOut(tokens=np.array(tokens, np.uint32), num_bytes=sum(len(PIECES[token]) for token in tokens))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    (root / "tokenizer.json").write_text(train.train(iter(["the time of the house", "a time of times"] * 9), 385), encoding="utf-8")
    (root / "web").mkdir()
    for i in range(12):
        (root / "web" / f"{i}.txt").write_text(f"page {i}: 你好, " + "the time of a house " * (i + 1))
    tokenizer, packed = str(root / "tokenizer.json"), str(root / "packed")
    for domain, fraction in (("web", 0.5), ("all", 0.0)):
        config = PackConfig(heldout_fraction=fraction, processes=1)
        sources = {domain: str(root / "web")}
        pack.pack(
            sources=sources, packed=packed, tokenizer=tokenizer, sequence_length=8, vocab_size=385, config=config, log=lambda line: None
        )
    return DataConfig(tokenizer=tokenizer, packed=packed, proportions={"web": 1.0, "all": 1.0})


def test_a_sample_is_cut_to_its_bytes():
    document = held_out(0, 1, 3, 1)
    assert [document] == documents.sample([document], 9, PIECES)
    for limit, tokens, num_bytes in ((8, [0, 1, 3], 7), (7, [0, 1, 3], 7), (3, [0, 1], 3), (2, [0], 1)):
        (cut,) = documents.sample([document], limit, PIECES)
        assert (cut.tokens.tolist(), cut.num_bytes) == (tokens, num_bytes)
    assert documents.sample([held_out(3)], 2, PIECES) == []


def test_a_sample_ends_with_a_whole_character():
    document = held_out(0, 4, 5, 0)
    for limit, num_bytes in ((5, 5), (4, 1), (3, 1), (1, 1)):
        (cut,) = documents.sample([document], limit, PIECES)
        assert cut.num_bytes == num_bytes
        b"".join(PIECES[token] for token in cut.tokens).decode()


def test_a_sample_is_drawn_from_everywhere_and_always_the_same():
    all_documents = [held_out(0, 0, i % 2) for i in range(1000)]
    numbers = {id(document): i for i, document in enumerate(all_documents)}
    chosen = [numbers[id(each)] for each in documents.sample(all_documents, 300, PIECES) if id(each) in numbers]
    assert chosen == [numbers[id(each)] for each in documents.sample(all_documents, 300, PIECES) if id(each) in numbers]
    assert len(set(chosen)) == len(chosen) > 80
    assert min(chosen) < 100 and max(chosen) > 900


def test_packed_documents_come_back_whole(data):
    pieces = piece_bytes(load.load(data.tokenizer))
    found = documents.heldout(data, ("web",), vocab_size=385, max_bytes=0, pieces=pieces)["web"]
    assert len(found) > 1
    for document in found:
        text = b"".join(pieces[token] for token in document.tokens)
        assert len(text) == document.num_bytes and text.decode().startswith("page ")
    limited = documents.heldout(data, ("web",), vocab_size=385, max_bytes=100, pieces=pieces)["web"]
    assert 90 < sum(document.num_bytes for document in limited) <= 100


@pytest.mark.parametrize(
    "domains, message",
    [
        ((), r"got no held-out text in .*/all; allowed: .* evaluation.domains = \('web',\)$"),
        (("webb",), "got evaluation.domains with webb; allowed: web, all; change evaluation.domains"),
    ],
)
def test_domains_that_cannot_be_measured_are_named(data, domains, message):
    with pytest.raises(UserError, match=message):
        documents.heldout(data, domains, vocab_size=385, max_bytes=0, pieces=PIECES)


def test_another_tokenizer_is_refused(data, tmp_path):
    other = tmp_path / "tokenizer.json"
    other.write_text(pathlib.Path(data.tokenizer).read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="got packed data of another tokenizer"):
        documents.heldout(dataclasses.replace(data, tokenizer=str(other)), ("web",), vocab_size=385, max_bytes=0, pieces=PIECES)
