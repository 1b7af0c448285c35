"""`python -m teleflm_jax corpus`: from crawls, dumps and folders to packed sets and the mixture that train.py reads."""

import argparse
import dataclasses
import signal
import sys

from teleflm_jax import config
from teleflm_jax.cli import options, tokenizer
from teleflm_jax.cli.pack import STOPPED, bar, lines
from teleflm_jax.corpus import config as sections
from teleflm_jax.corpus import parts
from teleflm_jax.data.config import DataConfig
from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer.config import TokenizerConfig

HELP = "make a corpus on Spark: read, clean, deduplicate, decontaminate, mix and pack"
SECTIONS = {
    "corpus": sections.CorpusConfig,
    "extract": sections.ExtractConfig,
    "clean": sections.CleanConfig,
    "paragraphs": sections.ParagraphConfig,
    "duplicates": sections.DuplicateConfig,
    "decontaminate": sections.DecontaminateConfig,
    "mix": sections.MixConfig,
    "tokenizer": TokenizerConfig,
    "pack": sections.PackConfig,
}
"""Section of a corpus's configuration -> its dataclass."""
MIXTURE = "mixture.gin"
"""In the corpus's folder: what train.py reads beside a model's configuration."""


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    parser.epilog = f"example: {parser.prog} --gin_file configs/runs/corpus.gin --workdir runs/corpus"
    options.add_arguments(parser)
    parser.add_argument("--master", default="local[*]", help="Spark's: local[N] on this machine (default: all cores), or spark://HOST:PORT")
    parser.add_argument("--rules", action="store_true", help="list the rules that documents can be held against, and stop")


def main(args: argparse.Namespace) -> int:
    """Make the corpus, or go on with it."""
    if args.rules:
        from teleflm_jax.corpus import rules

        for name, rule in rules.RULES.items():
            print(f"{name:36}{rule.what}")
        return 0
    found = options.load_sections(args, SECTIONS)
    workdir = options.workdir(args)
    from teleflm_jax.corpus import mix, pack, pipeline

    own = pipeline.Settings(**{field.name: found[field.name] for field in dataclasses.fields(pipeline.Settings)})
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / options.SAVED_CONFIG).write_text(config.dump(found))
    show, close = (bar if sys.stderr.isatty() else lines)("parts")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        pipeline.run(workdir, own, args.master, _say, show)
        sets = sorted(path.name for path in (workdir / mix.FOLDER).iterdir() if path.is_dir())
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
        mixture.write_text(config.dump({"data": data, "tokenizer": found["tokenizer"], "pack": found["pack"]}))
        if not own.mix.tokenizer:
            call = argparse.Namespace(subcommand="train", run=None, gin_file=[str(mixture)], gin_param=[], workdir=None, force=False)
            tokenizer.main(call)
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
    tokens = {name: parts.read_json(workdir / "packed" / name / "manifest.json")["train"]["tokens"] for name in sets}
    _tell_mixture(tokens, weights, epochs, own.mix)
    print(f"{mixture}: train on it with: python train.py --gin_file MODEL.gin --gin_file {mixture} --workdir runs/NAME")
    return 0


def _tell_mixture(tokens: dict[str, int], weights: dict[str, float], epochs: dict[str, float], own: sections.MixConfig) -> None:
    from teleflm_jax.corpus import mix

    whole = sum(weights.values())
    print(f"{'set':<28}{'tokens':>16}{'share':>10}{'epochs at most':>16}")
    for name in sorted(tokens, key=lambda name: -weights[name]):
        limit = f"{epochs[name]:g}" if name in epochs else "any"
        print(f"{name:<28}{tokens[name]:>16,}{weights[name] / whole:>10.2%}{limit:>16}")
    for name, needed in mix.shortages(tokens, weights, epochs, own.tokens).items():
        print(
            f"WARNING: {own.tokens:,.0f} tokens would take {needed:,.2f} epochs of {name}, where mix.max_epochs allows {epochs[name]:g}: "
            "more text, a smaller weight or more epochs"
        )


def _say(line: str) -> None:
    print(line, flush=True)
