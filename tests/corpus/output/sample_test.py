"""The tokenizer's sample: which documents are drawn, and that their counted words make the tokenizer that their text makes."""

import collections
import json
import pathlib
import random
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from teleflm_jax.corpus import rows, spark
from teleflm_jax.corpus.config import MixConfig
from teleflm_jax.corpus.output import mix, sample
from teleflm_jax.corpus.stages import run
from teleflm_jax.documents.statistics import Statistics
from teleflm_jax.packing import heldout
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.runs import prepare
from teleflm_jax.tokenizer import train, words
from teleflm_jax.tokenizer.config import TokenizerConfig

MIX = MixConfig(proportions={"web": 3.0, "code": 1.0})
PACK = PackConfig(heldout_fraction=0.2)
STEMS = "water stone paper house light music garden river winter summer letter window forest bridge island".split()


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    """Set -> documents."""
    draw = random.Random(0)
    ends = ["", "s", "ing", "-", " 12"]
    pages = [" ".join(draw.choice(STEMS) + draw.choice(ends) for _ in range(40)) + "。水石纸屋" for _ in range(120)]
    code = ["\n".join(f"def {draw.choice(STEMS)}_{i}(x):\n    return {draw.random():.4f}" for i in range(8)) for _ in range(60)]
    return {"web": pages, "code": code}


