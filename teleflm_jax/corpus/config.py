"""Settings of the corpus pipeline: `corpus.*`, `extract.*`, `clean.*` and the other sections of `corpus`."""

import dataclasses
import math

from teleflm_jax.errors import UserError, refuse_outside, refuse_seed

CODE = "code"
"""Language of source code."""
EXTRACTORS = ("resiliparse", "trafilatura")
LANGUAGES = tuple("bg ca cs da de en es fr hr hu it ja nl pl pt ro ru sl sr sv uk zh".split())
"""Languages of the report's Wikipedia dumps (section 2)."""
RULES = {
    "min_units": 50.0,
    "max_units": 100_000.0,
    "min_mean_word": 3.0,
    "max_mean_word": 10.0,
    "max_unreadable": 0.001,
    "max_lorem_ipsum": 0.0,
    "max_symbols": 0.1,
    "max_bullet_lines": 0.9,
    "max_ellipsis_lines": 0.3,
    "min_lettered_words": 0.8,
    "min_stop_words": 2.0,
    "min_ended_lines": 0.12,
    "max_short_lines": 0.67,
    "max_newlines": 0.3,
    "max_duplicate_lines": 0.3,
    "max_duplicate_line_characters": 0.2,
    "max_duplicate_paragraphs": 0.3,
    "max_duplicate_paragraph_characters": 0.2,
    "max_top_2gram": 0.2,
    "max_top_3gram": 0.18,
    "max_top_4gram": 0.16,
    "max_duplicate_5gram": 0.15,
    "max_duplicate_6gram": 0.14,
    "max_duplicate_7gram": 0.13,
    "max_duplicate_8gram": 0.12,
    "max_duplicate_9gram": 0.11,
    "max_duplicate_10gram": 0.10,
}
"""Gopher's (table A1) and FineWeb's thresholds."""
UNSPACED_RULES = {name: RULES[name] for name in RULES if name not in ("min_mean_word", "max_mean_word", "min_lettered_words")} | {
    "min_units": 100.0,
    "max_units": 200_000.0,
    "max_newlines": 0.15,
    "max_top_2gram": 0.12,
    "max_top_3gram": 0.12,
    "max_top_4gram": 0.12,
}
"""Thresholds where a character counts as a word: a word of other scripts is about two of them, and common words are n-grams. Our choice."""
CODE_RULES = {"min_units": 10.0, "max_unreadable": 0.001, "max_duplicate_lines": 0.9}
"""Thresholds for source code; our choice. The reader of code has further rules."""
LINE_PHRASES = {
    "cookie lines": ("uses cookies", "use of cookies", "use cookies", "cookie policy", "cookie settings", "accept cookies"),
    "terms lines": ("terms of use", "terms of service", "privacy policy", "all rights reserved", "powered by wordpress"),
    "script lines": ("enable javascript", "javascript is disabled", "javascript is not enabled"),
    "share lines": (
        "share on facebook",
        "share this:",
        "tweet this",
        "click to share",
        "leave a reply",
        "skip to content",
        "skip to main content",
    ),
    "Chinese footer lines": ("版权所有", "版權所有", "未经许可", "未经授权", "icp备", "公网安备", "网站地图", "联系我们", "免责声明"),
    "Chinese navigation lines": (
        "上一篇",
        "下一篇",
        "返回顶部",
        "返回首页",
        "相关阅读",
        "相关推荐",
        "点击查看",
        "扫码关注",
        "扫一扫",
        "微信公众号",
        "分享到",
        "阅读全文",
    ),
}
"""Phrases of boilerplate lines, after C4's `javascript` and policy lines, with Chinese ones. Our choice."""
STOP_WORDS = {
    "en": ("the", "be", "to", "of", "and", "that", "have", "with"),
    "zh": ("的", "是", "在", "了", "和", "有", "不", "为", "以", "這", "这"),
}
"""English: Gopher's. Chinese: our choice."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Sources of raw text and their domains."""

    sources: dict[str, str]
    """Source -> folder or file. Of duplicates, the document of the source listed first is kept."""
    domains: dict[str, str]
    """Source -> domain of its documents; several sources may share a domain."""
    formats: dict[str, str] = dataclasses.field(default_factory=dict)
    """Source -> format, where it cannot be detected (`code`, `latex`), or to override detection for all files of a source: `wikipedia`,
    `stackexchange`, `html`, `warc`, `documents`."""
    text_columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """Source -> text column of its JSON and Parquet files, where it is not `text`."""
    earlier: tuple[str, ...] = ()
    """Working directories of reference corpora, whose paragraphs and documents this corpus does not repeat; they are only read."""
    unit_bytes: int = 256_000_000
    """Bytes of source files per partition, the unit of work and of resuming; a larger file that cannot be split is one partition."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Extraction of text from HTML pages."""

    extractor: str = "resiliparse"
    """`resiliparse`, or `trafilatura`, which finds a page's main text more exactly and takes about fifteen times as long."""

    def __post_init__(self):
        if self.extractor not in EXTRACTORS:
            raise UserError(f"got extract.extractor={self.extractor!r}; allowed: {', '.join(EXTRACTORS)}; change extract.extractor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CleanConfig:
    """Normalization, language identification, boilerplate lines, personal data, and rules for whole documents."""

    languages: tuple[str, ...] = LANGUAGES
    """ISO 639-1 codes of the languages to keep; () keeps all. Code is always kept."""
    line_phrases: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: dict(LINE_PHRASES))
    """Rule -> phrases in lower case; a short line that contains one, in any case, is removed."""
    phrase_line: int = 120
    """Maximum characters of a line that is removed for a phrase; longer lines are text that happens to contain it."""
    mask: tuple[str, ...] = ()
    """Kinds of personal data to mask: any of `email`, `phone`, `identity_number`, `network_address`."""
    rules: dict[str, float] = dataclasses.field(default_factory=lambda: dict(RULES))
    """Rule -> threshold, in order; the first rule that a document fails is counted as the reason. `corpus --rules` lists the rules."""
    unspaced_rules: dict[str, float] = dataclasses.field(default_factory=lambda: dict(UNSPACED_RULES))
    """Rule -> threshold for documents that are mostly in a script without spaces."""
    code_rules: dict[str, float] = dataclasses.field(default_factory=lambda: dict(CODE_RULES))
    """Rule -> threshold for source code."""
    domain_rules: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    """Domain -> rules that replace all others; {} for no rules, for example for poems and theorems."""
    stop_words: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: dict(STOP_WORDS))
    """Language -> its most frequent words, for `min_stop_words`; other languages pass that rule."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParagraphConfig:
    """Removal of paragraphs that occur in several documents."""

    min_characters: int = 40
    """Minimum letters and digits of a paragraph, those of unspaced scripts counting three times; shorter lines may repeat."""
    min_left: float = 0.4
    """Minimum share of a document's bytes that must remain; otherwise the whole document is dropped."""
    exempt_domains: tuple[str, ...] = ()
    """Domains whose documents neither lose paragraphs nor cause others to lose them."""
    simplify_chinese: bool = True
    """Compare Chinese paragraphs in simplified characters, so that copies in both scripts match."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DuplicateConfig:
    """Near-duplicate documents. The report names MinHash without parameters; these are our choices."""

    similarity: float = 0.8
    """Minimum Jaccard similarity of the shingle sets of two duplicates."""
    shingle_tokens: int = 5
    """Consecutive words per shingle, or characters of a script without spaces."""
    bands: int = 20
    """Bands of a MinHash signature: 20 bands of 6 rows find 99.8 % of the pairs at similarity 0.8 and 98 % of those at 0.75."""
    rows: int = 6
    """Hash functions per band."""
    code: bool = True
    """Deduplicate source code too."""
    simplify_chinese: bool = True
    """Compare Chinese texts in simplified characters, so that copies in both scripts match."""
    seed: int = 0
    """Seed of the hash functions."""

    def __post_init__(self):
        if not 0 < self.similarity <= 1:
            raise UserError(f"got duplicates.similarity={self.similarity}; allowed: above 0 up to 1; change duplicates.similarity")
        refuse_outside("duplicates", self, shingle_tokens=1, bands=1, rows=1)
        refuse_seed("duplicates", self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecontaminateConfig:
    """Removal of benchmark items from training text. The report names no n; 13 words follow GPT-3."""

    benchmarks: dict[str, str] = dataclasses.field(default_factory=dict)
    """Benchmark -> file or folder of its test items: JSON Lines (all strings count), Parquet or plain text; empty: no search."""
    ignored: str = ""
    """File or folder of the same formats with licenses, instructions and sayings, whose n-grams are removed from the items; empty: none."""
    words: int = 13
    """Tokens per n-gram."""
    characters: int = 20
    """Tokens per n-gram for items that are mostly in a script without spaces."""
    shortest: int = 8
    """Minimum tokens of an item shorter than an n-gram, which is searched as a whole."""
    cut: bool = False
    """Remove the lines with a hit and keep the rest, instead of dropping the document."""

    def __post_init__(self):
        refuse_outside("decontaminate", self, words=1, characters=1, shortest=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Training mixture. Source: report, table 1."""

    proportions: dict[str, float]
    """Domain -> sampling weight."""
    max_epochs: dict[str, float] = dataclasses.field(default_factory=dict)
    """Domain -> maximum number of passes over its documents."""
    ratios: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    """Domain -> language -> weight, for domains that are split by language: the report has English 2 : Chinese 1 in web text."""
    tokens: float = 0.0
    """Tokens of the training run, to warn if the corpus is too small; 0: no check."""
    sequence_length: int = 4096
    """Tokens of a packed record: `model.context_length` of the run."""
    tokenizer: str = ""
    """Path of the tokenizer.json to pack with; empty: WORKDIR/tokenizer.json is trained on the documents."""
    min_word_count: int = 1
    """Minimum count of a word in the tokenizer's sample; with 1 the merges equal those of `tokenizers` on the same text."""

    def __post_init__(self):
        weights = {"proportions": self.proportions} | {f"ratios[{domain!r}]": ratios for domain, ratios in self.ratios.items()}
        for name, table in weights.items():
            wrong = {key: value for key, value in table.items() if not (value > 0 and math.isfinite(value))}
            if wrong or not table:
                raise UserError(f"got mix.{name}={wrong or table}; allowed: at least one entry, each above 0; change mix.{name}")
        refuse_outside("mix", self, tokens=0, sequence_length=1, min_word_count=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Training and use of a fastText quality classifier. The report names no settings; these are fastText's usual ones."""

    model: str = ""
    """Classifier file from `corpus --train_quality`; empty: documents are not scored."""
    thresholds: dict[str, float] = dataclasses.field(default_factory=dict)
    """Domain -> minimum score of a document."""
    quantiles: dict[str, float] = dataclasses.field(default_factory=dict)
    """Domain -> share of its documents, those with the lowest scores, that is dropped."""
    dimensions: int = 64
    epochs: int = 5
    word_ngrams: int = 2
    learning_rate: float = 0.1
    buckets: int = 1_000_000
    """Buckets for hashed n-grams; each takes 4 x `dimensions` bytes of the model."""
    min_count: int = 3
    """Minimum count of a word in the training texts."""
    seed: int = 0

    def __post_init__(self):
        both = sorted(self.thresholds.keys() & self.quantiles.keys())
        if both:
            raise UserError(f"got quality.thresholds and quality.quantiles for {', '.join(both)}; allowed: one of them; remove the other")
        for name in ("thresholds", "quantiles"):
            wrong = {domain: value for domain, value in getattr(self, name).items() if not 0 <= value <= 1}
            if wrong:
                raise UserError(f"got quality.{name}={wrong}; allowed: 0 to 1; change quality.{name}")
        if (self.thresholds or self.quantiles) and not self.model:
            raise UserError("got quality.thresholds or quality.quantiles without a model; allowed: with one; bind quality.model")
        refuse_outside("quality", self, dimensions=1, epochs=1, word_ngrams=1, learning_rate=None, buckets=1, min_count=1)
        refuse_seed("quality", self.seed)
