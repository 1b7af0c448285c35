"""The stages of a corpus in order, each a folder: what it depends on, its steps over parts and over all documents, its tally.

    1-read          source files -> text (read/, extract.py)
    2-clean         uniform text, language, rules (clean.py, rules.py, privacy.py)
    3-paragraphs    paragraphs that stood before go (paragraphs.py)
    4-quality       documents that a classifier scores low go (quality.py); only with quality.model
    5-duplicates    near-duplicate documents go (deduplicate.py, duplicates.py)
    6-decontaminate documents with benchmark items go (contamination.py)
    documents/      a folder of Parquet per set of the mixture, for `pack` (mix.py)
    words/          the words of the tokenizer's training sample, with counts (sample.py); unless mix.tokenizer names a tokenizer

A part is a unit of source files (`documents.units`) and keeps its number through all stages. Work on parts is pure, part by part; Spark
spreads it, and joins documents where they must meet. So results depend neither on the number of workers nor on how often it was stopped.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Sequence

from teleflm_jax.corpus import names, read, rows, spark
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
from teleflm_jax.corpus.dedup.reference_corpora import Earlier
from teleflm_jax.corpus.extraction import extract
from teleflm_jax.corpus.filters import clean, contamination, privacy, quality, rules
from teleflm_jax.corpus.output import mix, sample
from teleflm_jax.corpus.stages import parts
from teleflm_jax.corpus.stages.parts import CLEAN, DECONTAMINATE, DUPLICATES, PARAGRAPHS, QUALITY, READ
from teleflm_jax.corpus.stages.run import Part, Run, Settings
from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Tally, merge, total
from teleflm_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be made, once all that the user gave was looked at."""

    parts: Sequence[Part]
    earlier: Sequence[Earlier]
    index: contamination.Index


def plan(settings: Settings, workdir: pathlib.Path) -> Plan:
    """Cut all sources into parts, look at earlier corpora, and read the benchmarks.

    Raises:
        UserError: a source, benchmark or earlier corpus is not there, a source has no domain, or something named is unknown.
    """
    names.refuse_unknown(settings.corpus, settings.clean, settings.paragraphs, settings.quality, settings.mix)
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
        units = work_units.units(path, settings.corpus.unit_bytes, setting, column)
        if not settings.corpus.formats.get(source):
            work_units.refuse_unknown(
                units, settings.pack.max_malformed_fraction, setting, ", WARC, HTML, MediaWiki and Stack Exchange XML"
            )
        found += [Part(source=source, priority=priority, unit=unit) for unit in units]
    if not found:
        raise UserError("got corpus.sources without a file; allowed: folders and files with text; change corpus.sources")
    before = reference_corpora.find(settings.corpus.earlier, workdir, settings.paragraphs, settings.duplicates)
    return Plan(parts=found, earlier=before, index=contamination.index(settings.decontaminate))


def run(
    workdir: pathlib.Path, settings: Settings, planned: Plan, master: str, say: Callable[[str], None], progress: spark.Progress
) -> dict[str, Tally]:
    """Make a corpus, or go on with one.

    Args:
        workdir: of the corpus.
        settings: all sections.
        planned: what `plan` made of them.
        master: Spark's.
        say: takes one line for the user after every stage.
        progress: shows how far a step is.

    Returns:
        Stage -> its tally.

    Raises:
        UserError: wrong input.
    """
    found, index = planned.parts, planned.index
    workdir.mkdir(parents=True, exist_ok=True)
    scratch = workdir / ".spark"
    session = spark.session(master, scratch)
    try:
        run_ = Run(workdir, settings, found, planned.earlier, session, say, progress)
        stages = [
            (READ, _read, [_reading(settings.corpus), dataclasses.asdict(settings.extract), _identities(found)]),
            (CLEAN, _clean, dataclasses.asdict(settings.clean)),
            (PARAGRAPHS, _paragraphs, _with_earlier(settings.paragraphs, run_, PARAGRAPHS)),
            (QUALITY, _quality, [dataclasses.asdict(settings.quality), _content(settings.quality.model)]),
            (DUPLICATES, _duplicates, _with_earlier(settings.duplicates, run_, DUPLICATES)),
            (DECONTAMINATE, functools.partial(_decontaminate, index=index), [dataclasses.asdict(settings.decontaminate), _digest(index)]),
            (mix.FOLDER, _documents, settings.mix.ratios),
            (sample.FOLDER, sample.make, sample.depends_on(settings)),
        ]
        before, tallies = "", {}
        for stage, make, own in stages:
            if (stage == QUALITY and not settings.quality.model) or (stage == sample.FOLDER and settings.mix.tokenizer):
                continue
            folder = run_.folder(stage)
            if parts.begin(folder, [before, own]):
                make(run_)
                parts.finish(folder, len(found))
            before = parts.fingerprint(folder)
            tallies[stage] = parts.tally_of(folder)
            say(_line(stage, tallies[stage]))
        tallies.pop(sample.FOLDER, None)  # what is not in the sample has not gone from the corpus
        return tallies
    finally:
        session.stop()
        shutil.rmtree(scratch, ignore_errors=True)