def lay_out(folder: pathlib.Path, texts: dict[str, list[str]], num_parts: int) -> pathlib.Path:
    """The documents' stage, with a number of partitions."""
    target = folder / mix.FOLDER
    target.mkdir(parents=True)
    every = [(name, text) for name, found in texts.items() for text in found]
    for number in range(num_parts):
        chosen = every[number * len(every) // num_parts : (number + 1) * len(every) // num_parts]
        found = [(i, name, "s", f"o {text[:9]}", text[:30], "", "en", None, text) for i, (name, text) in enumerate(chosen)]
        mix.split(rows.batches(found, rows.DOCUMENT), Statistics(), target, number, config=MIX)
    return target


def histogram(source: pathlib.Path, folder: pathlib.Path, num_parts: int, config: TokenizerConfig) -> pa.Table:
    """Results of Spark over all partitions."""
    folder.mkdir()
    for number in range(num_parts):
        sample.draw_partition(number, source=source, folder=folder, config=config, pack=PACK)
    whole = pa.concat_tables(pq.read_table(folder / f"part-{number:06d}.parquet") for number in range(num_parts))
    added = whole.group_by(["set", "hash"]).aggregate([("documents", "sum"), ("bytes", "sum")])
    return added.rename_columns(["set", "hash", "documents", "bytes"])


def drawn(tmp_path: pathlib.Path, texts: dict[str, list[str]], num_parts: int = 1, **settings) -> tuple[dict[str, set[str]], pa.Table]:
    config = TokenizerConfig(**settings)
    source = lay_out(tmp_path, texts, num_parts)
    found = histogram(source, tmp_path / "draw", num_parts, config)
    below = sample.limits(found, MIX.proportions, config)
    chosen = {
        name: {text for text in trainable(found_) if sample.text_hash(text.encode(), name, config.seed) < below[name]}
        for name, found_ in texts.items()
    }
    return chosen, found


def trainable(texts: list[str]) -> list[str]:
    return [text for text in texts if not heldout.may_be_held_out(text[:30], PACK.heldout_fraction, PACK.seed)]


def test_sample_is_shared_out_by_weights(tmp_path, texts):
    chosen, _ = drawn(tmp_path, texts, sample_documents=40)
    assert {name: len(found) for name, found in chosen.items()} == {"web": 30, "code": 10}


def test_sample_keeps_to_its_bytes(tmp_path, texts):
    chosen, _ = drawn(tmp_path, texts, sample_bytes=8000)
    sizes = {name: sum(len(text.encode()) for text in found) for name, found in chosen.items()}
    assert 5000 < sizes["web"] <= 6000 and 1500 < sizes["code"] <= 2000


def test_a_set_is_never_left_without_a_document(tmp_path, texts):
    chosen, _ = drawn(tmp_path, texts, sample_bytes=1)
    assert {name: len(found) for name, found in chosen.items()} == {"web": 1, "code": 1}


def test_a_set_of_which_all_may_be_held_out_has_none(tmp_path):
    apart = [text for text in map("text {}".format, range(100)) if heldout.may_be_held_out(text, PACK.heldout_fraction, PACK.seed)]
    chosen, found = drawn(tmp_path, {"web": apart})
    assert chosen == {"web": set()} and found.num_rows == 0


def test_sample_depends_on_the_seed_and_the_texts_alone(tmp_path, texts):
    first, _ = drawn(tmp_path / "a", texts, sample_documents=40)
    backwards = {name: found[::-1] for name, found in texts.items()}
    assert drawn(tmp_path / "b", backwards, num_parts=7, sample_documents=40)[0] == first
    assert drawn(tmp_path / "c", texts, sample_documents=40, seed=1)[0] != first


def test_every_document_is_counted_or_has_a_reason(tmp_path, texts):
    source, config = lay_out(tmp_path, texts, 2), TokenizerConfig()
    (tmp_path / "counts").mkdir()
    statistics = Statistics()
    for number in range(2):
        below = {"web": 20_000, "code": 1 << sample.HASH_BITS}
        sample.count_partition(number, source=source, folder=tmp_path, below=below, config=config, pack=PACK)
        statistics.add(sample.partitions.read_statistics(tmp_path, number))
    gone = {rule: amount.documents for rule, amount in statistics.dropped.items()}
    assert statistics.into.documents == 180 == sum(amount.documents for amount in statistics.out.values()) + sum(gone.values())
    assert gone["may be held out"] == 180 - sum(map(len, map(trainable, texts.values())))
    assert statistics.out["code"].documents == len(trainable(texts["code"])) and statistics.out["web"].documents < len(
        trainable(texts["web"])
    )


def test_words_are_cut_by_the_pattern_that_the_tokenizer_gets(tmp_path):
    source = lay_out(tmp_path, {"web": [f"a:\n    {letter}" for letter in "bcdefghijklm"]}, 1)
    (tmp_path / "counts").mkdir()
    config, below = TokenizerConfig(pattern="qwen2"), {"web": 1 << sample.HASH_BITS}
    sample.count_partition(0, source=source, folder=tmp_path, below=below, config=config, pack=PACK)
    found = set(words.load(tmp_path / "counts" / "part-000000.parquet")["word"].to_pylist())
    assert {"a", ":\n", "   "} == {word for word in found if len(word) != 2 or word[0] != " "}
    settings = types.SimpleNamespace(tokenizer=config, mix=MIX, pack=PACK)
    other = types.SimpleNamespace(tokenizer=TokenizerConfig(), mix=MIX, pack=PACK)
    assert sample.depends_on(settings) != sample.depends_on(other)


def made(tmp_path: pathlib.Path, texts: dict[str, list[str]], num_parts: int, master: str, **settings) -> pathlib.Path:
    """The stage, on Spark."""
    lay_out(tmp_path, texts, num_parts)
    own = types.SimpleNamespace(tokenizer=TokenizerConfig(), mix=MixConfig(proportions=MIX.proportions, **settings), pack=PACK)
    session = spark.session(master, tmp_path / "scratch")
    try:
        making = run.CorpusRun(tmp_path, own, range(num_parts), (), session, print, lambda *_: None)
        making.folder(sample.FOLDER).mkdir()
        sample.make(making)
    finally:
        session.stop()
    return tmp_path / sample.FOLDER / "all"


@pytest.mark.corpus
def test_partitions_change_nothing_and_the_tokenizer_is_that_of_the_text(tmp_path, texts):
    pytest.importorskip("pyspark", reason="requirements-corpus.txt is not installed")
    kept = [text for found in texts.values() for text in trainable(found)]
    expected = collections.Counter(word for text in kept for word, _ in words.splitter().pre_tokenize_str(text))
    one, four = made(tmp_path / "one", texts, 1, "local[1]"), made(tmp_path / "four", texts, 4, "local[4]")
    assert words.load(one).equals(words.load(four))
    assert dict(zip(*words.load(one).to_pydict().values(), strict=True)) == expected
    for folder in (one, four):
        prepare.train_tokenizer_on_counts(
            folder, folder.parent / "tokenizer.json", TokenizerConfig(vocab_size=500), progress=lambda *_: None
        )
        assert (folder.parent / "tokenizer.json").read_text(encoding="utf-8") == train.train(iter(kept), 500)
    made_from = json.loads((one.parent / "tokenizer.sample.json").read_text())
    assert made_from["distinct"] == len(expected) and made_from["vocab_size"] == 500

    without_rare = words.load(made(tmp_path / "rare", texts, 4, "local[2]", min_word_count=2))
    assert dict(zip(*without_rare.to_pydict().values(), strict=True)) == {word: n for word, n in expected.items() if n > 1}
