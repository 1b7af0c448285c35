"""State of a corpus run: settings, partitions, and steps that work on each partition or on all documents at once."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Sequence

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
from teleflm_jax.corpus.dedup.reference_corpora import ReferenceCorpus
from teleflm_jax.corpus.spark import Progress
from teleflm_jax.corpus.stages import partitions
from teleflm_jax.documents import work_units
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.tokenizer.config import TokenizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """All sections of a corpus configuration."""

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
class Partition:
    """A work unit of one source's files, which has one output file in every stage."""

    source: str
    priority: int
    """Position of the source in `corpus.sources`."""
    unit: work_units.WorkUnit


@dataclasses.dataclass(frozen=True)
class CorpusRun:
    """The construction of one corpus."""

    workdir: pathlib.Path
    settings: CorpusSettings
    partitions: Sequence[Partition]
    references: Sequence[ReferenceCorpus]
    session: spark.Session
    """Spark session."""
    log: Callable[[str], None]
    """Receives one line for the user."""
    progress: Progress

    def folder(self, stage: str) -> pathlib.Path:
        """Return the folder of a stage."""
        return self.workdir / stage

    def for_each_partition(self, step: str, folder: pathlib.Path, work: Callable[[int], None], others: Iterable[int] = ()) -> None:
        """Run a step for every partition without a result in `folder`, including `others`, which are partitions of reference corpora."""
        folder.mkdir(exist_ok=True)
        numbers = frozenset(range(len(self.partitions))).union(others)
        spark.for_each(self.session, step, work, numbers, functools.partial(partitions.done, folder), self.progress)

    def make_table(self, step: str, folder: pathlib.Path, make: Callable[[], spark.DataFrame], *, by_partition: bool = False) -> None:
        """Write a Spark table unless it exists."""
        if folder.exists():
            return
        self.progress(step, 0, 1)

        def write(partial: pathlib.Path) -> None:
            rows_ = spark.by_partition(make()).write.partitionBy("part") if by_partition else make().write
            rows_.parquet(str(partial))

        with spark.table(folder) as partial:
            spark.wait(lambda: write(partial))
        self.progress(step, 1, 1)

    def load_table(self, folder: pathlib.Path) -> spark.DataFrame:
        """Return a step's results as a Spark table."""
        return self.session.read.option("pathGlobFilter", "*.parquet").parquet(str(folder))
