"""One corpus being made: its settings, its parts, and how a step is done for each part or for all documents at once."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from teleflm_jax.corpus import spark
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
from teleflm_jax.corpus.dedup.reference_corpora import Earlier
from teleflm_jax.corpus.spark import Progress
from teleflm_jax.corpus.stages import parts
from teleflm_jax.documents import work_units
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.tokenizer.config import TokenizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """All sections of a corpus."""

    corpus: CorpusConfig
    extract: ExtractConfig
    clean: CleanConfig
    paragraphs: ParagraphConfig
    quality: QualityConfig
    duplicates: DuplicateConfig
    decontaminate: DecontaminateConfig
    mix: MixConfig
    tokenizer: TokenizerConfig
    pack: PackConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A unit of one source's files, on its way to a part of every stage."""

    source: str
    priority: int
    """Place of the source in `corpus.sources`."""
    unit: work_units.Unit


@dataclasses.dataclass(frozen=True)
class Run:
    """One corpus being made."""

    workdir: pathlib.Path
    settings: Settings
    parts: Sequence[Part]
    earlier: Sequence[Earlier]
    spark: Any
    """The session."""
    say: Callable[[str], None]
    progress: Progress

    def folder(self, stage: str) -> pathlib.Path:
        """Where a stage's results are."""
        return self.workdir / stage

    def each(self, step: str, folder: pathlib.Path, work: Callable[[int], None], others: Iterable[int] = ()) -> None:
        """Do a step's work for every part, and for parts of earlier corpora, whose result is not in the folder."""
        folder.mkdir(exist_ok=True)
        numbers = frozenset(range(len(self.parts))).union(others)
        spark.each(self.spark, step, work, numbers, functools.partial(parts.done, folder), self.progress)

    def table(self, step: str, folder: pathlib.Path, make: Callable[[], Any], *, by_part: bool = False) -> None:
        """Make a table by Spark, unless it is there."""
        if folder.exists():
            return
        self.progress(step, 0, 1)

        def write(partial: pathlib.Path) -> None:
            rows_ = spark.by_part(make()).write.partitionBy("part") if by_part else make().write
            rows_.parquet(str(partial))

        with spark.table(folder) as partial:
            spark.wait(lambda: write(partial))
        self.progress(step, 1, 1)

    def load(self, folder: pathlib.Path):
        """A step's results as Spark's."""
        return self.spark.read.option("pathGlobFilter", "*.parquet").parquet(str(folder))
