"""The classifier's measures and thresholds; its training needs fastText (requirements-corpus.txt)."""

import json
import random

import numpy as np
import pytest

from teleflm_jax.corpus import rows
from teleflm_jax.corpus.config import QualityConfig
from teleflm_jax.corpus.filters import quality
from teleflm_jax.documents.statistics import Statistics
from teleflm_jax.errors import UserError


class Model:
    """Scores a text by its first word, which is a number; names the likeliest label, as fastText does."""

    def predict(self, lines, k):
        assert k == 1
        found = [float(line.split()[0]) / 100 for line in lines]
        best = [max((quality.GOOD, p), (quality.RANDOM, 1 - p), key=lambda pair: pair[1]) for p in found]
        return [[name] for name, _ in best], [np.array([value], np.float32) for _, value in best]


def documents(*scores: int, domain: str = "web"):
    return rows.batches(
        [(i, domain, "s", f"o{i}", f"o{i}", "", "en", None, f"{score} words") for i, score in enumerate(scores)], rows.DOCUMENT
    )


def kept(config: QualityConfig, *scores: int, domain: str = "web") -> tuple[list[str], Statistics]:
    statistics = Statistics()
    scored = list(quality.score(documents(*scores, domain=domain), Model(), statistics, config=config))
    least = quality.thresholds(statistics.distributions, config)
    left = [text for batch in quality.keep(scored, least, statistics) for text in batch["text"].to_pylist()]
    return left, statistics


def test_a_threshold_keeps_what_reaches_it():
    left, statistics = kept(QualityConfig(model="m", thresholds={"web": 0.5}), 10, 50, 90)
    assert left == ["50 words", "90 words"] and statistics.dropped["low quality: web"].documents == 1


@pytest.mark.parametrize("share, expected", [(0.0, 10), (0.3, 7), (0.5, 5), (1.0, 0)])
def test_a_quantile_drops_that_share_of_a_domain(share, expected):
    left, _ = kept(QualityConfig(model="m", quantiles={"web": share}), *range(5, 100, 10))
    assert len(left) == expected and left == [f"{score} words" for score in range(5, 100, 10)][10 - expected :]


def test_domains_that_are_not_filtered_are_not_scored():
    left, statistics = kept(QualityConfig(model="m", thresholds={"web": 0.5}), 1, 2, domain="poems")
    assert len(left) == 2 and not statistics.distributions


def test_words_are_tokens_in_lower_case_and_characters_of_chinese():
    assert quality.words("Hello, World!\n你好 x2") == "hello world 你 好 x2"


def test_precision_recall_and_area_are_counted_as_defined():
    scores, good = np.array([0.95, 0.85, 0.65, 0.45, 0.35, 0.05]), np.array([True, True, False, True, False, False])
    report = quality.evaluate(scores, good)
    at_half = next(row for row in report["thresholds"] if row["threshold"] == 0.5)
    assert (at_half["precision"], at_half["recall"], at_half["kept"]) == (2 / 3, 2 / 3, 0.5)
    pairs = [(a > b) + (a == b) / 2 for a in scores[good] for b in scores[~good]]
    assert report["area"] == pytest.approx(sum(pairs) / len(pairs))
    ties = quality.evaluate(np.full(6, 0.5), good)
    assert ties["area"] == pytest.approx(0.5)


@pytest.fixture
def texts(tmp_path):
    generator = random.Random(0)
    words = {"good": "theorem proof lemma therefore follows".split(), "random": "buy now cheap click offer".split()}
    for name, own in words.items():
        lines = [json.dumps({"text": " ".join(generator.choices([*own, "the", "of", "and"], k=30))}) for _ in range(300)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.corpus
def test_a_classifier_tells_what_it_was_taught_and_two_trainings_are_alike(texts):
    pytest.importorskip("fasttext")
    call = (str(texts / "good.jsonl"), str(texts / "random.jsonl"))
    config = QualityConfig(dimensions=16, buckets=1000, epochs=20)
    report = quality.train(*call, texts / "one.bin", config)
    assert report["area"] > 0.99 and report["held_out"] > 20 and json.loads((texts / "one.json").read_text())["area"] == report["area"]
    quality.train(*call, texts / "two.bin", config)
    assert (texts / "one.bin").read_bytes() == (texts / "two.bin").read_bytes()
    good, bad = quality.scored(quality.load(str(texts / "one.bin")), ["theorem proof lemma", "buy now cheap"])
    assert good > 0.5 > bad


@pytest.mark.corpus
def test_too_few_texts_are_one_line(texts):
    pytest.importorskip("fasttext")
    (texts / "few.jsonl").write_text(json.dumps({"text": "one"}))
    with pytest.raises(UserError, match="got 1 texts by --good; allowed: 50 or more"):
        quality.train(str(texts / "few.jsonl"), str(texts / "random.jsonl"), texts / "m.bin", QualityConfig())
    assert not (texts / "m.bin").exists()