def _line(stage: str, tally: Tally) -> str:
    out = total(tally.out)
    line = f"{stage}: {tally.into.documents:,} -> {out.documents:,} documents, {out.bytes / 1e6:,.1f} MB"
    worst = sorted(tally.dropped.items(), key=lambda item: -item[1].documents)[:3]
    return line + "".join(f"; {amount.documents:,} {rule}" for rule, amount in worst)


def _identities(found: Sequence[Part]) -> str:
    return work_units.identity([part.unit for part in found])


def _reading(config: CorpusConfig) -> dict:
    """What texts are read depends on; earlier corpora matter to later stages."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name != "earlier"}


def _with_earlier(config: ParagraphConfig | DuplicateConfig, run: Run, stage: str) -> dict:
    return {"config": dataclasses.asdict(config), "earlier": [one.identity(stage) for one in run.earlier]}


def _digest(index: contamination.Index) -> dict:
    return {n: [len(sums), int(sums.sum(dtype="uint64"))] for n, sums in index.sums.items()}


def _read(run: Run) -> None:
    settings = run.settings
    work = functools.partial(_read_part, found=run.parts, folder=run.folder(READ), corpus=settings.corpus, config=settings.extract)
    run.each("read", run.folder(READ), work)


def _read_part(number: int, *, found: Sequence[Part], folder: pathlib.Path, corpus: CorpusConfig, config: ExtractConfig) -> None:
    part, tally = found[number], Tally()
    batches = read.read(part.unit, corpus.formats.get(part.source, ""), number << rows.ROW_BITS, tally)
    texts = extract.extract(batches, tally, domain=corpus.domains[part.source], source=part.source, config=config)
    parts.write(folder, number, tally.leaving(texts), rows.DOCUMENT, tally)


def _clean(run: Run) -> None:
    work = functools.partial(_clean_part, source=run.folder(READ), folder=run.folder(CLEAN), config=run.settings.clean)
    run.each("clean", run.folder(CLEAN), work)


def _clean_part(number: int, *, source: pathlib.Path, folder: pathlib.Path, config: CleanConfig) -> None:
    tally = Tally()
    batches = clean.clean(tally.entering(parts.read(source, number)), tally, config=config)
    parts.write(folder, number, tally.leaving(batches), rows.DOCUMENT, tally)


def _paragraphs(run: Run) -> None:
    source, folder, config = run.folder(CLEAN), run.folder(PARAGRAPHS), run.settings.paragraphs
    run.each("paragraphs: hash", folder / "hashes", functools.partial(_hash_part, source=source, folder=folder / "hashes", config=config))
    run.table("paragraphs: compare", folder / "later", lambda: paragraphs.later(_hashes(run, folder / "hashes")), by_part=True)
    run.each("paragraphs", folder, functools.partial(_paragraph_part, source=source, folder=folder, config=config))


def _hashes(run: Run, folder: pathlib.Path):
    """All paragraphs' hashes, those of earlier corpora too."""
    before = [run.load(one.hashes).selectExpr("language", "hash", f"id + {one.shift} as id", "line") for one in run.earlier]
    return functools.reduce(lambda first, second: first.union(second), before, run.load(folder))


def _hash_part(number: int, *, source: pathlib.Path, folder: pathlib.Path, config: ParagraphConfig) -> None:
    parts.write(folder, number, paragraphs.hashes(parts.read(source, number), config=config), paragraphs.HASHES, Tally())


