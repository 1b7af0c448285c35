"""Last stage of the pipeline: documents by set of the mixture, and the mixture that `train.py` reads.

A set is a domain or, if `mix.ratios` splits the domain by language, its documents of one language (or `code`). Documents are not repeated
or sampled here: the loader applies proportions and epochs (data/mixture.py).
"""

import contextlib
import pathlib
from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from teleflm_jax import atomic_write
from teleflm_jax.corpus.config import MixConfig
from teleflm_jax.corpus.stages import partitions
from teleflm_jax.documents.statistics import Statistics
from teleflm_jax.errors import UserError

FOLDER = "documents"
COLUMNS = ("text", "family", "source", "origin", "language", "quality")


def set_of(domain: str, language: str, config: MixConfig) -> str:
    """Return the set of a document; empty if `mix.ratios` gives its language no weight."""
    weights = config.ratios.get(domain)
    if weights is None:
        return domain
    return f"{domain}-{language}" if language in weights else ""


def split(batches: Iterable[pa.RecordBatch], statistics: Statistics, folder: pathlib.Path, number: int, *, config: MixConfig) -> None:
    """Write the documents of a partition to FOLDER/<set>/part-<number>.parquet."""
    writers: dict[str, pq.ParquetWriter] = {}
    with contextlib.ExitStack() as opened:
        for batch in batches:
            names = [set_of(*pair, config) for pair in zip(batch["domain"].to_pylist(), batch["language"].to_pylist(), strict=True)]
            for name in dict.fromkeys(names):
                chosen = batch.filter(pa.array([one == name for one in names]))
                if not name:
                    for origin, text in zip(chosen["origin"].to_pylist(), chosen["text"].to_pylist(), strict=True):
                        statistics.drop("language without a weight in mix.ratios", origin, text)
                    continue
                for one in statistics.leaving([chosen]):
                    if name not in writers:
                        (folder / name).mkdir(exist_ok=True)
                        temporary = opened.enter_context(atomic_write.replacing(folder / name / f"part-{number:06d}.parquet"))
                        schema = one.select(COLUMNS).schema
                        writers[name] = opened.enter_context(pq.ParquetWriter(temporary, schema, compression="zstd"))
                    writers[name].write_batch(one.select(COLUMNS))
    partitions.write_statistics(folder, number, statistics)


def proportions(sets: Iterable[str], config: MixConfig) -> tuple[dict[str, float], dict[str, float]]:
    """Return the weights and epoch limits of sets.

    Args:
        sets: The sets that have documents.
        config: Weights of domains, and of languages inside them.

    Returns:
        Set -> sampling weight; set -> maximum epochs, for sets with a limit.

    Raises:
        UserError: The domain of a set has no weight.
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
            present = [other for other in ratios if f"{domain}-{other}" in found]
            share = ratios[language] / sum(ratios[other] for other in present)
        weights[name] = config.proportions[domain] * share
        if domain in config.max_epochs:
            epochs[name] = config.max_epochs[domain]
    return weights, epochs


def shortages(tokens: Mapping[str, int], weights: Mapping[str, float], epochs: Mapping[str, float], wanted: float) -> dict[str, float]:
    """Find the sets that are too small for a training run.

    Args:
        tokens: Set -> number of its tokens.
        weights: Set -> sampling weight.
        epochs: Set -> maximum epochs.
        wanted: Tokens of the training run.

    Returns:
        Set -> epochs that the run would need, for sets where that is above the limit.
    """
    whole = sum(weights.values())
    needed = {name: wanted * weights[name] / whole / max(1, tokens[name]) for name in tokens}
    return {name: value for name, value in needed.items() if value > epochs.get(name, float("inf"))}
