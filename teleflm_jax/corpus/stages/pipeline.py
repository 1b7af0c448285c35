"""Stages of a corpus, in order; each has a folder with its dependencies, its output and its statistics.

    1-read          source files to text (read/, extraction/)
    2-clean         normalization, language, rules (filters/clean.py, filters/rules.py, filters/privacy.py)
    3-paragraphs    repeated paragraphs are removed (dedup/paragraphs.py)
    4-quality       documents with a low classifier score are dropped (filters/quality.py); only with quality.model
    5-duplicates    near-duplicate documents are dropped (dedup/deduplicate.py, dedup/duplicates.py)
    6-decontaminate documents with benchmark items are dropped (filters/contamination.py)
    documents/      a folder of Parquet files per set of the mixture, for `pack` (output/mix.py)
    words/          word counts of the tokenizer's training sample (output/sample.py); not if mix.tokenizer names a tokenizer

A partition is a unit of source files (`work_units.split_source`) and keeps its number through all stages. Work on a partition is a pure
function; Spark distributes it, and joins tables of all documents. The results depend neither on the number of workers nor on interruptions.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Sequence

from teleflm_jax.corpus import config_checks, read, rows, spark
from teleflm_jax.corpus.config import (
    CleanConfig,
    CorpusConfig,
    DecontaminateConfig,
    DuplicateConfig,
    ExtractConfig,
    MixConfig,
    ParagraphConfig,
    QualityConfig,
)
from teleflm_jax.corpus.dedup import deduplicate, paragraphs, reference_corpora
from teleflm_jax.corpus.dedup.reference_corpora import ReferenceCorpus
from teleflm_jax.corpus.extraction import extract
from teleflm_jax.corpus.filters import clean, contamination, privacy, quality, rules
from teleflm_jax.corpus.output import mix, sample
from teleflm_jax.corpus.stages import partitions
from teleflm_jax.corpus.stages.partitions import CLEAN, DECONTAMINATE, DUPLICATES, PARAGRAPHS, QUALITY, READ
from teleflm_jax.corpus.stages.run import CorpusRun, CorpusSettings, Partition
from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Statistics, merge, total
from teleflm_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusPlan:
    """A corpus to build, after all inputs have been checked."""

    partitions: Sequence[Partition]
    references: Sequence[ReferenceCorpus]
    index: contamination.NgramIndex


def plan(settings: CorpusSettings, workdir: pathlib.Path) -> CorpusPlan:
    """Split all sources into partitions, check the reference corpora, and read the benchmarks.

    Raises:
        UserError: A source, benchmark or reference corpus does not exist, a source has no domain, or a name is unknown.
    """
    config_checks.refuse_unknown_names(settings.corpus, settings.clean, settings.paragraphs, settings.quality, settings.mix)
    read.refuse_unknown(settings.corpus.formats)
    own = settings.clean
    named = {"rules": own.rules, "unspaced_rules": own.unspaced_rules, "code_rules": own.code_rules}
    for name, thresholds in (named | {f"domain_rules[{domain!r}]": table for domain, table in own.domain_rules.items()}).items():
        rules.refuse_unknown(f"clean.{name}", thresholds)
    privacy.refuse_unknown(own.mask)
    if settings.quality.model:
        quality.load(settings.quality.model)
    found = []
    for priority, (source, path) in enumerate(settings.corpus.sources.items()):
        setting, column = f"corpus.sources[{source!r}]", settings.corpus.text_columns.get(source, work_units.TEXT)
        units = work_units.split_source(path, settings.corpus.unit_bytes, setting, column)
        if not settings.corpus.formats.get(source):
            work_units.refuse_unknown(
                units, settings.pack.max_malformed_fraction, setting, ", WARC, HTML, MediaWiki and Stack Exchange XML"
            )
        found += [Partition(source=source, priority=priority, unit=unit) for unit in units]
    if not found:
        raise UserError("got corpus.sources without a file; allowed: folders and files with text; change corpus.sources")
    references = reference_corpora.find(settings.corpus.earlier, workdir, settings.paragraphs, settings.duplicates)
    return CorpusPlan(partitions=found, references=references, index=contamination.index(settings.decontaminate))


def run(
    workdir: pathlib.Path, settings: CorpusSettings, planned: CorpusPlan, master: str, log: Callable[[str], None], progress: spark.Progress
) -> dict[str, Statistics]:
    """Build a corpus or resume building it.

    Args:
        workdir: Folder of the corpus.
        settings: All sections.
        planned: The result of `plan`.
        master: Spark master.
        log: Receives one line for the user after every stage.
        progress: Receives the progress of each step.

    Returns:
        Stage -> its statistics.

    Raises:
        UserError: The input is wrong.
    """
    index = planned.index
    workdir.mkdir(parents=True, exist_ok=True)
    scratch = workdir / ".spark"
    session = spark.session(master, scratch)
    try:
        corpus = CorpusRun(workdir, settings, planned.partitions, planned.references, session, log, progress)
        stages = [
            (READ, _read, [_reading(settings.corpus), dataclasses.asdict(settings.extract), _identities(planned.partitions)]),
            (CLEAN, _clean, dataclasses.asdict(settings.clean)),
            (PARAGRAPHS, _paragraphs, _with_references(settings.paragraphs, corpus, PARAGRAPHS)),
            (QUALITY, _quality, [dataclasses.asdict(settings.quality), _file_hash(settings.quality.model)]),
            (DUPLICATES, _duplicates, _with_references(settings.duplicates, corpus, DUPLICATES)),
            (DECONTAMINATE, functools.partial(_decontaminate, index=index), [dataclasses.asdict(settings.decontaminate), _digest(index)]),
            (mix.FOLDER, _documents, settings.mix.ratios),
            (sample.FOLDER, sample.make, sample.depends_on(settings)),
        ]
        previous, stage_statistics = "", {}
        for stage, make, own in stages:
            if (stage == QUALITY and not settings.quality.model) or (stage == sample.FOLDER and settings.mix.tokenizer):
                continue
            folder = corpus.folder(stage)
            if partitions.begin(folder, [previous, own]):
                make(corpus)
                partitions.finish(folder, len(planned.partitions))
            previous = partitions.fingerprint(folder)
            stage_statistics[stage] = partitions.statistics_of(folder)
            log(_line(stage, stage_statistics[stage]))
        stage_statistics.pop(sample.FOLDER, None)  # documents outside the sample are not dropped from the corpus
        return stage_statistics
    finally:
        session.stop()
        shutil.rmtree(scratch, ignore_errors=True)


def _line(stage: str, statistics: Statistics) -> str:
    out = total(statistics.out)
    line = f"{stage}: {statistics.into.documents:,} -> {out.documents:,} documents, {out.bytes / 1e6:,.1f} MB"
    worst = sorted(statistics.dropped.items(), key=lambda item: -item[1].documents)[:3]
    return line + "".join(f"; {amount.documents:,} {rule}" for rule, amount in worst)


def _identities(found: Sequence[Partition]) -> str:
    return work_units.identity([partition.unit for partition in found])


def _reading(config: CorpusConfig) -> dict:
    """Return the settings that reading depends on; reference corpora affect later stages only."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name != "earlier"}


