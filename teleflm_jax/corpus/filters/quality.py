"""Quality classifier with fastText: training on the user's good and random texts, and filtering by score.

Source: report, section 2, "apply custom heuristic rules and a FastText classifier to filter out low-quality content"; it names neither
data nor settings, so the user chooses both. A score is the classifier's probability that a text is one of the good texts.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from teleflm_jax import atomic_write, invocation
from teleflm_jax.corpus import rows, tokens
from teleflm_jax.corpus.config import QualityConfig
from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Statistics
from teleflm_jax.errors import UserError

Classifier = Any
"""A fastText model; fastText is optional, so its types are not imported."""
GOOD, RANDOM = "__label__good", "__label__random"
CHARACTERS = 20_000
"""Characters of the beginning of a text that are used."""
HELD_OUT = 0.1
"""Share of the texts that the classifier is evaluated on."""
BINS = 1000
"""Bins of the score distribution, which determine the resolution of quantiles."""
SCORES = "scores"
UNIT_BYTES = 64_000_000
MIN_TEXTS = 50


def words(text: str) -> str:
    """Return a text in the form that fastText reads: lower-case tokens separated by spaces."""
    text = text[:CHARACTERS]
    lowered = text.lower()
    found = tokens.tokens([text])
    return " ".join(lowered[start : start + length] for start, length in zip(found.starts.tolist(), found.lengths.tolist(), strict=True))


def train(good: str, random: str, target: pathlib.Path, config: QualityConfig) -> dict:
    """Train a classifier and evaluate it on a held-out tenth of the texts.

    Args:
        good: Folder or file of texts that are worth training on.
        random: Folder or file of unselected texts.
        target: Path of the model; a report is written next to it, with the suffix `.json`.
        config: Settings.

    Returns:
        The report: texts, precision, recall and share kept at thresholds from 0.1 to 0.9, and the area under the ROC curve.

    Raises:
        UserError: There are too few texts, or the training diverges.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "train.txt")
        held, counts = _write_training_file(path, good, random)
        for label, flag in ((GOOD, "--good"), (RANDOM, "--random")):
            if counts[label] < MIN_TEXTS or not any(is_good == (label == GOOD) for _, is_good in held):
                raise UserError(f"got {counts[label]} texts by {flag}; allowed: {MIN_TEXTS} or more, better thousands; add texts")
        model = _fit(path, config)
        with atomic_write.replacing(target) as temporary:
            model.save_model(str(temporary))
    scores = scored(model, [line for line, _ in held])
    report = evaluate(scores, np.array([is_good for _, is_good in held])) | {"good": counts[GOOD], "random": counts[RANDOM]}
    content = json.dumps(report | {"settings": dataclasses.asdict(config)}, indent=1) + "\n"
    atomic_write.write(target.with_suffix(".json"), content.encode())
    return report


def _write_training_file(path: str, good: str, random: str) -> tuple[list[tuple[str, bool]], collections.Counter[str]]:
    """Write fastText's training file; return the held-out texts, True for the good ones, and the number of texts by label."""
    held: list[tuple[str, bool]] = []
    counts: collections.Counter[str] = collections.Counter()
    with open(path, "w", encoding="utf-8") as file:
        sources = ((GOOD, good, "--good"), (RANDOM, random, "--random"))
        for label, text in _interleaved({label: _texts(source, flag) for label, source, flag in sources}):
            line = words(text)
            if not line:
                continue
            counts[label] += 1
            if _is_held_out(line):
                held.append((line, label == GOOD))
            else:
                file.write(f"{label} {line}\n")
    return held, counts


def _fit(path: str, config: QualityConfig) -> Classifier:
    """Train fastText on one thread: with more, updates race and models are not reproducible."""
    import fasttext

    try:
        return fasttext.train_supervised(
            path,
            dim=config.dimensions,
            epoch=config.epochs,
            wordNgrams=config.word_ngrams,
            lr=config.learning_rate,
            bucket=config.buckets,
            minCount=config.min_count,
            thread=1,
            seed=config.seed,
            verbose=0,
        )
    except RuntimeError as error:
        raise UserError(
            f"got a training that diverged ({error}); allowed: quality.word_ngrams of 2 or more and a small quality.learning_rate; "
            "change one of them"
        ) from error


