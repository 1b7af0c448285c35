"""A classifier of quality, by fastText: trained on good and on random texts of the user's, and a filter by its score.

Source: report, section 2, "apply custom heuristic rules and a FastText classifier to filter out low-quality content"; it names neither
data nor settings, so both are the user's. A score is the classifier's probability that a text is one of the good ones.
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

import numpy as np
import pyarrow as pa

from teleflm_jax import atomic_write, invocation
from teleflm_jax.corpus import rows, tokens
from teleflm_jax.corpus.config import QualityConfig
from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Tally
from teleflm_jax.errors import UserError

GOOD, RANDOM = "__label__good", "__label__random"
CHARACTERS = 20_000
"""Of a text's beginning that are looked at."""
HELD_OUT = 0.1
"""Share of the texts that the classifier is measured on."""
BINS = 1000
"""Of the scores' distribution, by which quantiles are found."""
SCORES = "scores"
UNIT_BYTES = 64_000_000
LEAST_TEXTS = 50


def words(text: str) -> str:
    """A text as fastText reads it: tokens in lower case, a blank between them."""
    text = text[:CHARACTERS]
    lowered = text.lower()
    found = tokens.tokens([text])
    return " ".join(lowered[start : start + length] for start, length in zip(found.starts.tolist(), found.lengths.tolist(), strict=True))


def train(good: str, random: str, target: pathlib.Path, config: QualityConfig) -> dict:
    """Train a classifier and measure it on a tenth of the texts that it did not see.

    Args:
        good: folder or file of texts that are worth training on.
        random: the same of texts as they come.
        target: the model's file; a report stands beside it, `.json`.
        config: settings.

    Returns:
        The report: texts, precision, recall and share kept at thresholds from 0.1 to 0.9, and the area under the ROC curve.

    Raises:
        UserError: no or too few texts.
    """
    import fasttext

    held: list[tuple[str, bool]] = []
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "train.txt")
        with open(path, "w", encoding="utf-8") as file:
            sources = ((GOOD, good, "--good"), (RANDOM, random, "--random"))
            for label, text in _by_turns({label: _texts(source, flag) for label, source, flag in sources}):
                line = words(text)
                if not line:
                    continue
                counts[label] += 1
                if _is_held_out(line):
                    held.append((line, label == GOOD))
                else:
                    file.write(f"{label} {line}\n")
        for label, flag in ((GOOD, "--good"), (RANDOM, "--random")):
            if counts[label] < LEAST_TEXTS or not any(is_good == (label == GOOD) for _, is_good in held):
                raise UserError(f"got {counts[label]} texts by {flag}; allowed: {LEAST_TEXTS} or more, better thousands; add texts")
        # one thread: with more, updates race and no two models are alike
        try:
            model = fasttext.train_supervised(
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
        with atomic_write.replacing(target) as temporary:
            model.save_model(str(temporary))
    scores = scored(model, [line for line, _ in held])
    report = measured(scores, np.array([is_good for _, is_good in held])) | {"good": counts[GOOD], "random": counts[RANDOM]}
    told = json.dumps(report | {"settings": dataclasses.asdict(config)}, indent=1) + "\n"
    atomic_write.write(target.with_suffix(".json"), told.encode())
    return report


def measured(scores: np.ndarray, good: np.ndarray) -> dict:
    """Precision, recall and share kept by threshold, and the chance that a good text scores above a random one."""
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
    ranks = (np.cumsum(counts) - (counts + 1) / 2)[where]  # equal scores share the mean of their ranks
    above = ranks[good].sum() - good.sum() * (good.sum() - 1) / 2
    return {"held_out": len(scores), "area": float(above / max(1, good.sum() * (~good).sum())), "thresholds": table}


def scored(model, lines: list[str]) -> np.ndarray:
    """Probabilities that texts, as `words` gives them, are good; float32."""
    if not lines:
        return np.empty(0, np.float32)
    # of a list, fastText's Python side gives every label the first one's probability, so only that is asked for; there are two labels
    labels, chances = model.predict(lines, k=1)
    best = np.array([float(values[0]) for values in chances], np.float32)
    return np.clip(np.where([names[0] == GOOD for names in labels], best, 1 - best), 0, 1)


@functools.lru_cache(maxsize=1)
def load(path: str):
    """Open a classifier, once in a process: it may take hundreds of megabytes.

    Raises:
        UserError: there is none, or fastText is not installed.
    """
    try:
        import fasttext
    except ImportError as error:
        raise UserError(f"got quality.model without fastText; allowed: with it; {invocation.install('corpus')}") from error
    fasttext.FastText.eprint = lambda *_: None  # a warning at every load, of how it was before 2019
    try:
        return fasttext.load_model(path)
    except ValueError as error:
        raise UserError(
            f"got quality.model={path!r} ({error}); allowed: a model made by `corpus --train_quality`; change quality.model"
        ) from error


def score(batches: Iterable[pa.RecordBatch], model, tally: Tally, *, config: QualityConfig) -> Iterator[pa.RecordBatch]:
    """Give documents of the domains that are filtered their score, and count its distribution."""
    for batch in batches:
        domains, texts = batch["domain"].to_pylist(), batch["text"].to_pylist()
        chosen = [i for i, domain in enumerate(domains) if domain in config.thresholds or domain in config.quantiles]
        values: list[float | None] = batch["quality"].to_pylist()
        for i, value in zip(chosen, scored(model, [words(texts[i]) for i in chosen]).tolist(), strict=True):
            values[i] = value
            tally.distributions[f"{SCORES} {domains[i]}"][str(min(BINS - 1, int(value * BINS)))] += 1
        yield rows.with_text(batch, texts, quality=values)


def thresholds(distributions: Mapping[str, Mapping[str, int]], config: QualityConfig) -> dict[str, float]:
    """Find each domain's threshold: as it is set, or at the quantile of its scores, to a thousandth."""
    found = dict(config.thresholds)
    for domain, share in config.quantiles.items():
        counts = np.zeros(BINS, np.int64)
        for value, count in distributions.get(f"{SCORES} {domain}", {}).items():
            counts[int(value)] += count
        below = np.cumsum(counts)
        found[domain] = float(np.searchsorted(below, share * below[-1], side="right")) / BINS if below[-1] else 0.0
    return found


def keep(batches: Iterable[pa.RecordBatch], least: Mapping[str, float], tally: Tally) -> Iterator[pa.RecordBatch]:
    """Drop documents whose score is below their domain's threshold."""
    for batch in batches:
        kept = []
        for domain, value, origin, text in zip(*(batch[name].to_pylist() for name in ("domain", "quality", "origin", "text")), strict=True):
            good = domain not in least or value is None or value >= least[domain]
            kept.append(good)
            if not good:
                tally.drop(f"low quality: {domain}", origin, text)
        yield batch.filter(pa.array(kept))


def _is_held_out(line: str) -> bool:
    return int.from_bytes(hashlib.blake2b(line.encode(), digest_size=4).digest(), "big") < HELD_OUT * 2**32


def _by_turns(texts: dict[str, Iterator[str]]) -> Iterator[tuple[str, str]]:
    """A text of each in turn, as long as there are any: fastText takes lines as they come, and would forget what came first."""
    for group in itertools.zip_longest(*texts.values()):
        yield from ((label, text) for label, text in zip(texts, group, strict=True) if text is not None)


def _texts(source: str, flag: str) -> Iterator[str]:
    for unit in work_units.units(source, UNIT_BYTES, flag):
        yield from (document.text for document in work_units.read(unit, Tally()))
