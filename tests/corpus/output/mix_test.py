import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from teleflm_jax.corpus import rows
from teleflm_jax.corpus.config import MixConfig
from teleflm_jax.corpus.output import mix
from teleflm_jax.corpus.stages import partitions
from teleflm_jax.documents.statistics import Amount, Statistics
from teleflm_jax.errors import UserError

CONFIG = MixConfig(proportions={"web": 0.75, "github": 0.15, "books": 0.1}, max_epochs={"books": 3}, ratios={"web": {"en": 2, "zh": 1}})
DOCUMENTS = [
    ("web", "en", "an English page"),
    ("github", "code", "x = 1"),
    ("web", "zh", "中文网页"),
    ("web", "de", "eine deutsche Seite"),
    ("books", "de", "ein Buch"),
    ("web", "en", "another page"),
]


def batches(documents=DOCUMENTS):
    for i, (domain, language, text) in enumerate(documents):  # a batch each: files are appended to
        yield from rows.batches([(i, domain, "s", f"o {i}", f"family {i}", "2020", language, 0.5, text)], rows.DOCUMENT)


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def split(folder, number=0, found=None):
    statistics = Statistics()
    mix.split(statistics.entering(found or batches()), statistics, folder, number, config=CONFIG)
    return statistics


def test_a_set_is_a_domain_or_its_documents_of_a_language_that_is_weighed():
    assert mix.set_of("books", "de", CONFIG) == "books"
    assert (mix.set_of("web", "en", CONFIG), mix.set_of("web", "zh", CONFIG), mix.set_of("web", "de", CONFIG)) == ("web-en", "web-zh", "")
    assert mix.set_of("github", "code", CONFIG) == "github" and mix.set_of("web", "code", CONFIG) == ""


def test_documents_are_written_by_set_and_counted(tmp_path):
    statistics = split(tmp_path)
    assert files(tmp_path) == [f"{name}/part-000000.parquet" for name in ("books", "github")] + ["part-000000.json"] + [
        f"web-{language}/part-000000.parquet" for language in ("en", "zh")
    ]
    table = pq.read_table(tmp_path / "web-en" / "part-000000.parquet")
    assert table.column_names == list(mix.COLUMNS) and table["text"].to_pylist() == ["an English page", "another page"]
    assert table.to_pylist()[1] | {"text": ""} == {
        "text": "",
        "family": "family 5",
        "source": "s",
        "origin": "o 5",
        "language": "en",
        "quality": 0.5,
    }
    assert statistics.dropped == {"language without a weight in mix.ratios": Amount(1, 19)}
    assert {name: amount.documents for name, amount in statistics.out.items()} == {
        "web en": 2,
        "github code": 1,
        "web zh": 1,
        "books de": 1,
    }
    assert statistics.into.documents == 6 and partitions.read_statistics(tmp_path, 0) == statistics and 0 in partitions.done(tmp_path)


def test_sets_do_not_depend_on_batches(tmp_path):
    for name, found in (("one", [pa.concat_batches(list(batches()))]), ("each", None)):
        (tmp_path / name).mkdir()
        split(tmp_path / name, found=found)
    for name in files(tmp_path / "one"):
        if name.endswith(".parquet"):
            assert pq.read_table(tmp_path / "one" / name) == pq.read_table(tmp_path / "each" / name)


def test_parts_stand_beside_each_other_and_one_may_be_empty(tmp_path):
    split(tmp_path, 0)
    split(tmp_path, 1, iter(()))
    split(tmp_path, 2)
    assert files(tmp_path / "books") == ["part-000000.parquet", "part-000002.parquet"] and 1 in partitions.done(tmp_path)


def test_a_part_that_breaks_off_leaves_no_files_and_is_done_again(tmp_path):
    def broken():
        yield from batches()
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        split(tmp_path, found=broken())
    assert files(tmp_path) == [] and 0 not in partitions.done(tmp_path)
    split(tmp_path)
    assert not [name for name in files(tmp_path) if name.endswith(".tmp")] and 0 in partitions.done(tmp_path)


def test_a_domain_keeps_its_weight_when_it_is_split_by_language():
    weights, epochs = mix.proportions(["web-zh", "web-en", "github", "books"], CONFIG)
    assert weights == pytest.approx({"web-en": 0.5, "web-zh": 0.25, "github": 0.15, "books": 0.1}) and epochs == {"books": 3}
    assert sum(weights.values()) == pytest.approx(1)


def test_where_a_language_is_absent_the_others_take_its_weight():
    assert mix.proportions(["web-zh", "github"], CONFIG) == (pytest.approx({"web-zh": 0.75, "github": 0.15}), {})
    assert mix.proportions([], CONFIG) == ({}, {})


def test_limits_of_a_domain_hold_for_each_of_its_languages():
    config = MixConfig(proportions={"web": 1}, max_epochs={"web": 2}, ratios={"web": {"en": 3, "zh": 1}})
    assert mix.proportions(["web-en", "web-zh"], config) == ({"web-en": 0.75, "web-zh": 0.25}, {"web-en": 2, "web-zh": 2})


def test_a_domain_with_a_dash_in_its_name_is_no_language():
    config = MixConfig(proportions={"web": 1, "web-new": 2}, ratios={"web": {"en": 1}})
    assert mix.proportions(["web-en", "web-new"], config)[0] == {"web-en": 1, "web-new": 2}


@pytest.mark.parametrize("name", ["poems", "web-fr"])
def test_a_set_without_a_weight_is_refused_in_one_line(name):
    with pytest.raises(UserError, match=rf"^got documents of the domain '{name}' without a weight; allowed: .*; bind mix\.proportions$"):
        mix.proportions(["books", name], CONFIG)


def test_sets_that_run_out_are_named_with_the_epochs_that_they_would_take():
    weights, epochs = {"books": 1.0, "web": 3.0, "wiki": 1.0}, {"books": 3.0, "wiki": 2.0}
    tokens = {"books": 50, "web": 10, "wiki": 100}
    assert mix.shortages(tokens, weights, epochs, 1000) == {"books": 4.0}  # 200 of 50; 600 of 10 has no limit; 200 of 100 is at it
    assert mix.shortages(tokens, weights, epochs, 0) == {}
    assert mix.shortages(tokens | {"wiki": 0}, weights, epochs, 1000) == {"books": 4.0, "wiki": 200.0}
