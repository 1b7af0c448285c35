"""`python -m teleflm_jax corpus`: from crawls, dumps and folders to packed sets and the mixture that train.py reads."""

import argparse
import dataclasses
import pathlib
import signal
import sys
import time

from teleflm_jax import config, invocation
from teleflm_jax.cli import options
from teleflm_jax.cli.pack import STOPPED, bar, lines
from teleflm_jax.corpus import config as sections
from teleflm_jax.corpus.output import mix, report, sample
from teleflm_jax.corpus.stages import parts
from teleflm_jax.data.config import DataConfig
from teleflm_jax.errors import UserError
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.runs import prepare
from teleflm_jax.runs.config import SAVED_CONFIG, absolute
from teleflm_jax.tokenizer.config import TokenizerConfig

HELP = "make a corpus on Spark: read, clean, deduplicate, decontaminate, mix and pack"
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
"""Section of a corpus's configuration -> its dataclass."""
MIXTURE = "mixture.gin"
"""In the corpus's folder: what train.py reads beside a model's configuration."""
REPORT = "report.html"
"""In the corpus's folder."""
LIBRARIES = ("fastwarc", "ftfy", "mwparserfromhell", "opencc", "py3langid", "resiliparse")
"""Modules of requirements-text.txt, which the stages import; Spark is looked for when the sources have been."""


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    parser.epilog = f"example: {parser.prog} --gin_file configs/runs/corpus.gin --workdir runs/corpus"
    options.add_arguments(parser)
    parser.add_argument("--master", default="local[*]", help="Spark's: local[N] on this machine (default: all cores), or spark://HOST:PORT")
    parser.add_argument("--force", action="store_true", help="replace WORKDIR/tokenizer.json, though it was made from other documents")
    parser.add_argument(
        "--train_quality",
        type=options.path,
        metavar="MODEL",
        help="train a classifier for quality.model and stop; with --good and --random",
    )
    parser.add_argument("--good", type=options.path, metavar="PLACE", help="folder or file of texts that are worth training on")
    parser.add_argument("--random", type=options.path, metavar="PLACE", help="the same of texts as they come")
    parser.add_argument("--rules", action="store_true", help="list the rules that documents can be held against, and stop")


def main(args: argparse.Namespace) -> int:
    """Make the corpus, or go on with it."""
    invocation.refuse_missing("corpus", LIBRARIES)
    if args.rules:
        from teleflm_jax.corpus.filters import rules

        for name, rule in rules.RULES.items():
            print(f"{name:36}{rule.what}")
        return 0
    if args.train_quality:
        return _train_quality(args)
    found = options.load_sections(args, SECTIONS)
    prepare.refuse_columns(found["pack"].text_columns, ())
    workdir = options.workdir(args)
    from teleflm_jax.corpus import names, spark
    from teleflm_jax.corpus.stages import pipeline
    from teleflm_jax.packing import pack

    own = pipeline.Settings(**{field.name: found[field.name] for field in dataclasses.fields(pipeline.Settings)})
    spark.refuse_pattern(workdir, "--workdir")
    planned = pipeline.plan(own, workdir)
    spark.refuse_missing()
    spark.refuse_master(args.master)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / SAVED_CONFIG).write_text(config.dump(found), encoding="utf-8")
    for domain in names.without_source(own.corpus, own.mix):
        print(f"WARNING: mix.proportions has {domain}, of which there is no source; the other domains share its weight")
    drawn = bar if sys.stderr.isatty() else lines
    show, close = drawn("parts")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        tallies = pipeline.run(workdir, own, planned, args.master, _say, show)
        sets = sample.sets(workdir / mix.FOLDER)
        if not sets:
            raise UserError(
                f"got no document that passed every stage (see {workdir}); allowed: at least one; change corpus.sources or clean.rules"
            )
        weights, epochs = mix.proportions(sets, own.mix)
        data = DataConfig(
            tokenizer=own.mix.tokenizer or str(workdir / "tokenizer.json"),
            packed=str(workdir / "packed"),
            sources={name: str(workdir / mix.FOLDER / name) for name in sets},
            proportions=weights,
            max_epochs=epochs,
        )
        mixture = workdir / MIXTURE
        mixture.write_text(config.dump(absolute({"data": data, "tokenizer": found["tokenizer"], "pack": found["pack"]})), encoding="utf-8")
        if not own.mix.tokenizer:
            close()
            show, close = drawn("pieces")
            counted, began = workdir / sample.FOLDER / "all", time.monotonic()
            target, settings = pathlib.Path(data.tokenizer), found["tokenizer"]
            if prepare.train_tokenizer_on_counts(counted, target, settings, force=args.force, progress=show):
                _say(f"{target}: {settings.vocab_size:,} ids in {time.monotonic() - began:,.0f} s")
        close()
        show, close = drawn("bytes")
        pack.pack(
            sources=data.sources,
            packed=data.packed,
            tokenizer=data.tokenizer,
            sequence_length=own.mix.sequence_length,
            vocab_size=found["tokenizer"].vocab_size,
            config=found["pack"],
            say=_say,
            progress=show,
        )
    except KeyboardInterrupt:
        _say("corpus: stopped; run the same command again to go on")
        return STOPPED
    finally:
        close()
    table = _mixture(workdir, sets, weights, epochs, tallies[mix.FOLDER], own)
    (workdir / REPORT).write_text(report.page(tallies, table), encoding="utf-8")
    _tell(table, own.mix, mix.shortages({row["name"]: row["tokens"] for row in table}, weights, epochs, own.mix.tokens))
    print(f"{workdir / REPORT}: what came in, what went and why")
    print(f"{mixture}: train on it with: {invocation.command('train')} --gin_file MODEL.gin --gin_file {mixture} --workdir runs/NAME")
    return 0


