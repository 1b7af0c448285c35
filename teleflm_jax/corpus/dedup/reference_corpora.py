"""Earlier corpora, which a new one must not repeat: what is asked of them, and their documents' numbers among the new one's.

A new corpus is made as if their sources stood before its own. Of an earlier corpus it takes paragraphs' hashes and signatures as they are
on disk, and the text of those documents alone that may be duplicates; nothing there is changed. Parts of earlier corpora have numbers below
0, those of the first the lowest, so that its documents come before all others in every order by number.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute

from teleflm_jax.corpus import rows, spark
from teleflm_jax.corpus.config import DuplicateConfig, ParagraphConfig
from teleflm_jax.corpus.stages import parts
from teleflm_jax.errors import UserError

PART_BITS = 24
"""Of a part's number inside its corpus."""
SIGNED_BY = ("shingle_tokens", "bands", "rows", "seed", "code", "simplify_chinese")
HASHED_BY = ("min_characters", "simplify_chinese")
"""Settings that both corpora must share: signatures, and hashes of paragraphs, compare with those alone that were made alike."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Earlier:
    """A corpus that was made before."""

    workdir: pathlib.Path
    place: int
    """Below 0, the first of several the lowest: the priority of its documents, which is above that of every source."""
    parts: int
    """How many it has."""

    @property
    def numbers(self) -> range:
        """Its parts' numbers here."""
        return range(self.place << PART_BITS, (self.place << PART_BITS) + self.parts)

    @property
    def shift(self) -> int:
        """What a document's number here is more than there."""
        return self.place << PART_BITS + rows.ROW_BITS

    @property
    def hashes(self) -> pathlib.Path:
        """Folder of all its paragraphs' hashes."""
        return self.workdir / parts.PARAGRAPHS / "hashes"

    @property
    def signatures(self) -> pathlib.Path:
        """Folder of the signatures of its documents, before duplicates among them went."""
        return self.workdir / parts.DUPLICATES / "signatures"

    @property
    def kept(self) -> pathlib.Path:
        """Folder of its documents without duplicates."""
        return self.workdir / parts.DUPLICATES

    def identity(self, stage: str) -> str:
        """What a stage's results depend on."""
        return parts.fingerprint(self.workdir / stage)


def find(folders: Sequence[str], workdir: pathlib.Path, paragraphs: ParagraphConfig, duplicates: DuplicateConfig) -> tuple[Earlier, ...]:
    """Look at the earlier corpora.

    Args:
        folders: their working directories.
        workdir: of the new corpus.
        paragraphs: the new corpus's settings.
        duplicates: the same.

    Raises:
        UserError: one is not there, not finished, named twice, the new one itself, or made with other settings of signatures or hashes.
    """
    resolved = [str(pathlib.Path(folder).resolve()) for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise UserError(f"got corpus.earlier={list(folders)}, where one stands twice; allowed: each once; change corpus.earlier")
    found = []
    for place, folder in enumerate(map(pathlib.Path, folders), start=-len(folders)):
        if resolved[place] == str(workdir.resolve()):
            raise UserError(f"got corpus.earlier={folder}, this run's own --workdir; allowed: other corpora; change corpus.earlier")
        spark.refuse_pattern(folder, "corpus.earlier")
        _refuse_unfinished(folder, parts.PARAGRAPHS, "hashes")
        _refuse_unfinished(folder, parts.DUPLICATES, "signatures")
        _refuse_other(folder, parts.PARAGRAPHS, "paragraphs", HASHED_BY, paragraphs)
        _refuse_other(folder, parts.DUPLICATES, "duplicates", SIGNED_BY, duplicates)
        count = parts.read_json(folder / parts.DUPLICATES / "manifest.json")["parts"]
        found.append(Earlier(workdir=folder.absolute(), place=place, parts=count))
    return tuple(found)


def locate(earlier: Iterable[Earlier], number: int) -> tuple[Earlier, int]:
    """Say whose part has a number, and its number there."""
    [one] = (one for one in earlier if number in one.numbers)
    return one, number - one.numbers.start


def renumbered(batches: Iterable[pa.RecordBatch], shift: int) -> Iterator[pa.RecordBatch]:
    """Add to the documents' numbers."""
    for batch in batches:
        at = batch.schema.get_field_index("id")
        yield batch.set_column(at, "id", pyarrow.compute.add(batch["id"], shift))


def _refuse_unfinished(folder: pathlib.Path, stage: str, needed: str) -> None:
    if (folder / stage / "manifest.json").is_file() and (folder / stage / needed).is_dir():
        return
    missing = f"{stage}/{needed} is gone" if (folder / stage / "manifest.json").is_file() else f"{stage} is not finished"
    raise UserError(
        f"got corpus.earlier={folder}, where {missing if folder.exists() else 'nothing is'}; "
        "allowed: working directories of finished corpora; finish it, or change corpus.earlier"
    )


def _refuse_other(folder: pathlib.Path, stage: str, section: str, names: Sequence[str], config: object) -> None:
    begun = parts.read_json(folder / stage / "begun.json")
    if begun["version"] != parts.VERSION:
        raise UserError(f"got corpus.earlier={folder}, made by another version of this program; allowed: this one's; make it anew")
    theirs = begun["settings"][1]["config"]
    for name in names:
        if theirs[name] != getattr(config, name):
            raise UserError(
                f"got corpus.earlier={folder}, made with {section}.{name}={theirs[name]}; allowed: {getattr(config, name)} as here, "
                f"since hashes of another kind do not compare; change {section}.{name} or make that corpus anew"
            )
