"""Reference corpora, which a new corpus must not repeat: their requirements, and the ids of their documents in the new corpus.

A new corpus is built as if the sources of its reference corpora were listed before its own. It reads the paragraph hashes and signatures of
a reference corpus from disk, and the text of only those documents that may be duplicates; it changes nothing there. Partitions of reference
corpora have negative numbers, the first corpus the lowest, so that its documents sort before all others by id.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute

from teleflm_jax.corpus import rows, spark
from teleflm_jax.corpus.config import DuplicateConfig, ParagraphConfig
from teleflm_jax.corpus.stages import partitions
from teleflm_jax.errors import UserError

PART_BITS = 24
"""Bits of a partition's number inside its corpus."""
SIGNED_BY = ("shingle_tokens", "bands", "rows", "seed", "code", "simplify_chinese")
HASHED_BY = ("min_characters", "simplify_chinese")
"""Settings that must be equal in both corpora, because signatures and paragraph hashes depend on them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceCorpus:
    """A finished corpus whose content the new corpus does not repeat."""

    workdir: pathlib.Path
    index: int
    """Negative, the first of several corpora has the lowest; also the priority of its documents, before that of every source."""
    partitions: int
    """Number of its partitions."""

    @property
    def numbers(self) -> range:
        """Numbers of its partitions in the new corpus."""
        return range(self.index << PART_BITS, (self.index << PART_BITS) + self.partitions)

    @property
    def id_offset(self) -> int:
        """Offset added to its document ids in the new corpus."""
        return self.index << PART_BITS + rows.ROW_BITS

    @property
    def hashes(self) -> pathlib.Path:
        """Folder of its paragraph hashes."""
        return self.workdir / partitions.PARAGRAPHS / "hashes"

    @property
    def signatures(self) -> pathlib.Path:
        """Folder of the signatures of its documents before deduplication."""
        return self.workdir / partitions.DUPLICATES / "signatures"

    @property
    def kept(self) -> pathlib.Path:
        """Folder of its deduplicated documents."""
        return self.workdir / partitions.DUPLICATES

    def identity(self, stage: str) -> str:
        """Return a hash of everything that a stage's output depends on."""
        return partitions.fingerprint(self.workdir / stage)


def find(
    folders: Sequence[str], workdir: pathlib.Path, paragraphs: ParagraphConfig, duplicates: DuplicateConfig
) -> tuple[ReferenceCorpus, ...]:
    """Check the reference corpora and return them.

    Args:
        folders: Their working directories.
        workdir: Working directory of the new corpus.
        paragraphs: Paragraph settings of the new corpus.
        duplicates: Duplicate settings of the new corpus.

    Raises:
        UserError: A corpus does not exist, is not finished, is listed twice, is the new corpus itself, or has other settings of signatures
            or hashes.
    """
    resolved = [str(pathlib.Path(folder).resolve()) for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise UserError(f"got corpus.earlier={list(folders)}, which lists a corpus twice; allowed: each once; change corpus.earlier")
    found = []
    for index, folder in enumerate(map(pathlib.Path, folders), start=-len(folders)):
        if resolved[index] == str(workdir.resolve()):
            raise UserError(f"got corpus.earlier={folder}, this run's own --workdir; allowed: other corpora; change corpus.earlier")
        spark.refuse_pattern(folder, "corpus.earlier")
        _refuse_unfinished(folder, partitions.PARAGRAPHS, "hashes")
        _refuse_unfinished(folder, partitions.DUPLICATES, "signatures")
        _refuse_other(folder, partitions.PARAGRAPHS, "paragraphs", HASHED_BY, paragraphs)
        _refuse_other(folder, partitions.DUPLICATES, "duplicates", SIGNED_BY, duplicates)
        count = partitions.read_json(folder / partitions.DUPLICATES / "manifest.json")["parts"]
        found.append(ReferenceCorpus(workdir=folder.absolute(), index=index, partitions=count))
    return tuple(found)


def locate(references: Iterable[ReferenceCorpus], number: int) -> tuple[ReferenceCorpus, int]:
    """Return the corpus of a partition with a number below 0, and the partition's number in that corpus."""
    [one] = (one for one in references if number in one.numbers)
    return one, number - one.numbers.start


def renumbered(batches: Iterable[pa.RecordBatch], id_offset: int) -> Iterator[pa.RecordBatch]:
    """Add an offset to the ids of documents."""
    for batch in batches:
        at = batch.schema.get_field_index("id")
        yield batch.set_column(at, "id", pyarrow.compute.add(batch["id"], id_offset))


def _refuse_unfinished(folder: pathlib.Path, stage: str, needed: str) -> None:
    if (folder / stage / "manifest.json").is_file() and (folder / stage / needed).is_dir():
        return
    missing = f"{stage}/{needed} is missing" if (folder / stage / "manifest.json").is_file() else f"{stage} is not finished"
    raise UserError(
        f"got corpus.earlier={folder}, where {missing if folder.exists() else 'nothing is'}; "
        "allowed: working directories of finished corpora; finish it, or change corpus.earlier"
    )


def _refuse_other(folder: pathlib.Path, stage: str, section: str, names: Sequence[str], config: object) -> None:
    begun = partitions.read_json(folder / stage / "begun.json")
    if begun["version"] != partitions.VERSION:
        raise UserError(f"got corpus.earlier={folder}, made by another version of this program; allowed: this version; build it again")
    theirs = begun["settings"][1]["config"]
    for name in names:
        if theirs[name] != getattr(config, name):
            raise UserError(
                f"got corpus.earlier={folder}, made with {section}.{name}={theirs[name]}; allowed: {getattr(config, name)} as here, "
                f"because other hashes cannot be compared; change {section}.{name} or build that corpus again"
            )