def _mixture(workdir: pathlib.Path, sets: list[str], weights: dict[str, float], epochs: dict[str, float], tally, own) -> list[dict]:
    """The rows of the report's table 1, by set."""
    table = []
    for name in sorted(sets, key=lambda name: -weights[name]):
        found = parts.read_json(workdir / "packed" / name / "manifest.json")
        languages = sorted(
            {
                language
                for domain, _, language in (key.partition(" ") for key in tally.out)
                if mix.set_of(domain, language, own.mix) == name
            },
            key=lambda language: -max(amount.bytes for key, amount in tally.out.items() if key.endswith(f" {language}")),
        )
        table.append(
            {
                "name": name,
                "languages": ", ".join(languages[:4]) + (", ..." if len(languages) > 4 else ""),
                "share": weights[name] / sum(weights.values()),
                "epochs": epochs.get(name),
                "bytes": found["train"]["bytes"] + found["heldout"]["bytes"],
                "tokens": found["train"]["tokens"],
            }
        )
    return table


def _tell(table: list[dict], own: sections.MixConfig, shortages: dict[str, float]) -> None:
    print(f"{'set':<28}{'language':<20}{'share':>10}{'epochs at most':>16}{'MB':>12}{'tokens':>16}")
    for row in table:
        limit = "any" if row["epochs"] is None else f"{row['epochs']:g}"
        print(f"{row['name']:<28}{row['languages']:<20}{row['share']:>10.2%}{limit:>16}{row['bytes'] / 1e6:>12,.1f}{row['tokens']:>16,}")
    limits = {row["name"]: row["epochs"] for row in table}
    for name, needed in shortages.items():
        print(
            f"WARNING: {own.tokens:,.0f} tokens would take {needed:,.2f} epochs of {name}, where mix.max_epochs allows {limits[name]:g}: "
            "more text, a smaller weight or more epochs"
        )


def _train_quality(args: argparse.Namespace) -> int:
    """Train the classifier that `quality.model` names."""
    from teleflm_jax.corpus.filters import quality

    if not (args.good and args.random):
        raise UserError("got --train_quality without --good or --random; allowed: both, folders or files of texts; add what is missing")
    found = options.load_sections(args, {"quality": sections.QualityConfig}) if args.gin_file or args.gin_param else {}
    report = quality.train(args.good, args.random, pathlib.Path(args.train_quality), found.get("quality", sections.QualityConfig()))
    print(f"{'threshold':>10}{'precision':>11}{'recall':>9}{'kept':>9}     on {report['held_out']:,} texts it did not see")
    for row in report["thresholds"]:
        print(f"{row['threshold']:>10.1f}{row['precision']:>11.3f}{row['recall']:>9.3f}{row['kept']:>9.3f}")
    print(f"{args.train_quality}: of a good and a random text the good one scores higher with a chance of {report['area']:.3f}")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)
