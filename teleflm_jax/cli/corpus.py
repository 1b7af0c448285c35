"""`python -m teleflm_jax corpus`: crawls, dumps and folders to packed sets and the mixture that train.py reads."""

import argparse
import dataclasses
import pathlib
import signal
import time
import typing

from teleflm_jax import config, invocation
from teleflm_jax.cli import options
from teleflm_jax.cli.pack import STOPPED, progress_display
from teleflm_jax.corpus import config as sections
from teleflm_jax.corpus.output import mix, report, sample
from teleflm_jax.corpus.stages import partitions
from teleflm_jax.data.config import DataConfig
from teleflm_jax.documents.statistics import Statistics
from teleflm_jax.errors import UserError
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.runs import prepare
from teleflm_jax.runs.config import SAVED_CONFIG, absolute
from teleflm_jax.tokenizer.config import TokenizerConfig

if typing.TYPE_CHECKING:
    from teleflm_jax.corpus.stages.run import CorpusSettings

HELP = "build a corpus on Spark: read, clean, deduplicate, decontaminate, mix and pack"
SECTIONS = {
    "corpus": sections.CorpusConfig,
    "extract": sections.ExtractConfig,
    "clean": sections.CleanConfig,
    "paragraphs": sections.ParagraphConfig,
    "quality": sections.QualityConfig,
    "duplicates": sections.DuplicateConfig,
    "decontaminate": sections.DecontaminateConfig,
    "mix": sections.MixConfig,
    "tokenizer": TokenizerConfig,
    "pack": PackConfig,
}
"""Section of a corpus configuration -> its dataclass."""
MIXTURE = "mixture.gin"
"""File in the corpus folder that train.py reads in addition to a model configuration."""
REPORT = "report.html"
"""File in the corpus folder."""
LIBRARIES = ("fastwarc", "ftfy", "mwparserfromhell", "opencc", "py3langid", "resiliparse")
"""Modules of requirements-text.txt, which the stages import; Spark is checked after the sources."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.epilog = f"example: {parser.prog} --gin_file configs/runs/corpus.gin --workdir runs/corpus"
    options.add_arguments(parser)
    parser.add_argument(
        "--master", default="local[*]", help="Spark master: local[N] on this machine (default: all cores), or spark://HOST:PORT"
    )
    parser.add_argument("--force", action="store_true", help="replace WORKDIR/tokenizer.json even if it was made from other documents")
    parser.add_argument(
        "--train_quality",
        type=options.path,
        metavar="MODEL",
        help="train a classifier for quality.model and stop; with --good and --random",
    )
    parser.add_argument("--good", type=options.path, metavar="PLACE", help="folder or file of texts that are worth training on")
    parser.add_argument("--random", type=options.path, metavar="PLACE", help="folder or file of unselected texts")
    parser.add_argument("--rules", action="store_true", help="list the rules that filter documents, and stop")


def main(args: argparse.Namespace) -> int:
    """Build a corpus or resume building it, train a quality classifier, or list the rules."""
    invocation.refuse_missing("corpus", LIBRARIES)
    if args.rules:
        from teleflm_jax.corpus.filters import rules

        for name, rule in rules.RULES.items():
            print(f"{name:36}{rule.description}")
        return 0
    if args.train_quality:
        return _train_quality(args)
    found = options.load_sections(args, SECTIONS)
    prepare.refuse_columns(found["pack"].text_columns, ())
    workdir = options.workdir(args)
    from teleflm_jax.corpus import config_checks, spark
    from teleflm_jax.corpus.stages import pipeline
    from teleflm_jax.corpus.stages.run import CorpusSettings

    settings = CorpusSettings(**{field.name: found[field.name] for field in dataclasses.fields(CorpusSettings)})
    spark.refuse_pattern(workdir, "--workdir")
    plan = pipeline.plan(settings, workdir)
    spark.refuse_missing()
    spark.refuse_master(args.master)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / SAVED_CONFIG).write_text(config.dump(found), encoding="utf-8")
    for domain in config_checks.domains_without_source(settings.corpus, settings.mix):
        print(f"WARNING: mix.proportions has {domain}, which has no source; the other domains share its weight")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with progress_display("partitions") as show:
            statistics = pipeline.run(workdir, settings, plan, args.master, _log, show)
        data = _data_config(workdir, settings)
        mixture = workdir / MIXTURE
        mixture.write_text(config.dump(absolute({"data": data, "tokenizer": settings.tokenizer, "pack": settings.pack})), encoding="utf-8")
        _tokenize_and_pack(workdir, settings, data, force=args.force)
    except KeyboardInterrupt:
        _log("corpus: stopped; run the same command again to continue")
        return STOPPED
    table = _table(workdir, data, statistics[mix.FOLDER], settings.mix)
    (workdir / REPORT).write_text(report.page(statistics, table), encoding="utf-8")
    _print_table(table, settings.mix, data)
    print(f"{workdir / REPORT}: documents kept and dropped, with reasons")
    print(f"{mixture}: train on it with: {invocation.command('train')} --gin_file MODEL.gin --gin_file {mixture} --workdir runs/NAME")
    return 0


def _data_config(workdir: pathlib.Path, settings: "CorpusSettings") -> DataConfig:
    """Return the `data` section of a run that trains on the corpus."""
    sets = sample.sets(workdir / mix.FOLDER)
    if not sets:
        raise UserError(
            f"got no document that passed every stage (see {workdir}); allowed: at least one; change corpus.sources or clean.rules"
        )
    weights, epochs = mix.proportions(sets, settings.mix)
    return DataConfig(
        tokenizer=settings.mix.tokenizer or str(workdir / "tokenizer.json"),
        packed=str(workdir / "packed"),
        sources={name: str(workdir / mix.FOLDER / name) for name in sets},
        proportions=weights,
        max_epochs=epochs,
    )


def _tokenize_and_pack(workdir: pathlib.Path, settings: "CorpusSettings", data: DataConfig, *, force: bool) -> None:
    """Train the tokenizer, unless `mix.tokenizer` names one, and pack every set."""
    from teleflm_jax.packing import pack

    if not settings.mix.tokenizer:
        with progress_display("pieces") as show:
            counts, target, began = workdir / sample.FOLDER / "all", pathlib.Path(data.tokenizer), time.monotonic()
            if prepare.train_tokenizer_on_counts(counts, target, settings.tokenizer, force=force, progress=show):
                _log(f"{target}: {settings.tokenizer.vocab_size:,} ids in {time.monotonic() - began:,.0f} s")
    with progress_display("bytes") as show:
        pack.pack(
            sources=data.sources,
            packed=data.packed,
            tokenizer=data.tokenizer,
            sequence_length=settings.mix.sequence_length,
            vocab_size=settings.tokenizer.vocab_size,
            config=settings.pack,
            log=_log,
            progress=show,
        )


def _table(workdir: pathlib.Path, data: DataConfig, statistics: Statistics, config: sections.MixConfig) -> list[dict]:
    """Return one row for each set, with the columns of the report's table 1."""
    table = []
    amounts = [key.split(" ", 1) for key in statistics.out]
    for name in sorted(data.sources, key=lambda name: -data.proportions[name]):
        found = partitions.read_json(workdir / "packed" / name / "manifest.json")
        languages = sorted(
            {language for domain, language in amounts if mix.set_of(domain, language, config) == name},
            key=lambda language: -max(amount.bytes for key, amount in statistics.out.items() if key.endswith(f" {language}")),
        )
        table.append(
            {
                "name": name,
                "languages": ", ".join(languages[:4]) + (", ..." if len(languages) > 4 else ""),
                "share": data.proportions[name] / sum(data.proportions.values()),
                "epochs": data.max_epochs.get(name),
                "bytes": found["train"]["bytes"] + found["heldout"]["bytes"],
                "tokens": found["train"]["tokens"],
            }
        )
    return table


