"""The end of the pipeline: documents by set of the mixture, and the mixture that `train.py` reads.

A set is a domain, or its documents of one language (or `code`) where `mix.ratios` weighs languages against each other. Nothing is repeated
or left out here: proportions and epochs are the loader's business (data/mixture.py).
"""

import contextlib
import pathlib
from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from teleflm_jax import atomic_write
from teleflm_jax.corpus.config import MixConfig
from teleflm_jax.corpus.stages import parts
from teleflm_jax.documents.statistics import Tally
from teleflm_jax.errors import UserError

FOLDER = "documents"
COLUMNS = ("text", "family", "source", "origin", "language", "quality")


def set_of(domain: str, language: str, config: MixConfig) -> str:
    """Name the set of a document; empty where `mix.ratios` gives its language no weight."""
    weights = config.ratios.get(domain)
    if weights is None:
        return domain
    return f"{domain}-{language}" if language in weights else ""


def split(batches: Iterable[pa.RecordBatch], tally: Tally, folder: pathlib.Path, number: int, *, config: MixConfig) -> None:
    """Write a part's documents to FOLDER/<set>/part-<number>.parquet."""
    writers: dict[str, pq.ParquetWriter] = {}
    with contextlib.ExitStack() as opened:
        for batch in batches:
            names = [set_of(*pair, config) for pair in zip(batch["domain"].to_pylist(), batch["language"].to_pylist(), strict=True)]
            for name in dict.fromkeys(names):
                chosen = batch.filter(pa.array([one == name for one in names]))
                if not name:
                    for origin, text in zip(chosen["origin"].to_pylist(), chosen["text"].to_pylist(), strict=True):
                        tally.drop("language without a weight in mix.ratios", origin, text)
                    continue
                for one in tally.leaving([chosen]):
                    if name not in writers:
                        (folder / name).mkdir(exist_ok=True)
                        temporary = opened.enter_context(atomic_write.replacing(folder / name / f"part-{number:06d}.parquet"))
                        schema = one.select(COLUMNS).schema
                        writers[name] = opened.enter_context(pq.ParquetWriter(temporary, schema, compression="zstd"))
                    writers[name].write_batch(one.select(COLUMNS))
    parts.write_tally(folder, number, tally)


def proportions(sets: Iterable[str], config: MixConfig) -> tuple[dict[str, float], dict[str, float]]:
    """Weigh sets, and limit their epochs.

    Args:
        sets: those that there are.
        config: weights of domains, and of languages inside them.

    Returns:
        Set -> sampling weight; set -> epochs at most, where there is a limit.

    Raises:
        UserError: a set's domain has no weight.
    """
    weights: dict[str, float] = {}
    epochs: dict[str, float] = {}
    split_sets = {f"{domain}-{language}": (domain, language) for domain, ratios in config.ratios.items() for language in ratios}
    found = sorted(sets)
    for name in found:
        domain, language = split_sets.get(name, (name, ""))
        if domain not in config.proportions:
            raise UserError(
                f"got documents of the domain {domain!r} without a weight; allowed: one for every domain of corpus.domains; "
                "bind mix.proportions"
            )
        share = 1.0
        if language:
            ratios = config.ratios[domain]
            there = [other for other in ratios if f"{domain}-{other}" in found]
            share = ratios[language] / sum(ratios[other] for other in there)
        weights[name] = config.proportions[domain] * share
        if domain in config.max_epochs:
            epochs[name] = config.max_epochs[domain]
    return weights, epochs


def shortages(tokens: Mapping[str, int], weights: Mapping[str, float], epochs: Mapping[str, float], wanted: float) -> dict[str, float]:
    """Say which sets run out.

    Args:
        tokens: set -> tokens that there are.
        weights: set -> sampling weight.
        epochs: set -> how often at most.
        wanted: tokens of the training run.

    Returns:
        Set -> epochs that the run would need of it, where that is above its limit.
    """
    whole = sum(weights.values())
    needed = {name: wanted * weights[name] / whole / max(1, tokens[name]) for name in tokens}
    return {name: value for name, value in needed.items() if value > epochs.get(name, float("inf"))}