def _with_references(config: ParagraphConfig | DuplicateConfig, run: CorpusRun, stage: str) -> dict:
    return {"config": dataclasses.asdict(config), "earlier": [one.identity(stage) for one in run.references]}


def _digest(index: contamination.NgramIndex) -> dict:
    return {n: [len(sums), int(sums.sum(dtype="uint64"))] for n, sums in index.sums.items()}


def _read(run: CorpusRun) -> None:
    settings = run.settings
    work = functools.partial(
        _read_partition, found=run.partitions, folder=run.folder(READ), corpus=settings.corpus, config=settings.extract
    )
    run.for_each_partition("read", run.folder(READ), work)


def _read_partition(number: int, *, found: Sequence[Partition], folder: pathlib.Path, corpus: CorpusConfig, config: ExtractConfig) -> None:
    partition, statistics = found[number], Statistics()
    batches = read.read(partition.unit, corpus.formats.get(partition.source, ""), number << rows.ROW_BITS, statistics)
    texts = extract.extract(batches, statistics, domain=corpus.domains[partition.source], source=partition.source, config=config)
    partitions.write(folder, number, statistics.leaving(texts), rows.DOCUMENT, statistics)


def _clean(run: CorpusRun) -> None:
    work = functools.partial(_clean_partition, source=run.folder(READ), folder=run.folder(CLEAN), config=run.settings.clean)
    run.for_each_partition("clean", run.folder(CLEAN), work)


def _clean_partition(number: int, *, source: pathlib.Path, folder: pathlib.Path, config: CleanConfig) -> None:
    statistics = Statistics()
    batches = clean.clean(statistics.entering(partitions.read(source, number)), statistics, config=config)
    partitions.write(folder, number, statistics.leaving(batches), rows.DOCUMENT, statistics)


def _paragraphs(run: CorpusRun) -> None:
    source, folder, config = run.folder(CLEAN), run.folder(PARAGRAPHS), run.settings.paragraphs
    run.for_each_partition(
        "paragraphs: hash", folder / "hashes", functools.partial(_hash_partition, source=source, folder=folder / "hashes", config=config)
    )
    run.make_table("paragraphs: compare", folder / "later", lambda: paragraphs.later(_hashes(run, folder / "hashes")), by_partition=True)
    run.for_each_partition("paragraphs", folder, functools.partial(_paragraph_partition, source=source, folder=folder, config=config))


def _hashes(run: CorpusRun, folder: pathlib.Path) -> spark.DataFrame:
    """Return the hashes of all paragraphs, including those of reference corpora."""
    references = [
        run.load_table(one.hashes).selectExpr("language", "hash", f"id + {one.id_offset} as id", "line") for one in run.references
    ]
    return functools.reduce(lambda first, second: first.union(second), references, run.load_table(folder))