def _paragraph_part(number: int, *, source: pathlib.Path, folder: pathlib.Path, config: ParagraphConfig) -> None:
    tally, later = Tally(), {}
    for row in parts.rows_of(folder / "later", number):
        later.setdefault(row["id"], []).append(row["line"])
    batches = paragraphs.without(tally.entering(parts.read(source, number)), later, tally, config=config)
    parts.write(folder, number, tally.leaving(batches), rows.DOCUMENT, tally)


def _content(path: str) -> str:
    """What tells a model from another; empty for none."""
    return hashlib.blake2b(pathlib.Path(path).read_bytes(), digest_size=16).hexdigest() if path else ""


def _quality(run: Run) -> None:
    source, folder, config = run.folder(PARAGRAPHS), run.folder(QUALITY), run.settings.quality
    scored = folder / "scored"
    run.each("quality: score", scored, functools.partial(_score_part, source=source, folder=scored, config=config))
    least = quality.thresholds(merge(parts.read_tally(scored, number) for number in range(len(run.parts))).distributions, config)
    run.say("quality: " + ", ".join(f"{domain} from {value:.3f}" for domain, value in sorted(least.items())))
    run.each("quality", folder, functools.partial(_keep_part, source=scored, folder=folder, least=least))


def _score_part(number: int, *, source: pathlib.Path, folder: pathlib.Path, config: QualityConfig) -> None:
    tally = Tally()
    batches = quality.score(parts.read(source, number), quality.load(config.model), tally, config=config)
    parts.write(folder, number, batches, rows.DOCUMENT, tally)


def _keep_part(number: int, *, source: pathlib.Path, folder: pathlib.Path, least: dict[str, float]) -> None:
    tally = Tally()
    batches = quality.keep(tally.entering(parts.read(source, number)), least, tally)
    parts.write(folder, number, tally.leaving(batches), rows.DOCUMENT, tally)


def _duplicates(run: Run) -> None:
    deduplicate.make(run, run.folder(QUALITY if run.settings.quality.model else PARAGRAPHS))


def _decontaminate(run: Run, *, index: contamination.Index) -> None:
    folder = run.folder(DECONTAMINATE)
    contamination.save(index, folder / "index.npz")
    for benchmark, count in index.items.items():
        few, nobodys = index.too_short[benchmark], index.ignored[benchmark]
        run.say(
            f"decontaminate: {benchmark}: {count:,} texts are looked for, {few:,} are shorter than {run.settings.decontaminate.shortest} "
            f"tokens{f', {nobodys:,} are ignored' if nobodys else ''}"
        )
    work = functools.partial(_decontaminate_part, source=run.folder(DUPLICATES), folder=folder, config=run.settings.decontaminate)
    run.each("decontaminate", folder, work)
    with open(folder / "hits.jsonl", "w", encoding="utf-8") as file:
        for number in range(len(run.parts)):
            file.write((folder / f"hits-{number:06d}.jsonl").read_text(encoding="utf-8"))
    with open(folder / "hits.jsonl", encoding="utf-8") as file:
        for benchmark, phrase, count in contamination.common(map(json.loads, file)):
            run.say(
                f"decontaminate: {count:,} documents hold {phrase[:200]!r} of {benchmark}; if it is no test item, "
                "put it into a file for decontaminate.ignored"
            )


def _decontaminate_part(number: int, *, source: pathlib.Path, folder: pathlib.Path, config: DecontaminateConfig) -> None:
    tally, listed = Tally(), []
    index = contamination.load(folder / "index.npz")
    batches = contamination.decontaminate(tally.entering(parts.read(source, number)), index, tally, listed, config=config)
    parts.write(folder, number, tally.leaving(batches), rows.DOCUMENT, tally, beside=lambda: _list_hits(folder, number, listed))


def _list_hits(folder: pathlib.Path, number: int, listed: list[dict]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in listed)
    (folder / f"hits-{number:06d}.jsonl").write_text(lines, encoding="utf-8")


def _documents(run: Run) -> None:
    folder = run.folder(mix.FOLDER)
    work = functools.partial(_documents_part, source=run.folder(DECONTAMINATE), folder=folder, config=run.settings.mix)
    run.each("documents", folder, work)


def _documents_part(number: int, *, source: pathlib.Path, folder: pathlib.Path, config: MixConfig) -> None:
    tally = Tally()
    mix.split(tally.entering(parts.read(source, number)), tally, folder, number, config=config)