def _print_table(table: list[dict], config: sections.MixConfig, data: DataConfig) -> None:
    print(f"{'set':<28}{'language':<20}{'share':>10}{'max epochs':>16}{'MB':>12}{'tokens':>16}")
    for row in table:
        limit = "any" if row["epochs"] is None else f"{row['epochs']:g}"
        print(f"{row['name']:<28}{row['languages']:<20}{row['share']:>10.2%}{limit:>16}{row['bytes'] / 1e6:>12,.1f}{row['tokens']:>16,}")
    tokens = {row["name"]: row["tokens"] for row in table}
    for name, needed in mix.shortages(tokens, data.proportions, data.max_epochs, config.tokens).items():
        print(
            f"WARNING: {config.tokens:,.0f} tokens need {needed:,.2f} epochs of {name}, but mix.max_epochs allows "
            f"{data.max_epochs[name]:g}: add text, lower its weight or allow more epochs"
        )


def _train_quality(args: argparse.Namespace) -> int:
    """Train a classifier for `quality.model` and print its precision and recall by threshold."""
    from teleflm_jax.corpus.filters import quality

    if not (args.good and args.random):
        raise UserError(
            "got --train_quality without --good or --random; allowed: both, each a folder or file of texts; add the missing option"
        )
    found = options.load_sections(args, {"quality": sections.QualityConfig}) if args.gin_file or args.gin_param else {}
    report = quality.train(args.good, args.random, pathlib.Path(args.train_quality), found.get("quality", sections.QualityConfig()))
    print(f"{'threshold':>10}{'precision':>11}{'recall':>9}{'kept':>9}     on {report['held_out']:,} held-out texts")
    for row in report["thresholds"]:
        print(f"{row['threshold']:>10.1f}{row['precision']:>11.3f}{row['recall']:>9.3f}{row['kept']:>9.3f}")
    print(f"{args.train_quality}: a good text scores higher than a random one with a probability of {report['area']:.3f}")
    return 0


def _log(line: str) -> None:
    print(line, flush=True)
