"""Checks across the sections of a corpus's settings: names of sources, domains and languages must exist."""

from collections.abc import Iterable

from teleflm_jax.corpus.config import CODE, CleanConfig, CorpusConfig, MixConfig, ParagraphConfig, QualityConfig
from teleflm_jax.errors import UserError


def refuse_unknown_names(
    corpus: CorpusConfig, clean: CleanConfig, paragraphs: ParagraphConfig, quality: QualityConfig, mix: MixConfig
) -> None:
    """Check every name that refers to another section, before hours of work fail on it or ignore it.

    Raises:
        UserError: A source has no domain, a domain has no weight, or a name does not exist.
    """
    for source, path in corpus.sources.items():
        if source not in corpus.domains:
            raise UserError(f"got the source {source!r} ({path}) without a domain; allowed: one for every source; bind corpus.domains")
        domain = corpus.domains[source]
        if domain not in mix.proportions:
            raise UserError(
                f"got the domain {domain!r} (source {source!r}) without a weight; allowed: one for every domain; bind mix.proportions"
            )
    tables = {"corpus.domains": corpus.domains, "corpus.formats": corpus.formats, "corpus.text_columns": corpus.text_columns}
    for setting, table in tables.items():
        _refuse(setting, table, corpus.sources, "source")
    tables = {
        "clean.domain_rules": clean.domain_rules,
        "paragraphs.exempt_domains": paragraphs.exempt_domains,
        "quality.thresholds": quality.thresholds,
        "quality.quantiles": quality.quantiles,
        "mix.max_epochs": mix.max_epochs,
        "mix.ratios": mix.ratios,
    }
    for setting, table in tables.items():
        _refuse(setting, table, mix.proportions, "domain")
    for domain, weights in mix.ratios.items():
        _refuse(f"mix.ratios[{domain!r}]", weights, (*clean.languages, CODE) if clean.languages else weights, "language")


def domains_without_source(corpus: CorpusConfig, mix: MixConfig) -> list[str]:
    """Return the domains that have a weight and no source; the other domains share their weight."""
    return sorted(mix.proportions.keys() - corpus.domains.values())


def _refuse(setting: str, named: Iterable[str], allowed: Iterable[str], kind: str) -> None:
    for name in named:
        if name not in allowed:
            raise UserError(f"got the {kind} {name!r} in {setting}; allowed: {', '.join(allowed)}; change {setting}")