def _hash_partition(number: int, *, source: pathlib.Path, folder: pathlib.Path, config: ParagraphConfig) -> None:
    partitions.write(folder, number, paragraphs.hashes(partitions.read(source, number), config=config), paragraphs.HASHES, Statistics())


def _paragraph_partition(number: int, *, source: pathlib.Path, folder: pathlib.Path, config: ParagraphConfig) -> None:
    statistics, later = Statistics(), {}
    for row in partitions.rows_of(folder / "later", number):
        later.setdefault(row["id"], []).append(row["line"])
    batches = paragraphs.without(statistics.entering(partitions.read(source, number)), later, statistics, config=config)
    partitions.write(folder, number, statistics.leaving(batches), rows.DOCUMENT, statistics)


def _file_hash(path: str) -> str:
    """Return a hash of a model file; empty for no model."""
    return hashlib.blake2b(pathlib.Path(path).read_bytes(), digest_size=16).hexdigest() if path else ""


def _quality(run: CorpusRun) -> None:
    source, folder, config = run.folder(PARAGRAPHS), run.folder(QUALITY), run.settings.quality
    scored = folder / "scored"
    run.for_each_partition("quality: score", scored, functools.partial(_score_partition, source=source, folder=scored, config=config))
    least = quality.thresholds(
        merge(partitions.read_statistics(scored, number) for number in range(len(run.partitions))).distributions, config
    )
    run.log("quality: " + ", ".join(f"{domain} from {value:.3f}" for domain, value in sorted(least.items())))
    run.for_each_partition("quality", folder, functools.partial(_keep_partition, source=scored, folder=folder, least=least))


def _score_partition(number: int, *, source: pathlib.Path, folder: pathlib.Path, config: QualityConfig) -> None:
    statistics = Statistics()
    batches = quality.score(partitions.read(source, number), quality.load(config.model), statistics, config=config)
    partitions.write(folder, number, batches, rows.DOCUMENT, statistics)


def _keep_partition(number: int, *, source: pathlib.Path, folder: pathlib.Path, least: dict[str, float]) -> None:
    statistics = Statistics()
    batches = quality.keep(statistics.entering(partitions.read(source, number)), least, statistics)
    partitions.write(folder, number, statistics.leaving(batches), rows.DOCUMENT, statistics)


def _duplicates(run: CorpusRun) -> None:
    deduplicate.make(run, run.folder(QUALITY if run.settings.quality.model else PARAGRAPHS))


def _decontaminate(run: CorpusRun, *, index: contamination.NgramIndex) -> None:
    folder = run.folder(DECONTAMINATE)
    contamination.save(index, folder / "index.npz")
    for benchmark, count in index.items.items():
        short, ignored = index.too_short[benchmark], index.ignored[benchmark]
        run.log(
            f"decontaminate: {benchmark}: {count:,} texts to search for, {short:,} are shorter than {run.settings.decontaminate.shortest} "
            f"tokens{f', {ignored:,} are ignored' if ignored else ''}"
        )
    work = functools.partial(_decontaminate_partition, source=run.folder(DUPLICATES), folder=folder, config=run.settings.decontaminate)
    run.for_each_partition("decontaminate", folder, work)
    with open(folder / "hits.jsonl", "w", encoding="utf-8") as file:
        for number in range(len(run.partitions)):
            file.write((folder / f"hits-{number:06d}.jsonl").read_text(encoding="utf-8"))
    with open(folder / "hits.jsonl", encoding="utf-8") as file:
        for benchmark, phrase, count in contamination.common(map(json.loads, file)):
            run.log(
                f"decontaminate: {count:,} documents contain {phrase[:200]!r} of {benchmark}; if it is not a test item, "
                "add it to a file for decontaminate.ignored"
            )


def _decontaminate_partition(number: int, *, source: pathlib.Path, folder: pathlib.Path, config: DecontaminateConfig) -> None:
    statistics, listed = Statistics(), []
    index = contamination.load(folder / "index.npz")
    batches = contamination.decontaminate(statistics.entering(partitions.read(source, number)), index, statistics, listed, config=config)
    partitions.write(
        folder, number, statistics.leaving(batches), rows.DOCUMENT, statistics, beside=lambda: _list_hits(folder, number, listed)
    )


def _list_hits(folder: pathlib.Path, number: int, listed: list[dict]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in listed)
    (folder / f"hits-{number:06d}.jsonl").write_text(lines, encoding="utf-8")


def _documents(run: CorpusRun) -> None:
    folder = run.folder(mix.FOLDER)
    work = functools.partial(_documents_partition, source=run.folder(DECONTAMINATE), folder=folder, config=run.settings.mix)
    run.for_each_partition("documents", folder, work)


def _documents_partition(number: int, *, source: pathlib.Path, folder: pathlib.Path, config: MixConfig) -> None:
    statistics = Statistics()
    mix.split(statistics.entering(partitions.read(source, number)), statistics, folder, number, config=config)
