"""Settings of the corpus pipeline: `corpus.*`, `extract.*`, `clean.*` and the other sections of `corpus`."""

import dataclasses
import math

from teleflm_jax.errors import UserError, refuse_outside, refuse_seed

CODE = "code"
"""Language of source code."""
EXTRACTORS = ("resiliparse", "trafilatura")
LANGUAGES = tuple("bg ca cs da de en es fr hr hu it ja nl pl pt ro ru sl sr sv uk zh".split())
"""Those of the report's Wikipedia dumps (section 2)."""
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
"""The same where a character counts as a word: about two of them make a word of other scripts, and common words are n-grams. Our choice."""
CODE_RULES = {"min_units": 10.0, "max_unreadable": 0.001, "max_duplicate_lines": 0.9}
"""Our choice; readers of code have rules of their own."""
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
"""After C4's `javascript` and policy lines, with Chinese ones. Our choice of phrases."""
STOP_WORDS = {
    "en": ("the", "be", "to", "of", "and", "that", "have", "with"),
    "zh": ("的", "是", "在", "了", "和", "有", "不", "为", "以", "這", "这"),
}
"""English: Gopher's. Chinese: our choice."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Where the raw text is, and what it is."""

    sources: dict[str, str]
    """Source -> folder or file. Of duplicates the one stays whose source is named first."""
    domains: dict[str, str]
    """Source -> domain that its documents belong to; several sources may share one."""
    formats: dict[str, str] = dataclasses.field(default_factory=dict)
    """Source -> format, where files do not tell it: `code`, `latex`; or for all of a source's files: `wikipedia`, `stackexchange`, `html`,
    `warc`, `documents`."""
    text_columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """Source -> the column of its JSON and Parquet files that holds the text, where that is not `text`."""
    earlier: tuple[str, ...] = ()
    """Working directories of corpora made before, whose paragraphs and documents this one does not repeat; they stay as they are."""
    unit_bytes: int = 256_000_000
    """Bytes of source files that become one part, the unit of work and of going on; a larger file that cannot be split is one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Pages to text."""

    extractor: str = "resiliparse"
    """`resiliparse`, or `trafilatura`, which finds a page's main text more exactly and takes some fifteen times as long."""

    def __post_init__(self):
        if self.extractor not in EXTRACTORS:
            raise UserError(f"got extract.extractor={self.extractor!r}; allowed: {', '.join(EXTRACTORS)}; change extract.extractor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CleanConfig:
    """Uniform text, languages, boilerplate, personal data, and rules for whole documents."""

    languages: tuple[str, ...] = LANGUAGES
    """ISO 639-1; documents of others are dropped; (): all are kept. Code always is."""
    line_phrases: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: dict(LINE_PHRASES))
    """Rule -> phrases; in lower case; a line with one of them, whatever its case, goes if it is short."""
    phrase_line: int = 120
    """Characters; longer lines are text that happens to say so."""
    mask: tuple[str, ...] = ()
    """Personal data to mask: any of `email`, `phone`, `identity_number`, `network_address`."""
    rules: dict[str, float] = dataclasses.field(default_factory=lambda: dict(RULES))
    """Rule -> threshold, in order; the first that a document does not keep is the reason why it goes. `corpus --rules` lists them."""
    unspaced_rules: dict[str, float] = dataclasses.field(default_factory=lambda: dict(UNSPACED_RULES))
    """The same for documents that are mostly of a script without spaces."""
    code_rules: dict[str, float] = dataclasses.field(default_factory=lambda: dict(CODE_RULES))
    """The same for source code."""
    domain_rules: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    """Domain -> rules of its own, in place of all those; {} for none, as poems and theorems need."""
    stop_words: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: dict(STOP_WORDS))
    """Language -> its commonest words, for `min_stop_words`; other languages pass that rule."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParagraphConfig:
    """Paragraphs that stand in several documents."""

    min_characters: int = 40
    """Letters and digits that make a line a paragraph, those of unspaced scripts counting three times; shorter ones may repeat."""
    min_left: float = 0.4
    """Share of a document's bytes that must remain, or it goes as a whole."""
    exempt_domains: tuple[str, ...] = ()
    """Domains whose documents neither lose paragraphs nor take them from others."""
    simplify_chinese: bool = True
    """Chinese paragraphs are compared by the simplified form of their characters, so that both scripts' copies of one meet."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DuplicateConfig:
    """Near-duplicate documents. The report names MinHash and no numbers; these are ours."""

    similarity: float = 0.8
    """Jaccard similarity of two documents' sets of shingles from which they are duplicates."""
    shingle_tokens: int = 5
    """Consecutive words of a shingle, or characters of a script without spaces."""
    bands: int = 20
    """Of a signature: 20 of 6 rows find 99.8 % of the pairs at 0.8, 98 % of those at 0.75."""
    rows: int = 6
    code: bool = True
    """Source code takes part."""
    simplify_chinese: bool = True
    """Chinese texts are compared by the simplified form of their characters, so that both scripts' copies of a text meet."""
    seed: int = 0
    """Chooses the hash functions."""

    def __post_init__(self):
        if not 0 < self.similarity <= 1:
            raise UserError(f"got duplicates.similarity={self.similarity}; allowed: above 0 up to 1; change duplicates.similarity")
        refuse_outside("duplicates", self, shingle_tokens=1, bands=1, rows=1)
        refuse_seed("duplicates", self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecontaminateConfig:
    """Benchmarks' test items in training text. The report names no n; 13 words are GPT-3's."""

    benchmarks: dict[str, str] = dataclasses.field(default_factory=dict)
    """Benchmark -> file or folder of its test items: JSON lines, of which all strings count, Parquet or plain text; none: no search."""
    ignored: str = ""
    """File or folder of the same kinds: licences, instructions and sayings, whose n-grams are no item's; empty: none."""
    words: int = 13
    """Tokens of an n-gram."""
    characters: int = 20
    """The same for items that are mostly of a script without spaces."""
    shortest: int = 8
    """Tokens from which a shorter item is looked for as a whole."""
    cut: bool = False
    """Cut out the lines of a hit and keep the rest, instead of dropping the document."""

    def __post_init__(self):
        refuse_outside("decontaminate", self, words=1, characters=1, shortest=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixConfig:
    """The mixture that is trained on. Source: report, table 1."""

    proportions: dict[str, float]
    """Domain -> sampling weight."""
    max_epochs: dict[str, float] = dataclasses.field(default_factory=dict)
    """Domain -> how often its documents may be drawn at most."""
    ratios: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    """Domain -> language -> weight, where languages are weighed against each other: the report has English 2 : Chinese 1 in web text."""
    tokens: float = 0.0
    """Of the training run, to be checked against what there is; 0: not checked."""
    sequence_length: int = 4096
    """Tokens of a packed record: `model.context_length` of the run."""
    tokenizer: str = ""
    """Path of a tokenizer.json to pack with; empty: one is trained on the documents, WORKDIR/tokenizer.json."""
    min_word_count: int = 1
    """Words that the tokenizer's sample has less often are left out; 1: none, so that merges are those of `tokenizers` on the same text."""

    def __post_init__(self):
        weights = {"proportions": self.proportions} | {f"ratios[{domain!r}]": ratios for domain, ratios in self.ratios.items()}
        for name, table in weights.items():
            wrong = {key: value for key, value in table.items() if not (value > 0 and math.isfinite(value))}
            if wrong or not table:
                raise UserError(f"got mix.{name}={wrong or table}; allowed: at least one entry, each above 0; change mix.{name}")
        refuse_outside("mix", self, tokens=0, sequence_length=1, min_word_count=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """A fastText classifier of quality, its training and its use. The report names no settings; these are fastText's usual ones."""

    model: str = ""
    """File of a classifier that `corpus --train_quality` made; empty: no document is scored."""
    thresholds: dict[str, float] = dataclasses.field(default_factory=dict)
    """Domain -> score from which a document stays."""
    quantiles: dict[str, float] = dataclasses.field(default_factory=dict)
    """Domain -> share of its documents, the lowest by score, that goes."""
    dimensions: int = 64
    epochs: int = 5
    word_ngrams: int = 2
    learning_rate: float = 0.1
    buckets: int = 1_000_000
    """For hashed n-grams; the model takes 4 x `dimensions` bytes for each."""
    min_count: int = 3
    """Words that are rarer in the training texts are left out."""
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
