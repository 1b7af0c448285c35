"""Names that one section of a corpus's settings takes from another: of sources, domains and languages."""

from collections.abc import Iterable

from teleflm_jax.corpus.config import CODE, CleanConfig, CorpusConfig, MixConfig, ParagraphConfig, QualityConfig
from teleflm_jax.errors import UserError


def refuse_unknown(corpus: CorpusConfig, clean: CleanConfig, paragraphs: ParagraphConfig, quality: QualityConfig, mix: MixConfig) -> None:
    """Hold every name against what it names, before hours of work end at it or pass it over.

    Raises:
        UserError: a source without a domain, a domain without a weight, or a name that nothing has.
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


def without_source(corpus: CorpusConfig, mix: MixConfig) -> list[str]:
    """Domains that have a weight and no text; the others share what they would have had."""
    return sorted(mix.proportions.keys() - corpus.domains.values())


def _refuse(setting: str, named: Iterable[str], allowed: Iterable[str], kind: str) -> None:
    for name in named:
        if name not in allowed:
            raise UserError(f"got the {kind} {name!r} in {setting}; allowed: {', '.join(allowed)}; change {setting}")