def evaluate(scores: np.ndarray, good: np.ndarray) -> dict:
    """Return precision, recall and share kept by threshold, and the probability that a good text scores above a random one."""
    table = []
    for threshold in np.arange(1, 10) / 10:
        kept = scores >= threshold
        right = int((kept & good).sum())
        table.append(
            {
                "threshold": float(threshold),
                "precision": right / max(1, int(kept.sum())),
                "recall": right / max(1, int(good.sum())),
                "kept": float(kept.mean()),
            }
        )
    _, where, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts + 1) / 2)[where]  # equal scores get their mean rank
    above = ranks[good].sum() - good.sum() * (good.sum() - 1) / 2
    return {"held_out": len(scores), "area": float(above / max(1, good.sum() * (~good).sum())), "thresholds": table}


def scored(model: Classifier, lines: list[str]) -> np.ndarray:
    """Return the probability, float32, that each text in the form of `words` is good."""
    if not lines:
        return np.empty(0, np.float32)
    # for lists, fastText's Python binding returns the first label's probability for every label, so only the first of the two is requested
    labels, chances = model.predict(lines, k=1)
    best = np.array([float(values[0]) for values in chances], np.float32)
    return np.clip(np.where([names[0] == GOOD for names in labels], best, 1 - best), 0, 1)


@functools.lru_cache(maxsize=1)
def load(path: str) -> Classifier:
    """Load a classifier, once per process, because it may take hundreds of megabytes.

    Raises:
        UserError: The file is not a classifier, or fastText is not installed.
    """
    try:
        import fasttext
    except ImportError as error:
        raise UserError(f"got quality.model without fastText; allowed: fastText installed; {invocation.install('corpus')}") from error
    fasttext.FastText.eprint = lambda *_: None  # silences a warning at every load about the API before 2019
    try:
        return fasttext.load_model(path)
    except ValueError as error:
        raise UserError(
            f"got quality.model={path!r} ({error}); allowed: a model written by `corpus --train_quality`; change quality.model"
        ) from error


def score(
    batches: Iterable[pa.RecordBatch], model: Classifier, statistics: Statistics, *, config: QualityConfig
) -> Iterator[pa.RecordBatch]:
    """Score the documents of the filtered domains, and count the distribution of scores."""
    for batch in batches:
        domains, texts = batch["domain"].to_pylist(), batch["text"].to_pylist()
        chosen = [i for i, domain in enumerate(domains) if domain in config.thresholds or domain in config.quantiles]
        values: list[float | None] = batch["quality"].to_pylist()
        for i, value in zip(chosen, scored(model, [words(texts[i]) for i in chosen]).tolist(), strict=True):
            values[i] = value
            statistics.distributions[f"{SCORES} {domains[i]}"][str(min(BINS - 1, int(value * BINS)))] += 1
        yield rows.with_text(batch, texts, quality=values)


def thresholds(distributions: Mapping[str, Mapping[str, int]], config: QualityConfig) -> dict[str, float]:
    """Return each domain's threshold: as set, or at the quantile of its scores, with a resolution of 1/BINS."""
    found = dict(config.thresholds)
    for domain, share in config.quantiles.items():
        counts = np.zeros(BINS, np.int64)
        for value, count in distributions.get(f"{SCORES} {domain}", {}).items():
            counts[int(value)] += count
        below = np.cumsum(counts)
        found[domain] = float(np.searchsorted(below, share * below[-1], side="right")) / BINS if below[-1] else 0.0
    return found


def keep(batches: Iterable[pa.RecordBatch], thresholds: Mapping[str, float], statistics: Statistics) -> Iterator[pa.RecordBatch]:
    """Drop documents whose score is below their domain's threshold."""
    for batch in batches:
        kept = []
        for domain, value, origin, text in zip(*(batch[name].to_pylist() for name in ("domain", "quality", "origin", "text")), strict=True):
            good = domain not in thresholds or value is None or value >= thresholds[domain]
            kept.append(good)
            if not good:
                statistics.drop(f"low quality: {domain}", origin, text)
        yield batch.filter(pa.array(kept))


def _is_held_out(line: str) -> bool:
    return int.from_bytes(hashlib.blake2b(line.encode(), digest_size=4).digest(), "big") < HELD_OUT * 2**32


def _interleaved(texts: dict[str, Iterator[str]]) -> Iterator[tuple[str, str]]:
    """Alternate between the labels while they have texts: fastText trains in order, and would forget the earlier label."""
    for group in itertools.zip_longest(*texts.values()):
        yield from ((label, text) for label, text in zip(texts, group, strict=True) if text is not None)


def _texts(source: str, flag: str) -> Iterator[str]:
    for unit in work_units.split_source(source, UNIT_BYTES, flag):
        yield from (document.text for document in work_units.read(unit, Statistics()))
