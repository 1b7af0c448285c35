"""`corpus`: what is wrong is one line, before anything is written. What it makes is in tests/corpus/stages/pipeline_test.py."""

import pathlib
import socket

import pytest

from teleflm_jax.cli import corpus, options
from teleflm_jax.cli import main as commands
from teleflm_jax.corpus import spark


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("A text.")
    (tmp_path / "packed.7z").write_bytes(b"7z\xbc\xaf\x27\x1c")
    return {
        "corpus.sources": f"{{'a': '{tmp_path}/text'}}",
        "corpus.domains": "{'a': 'web'}",
        "mix.proportions": "{'web': 1.0}",
    }


def call(capsys, settings: dict[str, str], workdir: pathlib.Path, *more: str) -> tuple[int, str]:
    mine = workdir.with_name("mine.gin")
    mine.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
    code = options.run_command(lambda: commands.main(["corpus", "--gin_file", str(mine), "--workdir", str(workdir), *more]))
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"corpus.sources": "{'a': '/nowhere'}"}, ("/nowhere", "corpus.sources['a']")),
        ({"corpus.domains": "{'b': 'web'}"}, ("source 'a'", "corpus.domains")),
        ({"corpus.domains": "{'a': 'web', 'b': 'web'}"}, ("source 'b'", "corpus.domains")),
        ({"corpus.formats": "{'b': 'warc'}"}, ("source 'b'", "corpus.formats", "allowed: a;")),
        ({"corpus.text_columns": "{'b': 'body'}"}, ("source 'b'", "corpus.text_columns", "allowed: a;")),
        ({"pack.text_columns": "{'web': 'body'}"}, ("pack.text_columns for web", "corpus.text_columns")),
        ({"corpus.sources": "{'a': 'PLACE/packed.7z'}"}, ("6 of 6 bytes", "packed.7z", ".ndjson", "WARC", "corpus.sources['a']")),
        ({"decontaminate.benchmarks": "{'x': 'PLACE/packed.7z'}"}, ("packed.7z", "Parquet", "decontaminate.benchmarks['x']")),
        ({"mix.proportions": "{'wb': 1.0}"}, ("domain 'web'", "source 'a'", "mix.proportions")),
        ({"mix.max_epochs": "{'wb': 1.0}"}, ("domain 'wb'", "mix.max_epochs", "allowed: web;")),
        ({"mix.ratios": "{'web': {'en': 1.0, 'xx': 1.0}}"}, ("language 'xx'", "mix.ratios['web']")),
        ({"clean.domain_rules": "{'wb': {}}"}, ("domain 'wb'", "clean.domain_rules")),
        ({"paragraphs.exempt_domains": "('wb',)"}, ("domain 'wb'", "paragraphs.exempt_domains")),
        ({"decontaminate.benchmarks": "{'x': 'README.md'}", "decontaminate.ignored": "'/nowhere'"}, ("/nowhere", "decontaminate.ignored")),
        ({"corpus.formats": "{'a': 'pdf'}"}, ("'pdf'", "warc", "corpus.formats")),
        ({"clean.rules": "{'min_unit': 3}"}, ("'min_unit'", "clean.rules", "min_units")),
        ({"clean.domain_rules": "{'web': {'min_unit': 3}}"}, ("'min_unit'", "clean.domain_rules['web']")),
        ({"clean.mask": "('mail',)"}, ("'mail'", "email", "clean.mask")),
        ({"extract.extractor": "'best'"}, ("'best'", "resiliparse", "trafilatura")),
        ({"decontaminate.benchmarks": "{'x': '/nowhere'}"}, ("/nowhere", "decontaminate.benchmarks['x']")),
        ({"corpus.earlier": "('/nowhere',)"}, ("/nowhere", "nothing is", "corpus.earlier")),
        ({"duplicates.similarity": "0.0"}, ("duplicates.similarity=0.0", "above 0")),
        ({"quality.thresholds": "{'web': 0.5}"}, ("without a model", "quality.model")),
        ({"mix.proportions": "{'web': 0.0}"}, ("mix.proportions", "above 0")),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(settings, tmp_path, capsys, changes, words):
    changes = {name: value.replace("PLACE", str(tmp_path)) for name, value in changes.items()}
    code, said = call(capsys, settings | changes, tmp_path / "run")
    assert code == options.WRONG_INPUT and said.count("\n") == 1 and all(word in said for word in words), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("sign", "*?[]{}\\")
def test_a_folder_that_spark_takes_for_a_pattern_is_refused(settings, tmp_path, capsys, sign):
    workdir = tmp_path / f"run{sign}" / "one"
    (tmp_path / f"run{sign}").mkdir()
    code, said = call(capsys, settings, workdir)
    assert code == options.WRONG_INPUT and f"with {sign}, which Spark reads as a pattern" in said and said.count("\n") == 1
    assert not workdir.exists()
    code, said = call(capsys, settings | {"corpus.earlier": repr((str(workdir),))}, tmp_path / "run")
    assert code == options.WRONG_INPUT and f"corpus.earlier {workdir} with {sign}" in said


def test_without_java_it_says_how_to_get_it(settings, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    code, said = call(capsys, settings, tmp_path / "run")
    assert code == options.WRONG_INPUT and "apt-get install openjdk-17-jre-headless" in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "master, words", [("foo", "local[N]"), ("local[x]", "local[N]"), ("spark://h", "spark://HOST:PORT"), ("", "does not answer")]
)
def test_a_master_that_is_none_or_does_not_answer_is_refused(settings, tmp_path, capsys, monkeypatch, master, words):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        master = master or f"spark://127.0.0.1:{gone.getsockname()[1]}"
    monkeypatch.setattr(spark, "refuse_missing", lambda: None)
    code, said = call(capsys, settings, tmp_path / "run", "--master", master)
    assert code == options.WRONG_INPUT and words in said and master in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_master_that_answers_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as there:
        spark.refuse_master(f"spark://127.0.0.1:1,127.0.0.1:{there.getsockname()[1]}")
    for master in ("local", "local[4]", "local[*]", "yarn"):
        spark.refuse_master(master)


def test_rules_are_listed(capsys):
    assert commands.main(["corpus", "--rules"]) == 0
    assert "max_duplicate_5gram" in capsys.readouterr().out


def test_a_classifier_needs_good_and_random_texts(capsys, tmp_path):
    code = options.run_command(lambda: commands.main(["corpus", "--train_quality", str(tmp_path / "model.bin")]))
    assert code == options.WRONG_INPUT and "--good" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_its_sections_are_those_of_the_pipeline():
    assert {"corpus", "extract", "clean", "paragraphs", "quality", "duplicates", "decontaminate", "mix"} <= corpus.SECTIONS.keys()
