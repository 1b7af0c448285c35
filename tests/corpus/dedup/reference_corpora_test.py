import dataclasses
import json

import pyarrow as pa
import pytest

from teleflm_jax.corpus import rows
from teleflm_jax.corpus.config import DuplicateConfig, ParagraphConfig
from teleflm_jax.corpus.dedup import reference_corpora
from teleflm_jax.corpus.stages import partitions
from teleflm_jax.errors import UserError


def made(folder, count=3, **changed):
    """A corpus's folder, as far as another one looks at it."""
    own = {partitions.PARAGRAPHS: ParagraphConfig(), partitions.DUPLICATES: DuplicateConfig(**changed)}
    for stage, config in own.items():
        partitions.begin(folder / stage, ["", {"config": dataclasses.asdict(config), "earlier": []}])
        (folder / stage / ("hashes" if stage == partitions.PARAGRAPHS else "signatures")).mkdir()
        (folder / stage / "manifest.json").write_text(json.dumps({"finished": True, "parts": count}))
    return str(folder)


def find(folders, workdir, paragraphs=None, **changed):
    return reference_corpora.find(folders, workdir, paragraphs or ParagraphConfig(), DuplicateConfig(**changed))


def test_the_first_comes_before_the_second_and_both_before_what_is_new(tmp_path):
    found = find([made(tmp_path / "a"), made(tmp_path / "b", count=2)], tmp_path / "c")
    numbers = [number for one in found for number in one.numbers]
    assert numbers == sorted(set(numbers)) and len(numbers) == 5 and numbers[-1] < 0
    assert [reference_corpora.locate(found, number)[1] for number in numbers] == [0, 1, 2, 0, 1]
    assert [one.index for one in found] == [-2, -1]
    for one in found:
        for there, number in enumerate(one.numbers):
            last = (there << rows.ROW_BITS) + (1 << rows.ROW_BITS) - 1
            assert last + one.id_offset < 0 and (last + one.id_offset) >> rows.ROW_BITS == number


def test_documents_get_the_numbers_that_their_parts_have(tmp_path):
    [one] = find([made(tmp_path / "a")], tmp_path / "c")
    batch = pa.record_batch({"text": ["x", "y"], "id": pa.array([(2 << rows.ROW_BITS) + 7, 0], pa.int64())})
    [found] = reference_corpora.renumbered([batch], one.id_offset)
    assert found["text"].to_pylist() == ["x", "y"]
    number = found["id"][0].as_py() >> rows.ROW_BITS
    assert reference_corpora.locate([one], number) == (one, 2) and found["id"][0].as_py() - one.id_offset == (2 << rows.ROW_BITS) + 7


def test_similarity_and_what_signatures_do_not_depend_on_may_differ(tmp_path):
    [one] = find([made(tmp_path / "a", similarity=0.9)], tmp_path / "c", ParagraphConfig(min_left=0.1), similarity=0.7)
    assert one.partitions == 3


@pytest.mark.parametrize("name, value", [("shingle_tokens", 4), ("bands", 9), ("rows", 13), ("seed", 5), ("simplify_chinese", False)])
def test_signatures_of_another_kind_are_refused(tmp_path, name, value):
    folder = made(tmp_path / "a", **{name: value})
    with pytest.raises(UserError, match=f"duplicates.{name}={value}; allowed: {getattr(DuplicateConfig(), name)} as here"):
        find([folder], tmp_path / "c")
    assert find([folder], tmp_path / "c", **{name: value})


@pytest.mark.parametrize("name, value", [("min_characters", 30), ("simplify_chinese", False)])
def test_hashes_of_other_paragraphs_are_refused(tmp_path, name, value):
    with pytest.raises(UserError, match=f"paragraphs.{name}={getattr(ParagraphConfig(), name)}; allowed: {value} as here"):
        find([made(tmp_path / "a")], tmp_path / "c", ParagraphConfig(**{name: value}))


def test_what_is_not_there_not_finished_or_the_run_itself_is_refused(tmp_path):
    folder = made(tmp_path / "a")
    with pytest.raises(UserError, match="nothing is"):
        find([folder, str(tmp_path / "b")], tmp_path / "c")
    with pytest.raises(UserError, match="own --workdir"):
        find([folder], tmp_path / "x" / ".." / "a")
    with pytest.raises(UserError, match="twice"):
        find([folder, folder], tmp_path / "c")
    (tmp_path / "a" / partitions.DUPLICATES / "signatures").rmdir()
    with pytest.raises(UserError, match="5-duplicates/signatures is missing"):
        find([folder], tmp_path / "c")
    (tmp_path / "a" / partitions.DUPLICATES / "manifest.json").unlink()
    with pytest.raises(UserError, match="5-duplicates is not finished"):
        find([folder], tmp_path / "c")


def test_a_corpus_of_another_version_is_refused(tmp_path, monkeypatch):
    folder = made(tmp_path / "a")
    monkeypatch.setattr(partitions, "VERSION", partitions.VERSION + 1)
    with pytest.raises(UserError, match="another version"):
        find([folder], tmp_path / "c")
