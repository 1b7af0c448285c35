"""The stage on Spark compared with plain Python, with and without reference corpora, for any number of shuffle partitions."""

import collections
import dataclasses
import hashlib
import itertools
import pathlib
import random
import types

import pytest

pytest.importorskip("pyspark", reason="requirements-corpus.txt is not installed")
pytestmark = pytest.mark.corpus

from teleflm_jax.corpus import rows, spark  # noqa: E402
from teleflm_jax.corpus.config import DuplicateConfig, ParagraphConfig  # noqa: E402
from teleflm_jax.corpus.dedup import deduplicate, duplicates, reference_corpora  # noqa: E402
from teleflm_jax.corpus.stages import partitions  # noqa: E402
from teleflm_jax.corpus.stages.run import CorpusRun  # noqa: E402
from teleflm_jax.documents.statistics import Statistics  # noqa: E402

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst"]
LENGTH = 204
"""Words, so 200 shingles; a changed word far from others changes five, and n of them leave a similarity of (200 - 5n) / (200 + 5n)."""


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    found = spark.session("local[2]", tmp_path_factory.mktemp("spark"))
    yield found
    found.stop()


@dataclasses.dataclass(frozen=True)
class Made:
    """A stage's result."""

    workdir: pathlib.Path
    kept: list[str]
    dropped: dict[str, int]


def make(session, workdir, documents, before=(), shuffle_partitions=3, **settings) -> Made:
    """Deduplicate lists of (language, text), each a partition of a source of its own."""
    config = DuplicateConfig(**settings)
    names = (partitions.PARAGRAPHS, ParagraphConfig()), (partitions.DUPLICATES, config)
    source, folder = (workdir / stage for stage, _ in names)
    for stage, own in names:
        partitions.begin(workdir / stage, ["", {"config": dataclasses.asdict(own), "earlier": []}])
    for number, texts in enumerate(documents):
        found = [
            ((number << rows.ROW_BITS) + i, "web", "s", f"{number}:{i}", "", "", language, None, text)
            for i, (language, text) in enumerate(texts)
        ]
        partitions.write(source, number, rows.batches(found, rows.DOCUMENT), rows.DOCUMENT, Statistics())
    (source / "hashes").mkdir()
    partitions.finish(source, len(documents))
    session.conf.set("spark.sql.shuffle.partitions", shuffle_partitions)
    run = CorpusRun(
        workdir=workdir,
        settings=types.SimpleNamespace(duplicates=config),
        partitions=[types.SimpleNamespace(priority=number) for number in range(len(documents))],
        references=reference_corpora.find([str(one.workdir) for one in before], workdir, ParagraphConfig(), config),
        session=session,
        log=lambda line: None,
        progress=lambda step, done, count: None,
    )
    deduplicate.make(run, source)
    statistics = partitions.finish(folder, len(documents))
    kept = [text for number in range(len(documents)) for batch in partitions.read(folder, number) for text in batch["text"].to_pylist()]
    assert statistics.into.documents == len(kept) + sum(amount.documents for amount in statistics.dropped.values())
    return Made(workdir, kept, {rule: amount.documents for rule, amount in statistics.dropped.items()})


def english(texts):
    return [("en", text) for text in texts]


def original(generator):
    return [generator.choice(WORDS) for _ in range(LENGTH)]


def changed(tokens, places):
    """Change words, each in shingles of its own."""
    return [f"{token}x{i}" if i in places else token for i, token in enumerate(tokens)]


def similarity(one: str, other: str) -> float:
    sets = []
    for text in (one, other):
        tokens = text.split()
        sets.append({tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def reference(texts: list[str]) -> list[int]:
    """Of every component by pairs at 0.8, the number of the document that stays: of equal priorities, the longest, then the first."""
    names = list(range(len(texts)))
    for i, j in itertools.combinations(range(len(texts)), 2):
        if similarity(texts[i], texts[j]) >= 0.8:
            names = [names[i] if name == names[j] else name for name in names]
    groups = collections.defaultdict(list)
    for i, name in enumerate(names):
        groups[name].append(i)
    return sorted(min(group, key=lambda i: (-len(texts[i]), i)) for group in groups.values())


def cliques(generator, count):
    """Documents and up to three near-copies of each, all of one length and each within 0.8 of every other of its kind, shuffled."""
    texts = []
    for _ in range(count):
        tokens = original(generator)
        texts += [" ".join(changed(tokens, {20 * n + 10, 20 * n + 110})) for n in range(generator.randrange(1, 5))]
    generator.shuffle(texts)
    return texts


def files(folder: pathlib.Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def mixed(session, tmp_path_factory):
    """Documents in two halves; the first as a corpus of its own, and both at once."""
    folder, texts = tmp_path_factory.mktemp("mixed"), cliques(random.Random(3), 60)
    first, second = texts[:70], [*texts[70:], texts[0], texts[1].upper(), texts[70]]
    made = make(session, folder / "first", [english(first[:30]), english(first[30:])])
    whole = make(session, folder / "whole", [english(first[:30]), english(first[30:]), english(second)])
    return first, second, made, whole


def test_one_document_of_each_component_stays(mixed):
    first, second, made, whole = mixed
    for texts, kept in ((first, made.kept), (first + second, whole.kept)):
        lowered = [text.lower() for text in texts]
        assert len(kept) == len(reference(lowered)) < len(texts)
        assert all(max(similarity(text, one.lower()) for one in kept) >= 0.8 for text in lowered)


@pytest.mark.parametrize("shuffle_partitions", [1, 4])
def test_one_corpus_against_another_is_both_at_once(session, mixed, tmp_path, shuffle_partitions):
    first, second, made, whole = mixed
    before = files(made.workdir)
    added = make(session, tmp_path / "second", [english(second[:20]), english(second[20:])], [made], shuffle_partitions)
    assert made.kept + added.kept == whole.kept and len(added.kept) < len(second)
    assert files(made.workdir) == before
    assert added.dropped["near-duplicate of an earlier corpus"] > 5 and added.dropped["near-duplicate"] > 5
    assert added.dropped["copy of an earlier corpus"] + added.dropped["near-duplicate of an earlier corpus"] > 0


def test_several_reference_corpora_are_one_after_the_other(session, mixed, tmp_path):
    first, second, made, whole = mixed
    middle, last = second[: len(second) // 2], second[len(second) // 2 :]
    then = make(session, tmp_path / "then", [english(middle)], [made])
    end = make(session, tmp_path / "end", [english(last)], [made, then])
    assert made.kept + then.kept + end.kept == whole.kept


def test_only_what_a_reference_corpus_kept_counts(session, tmp_path):
    tokens = original(random.Random(5))
    kept, dropped, new = (" ".join(changed(tokens, set(range(10, 10 + 20 * n, 20)))) for n in (0, 4, 7))
    assert similarity(kept, dropped) >= 0.8 <= similarity(dropped, new) and similarity(kept, new) < 0.75
    made = make(session, tmp_path / "first", [english([kept]), english([dropped])])
    added = make(session, tmp_path / "second", [english([new])], [made])
    assert made.kept == [kept] and added.kept == [new]
    assert make(session, tmp_path / "whole", [english([kept]), english([dropped]), english([new])]).kept == [kept]


def test_a_document_between_two_of_a_reference_corpus_goes_and_they_stay(session, tmp_path):
    tokens = original(random.Random(6))
    one, between, other = (" ".join(changed(tokens, set(range(10, 10 + 20 * n, 20)))) for n in (0, 4, 8))
    made = make(session, tmp_path / "first", [english([one, other])])
    added = make(session, tmp_path / "second", [english([between])], [made])
    assert made.kept == [one, other] and added.kept == [] and added.dropped == {"near-duplicate of an earlier corpus": 1}


def test_both_chinese_scripts_are_one(session, tmp_path):
    generator = random.Random(7)
    pairs = dict(zip("這個問題時間學習國語圖書館", "这个问题时间学习国语图书馆", strict=True))
    old = "".join(generator.choice("的一是不了人我在有他" + "".join(pairs)) for _ in range(300))
    new = "".join(pairs.get(character, character) for character in old)
    for texts in ([old, new], [new, old]):
        folder = tmp_path / str(texts.index(old))
        documents = [[("zh", text)] for text in texts]
        made = make(session, folder / "one", documents)
        assert made.kept == texts[:1] and made.dropped == {"copy": 1}
        assert make(session, folder / "apart", documents, simplify_chinese=False).kept == texts


def test_languages_do_not_meet_and_code_may_be_left_out(session, tmp_path):
    text = " ".join(original(random.Random(8)))
    documents = [[("en", text), ("de", text), ("code", text), ("code", text)]]
    assert len(make(session, tmp_path / "with", documents).kept) == 3
    assert len(make(session, tmp_path / "without", documents, code=False).kept) == 4


def test_of_a_component_source_then_quality_then_length_decide(session, tmp_path):
    columns = "id long, priority int, quality float, length long, whole long"
    table = [(1, 1, 0.9, 9, 1), (2, 0, 0.1, 5, 1), (3, 0, 0.8, 5, 1), (4, 0, 0.8, 7, 2), (5, 0, 0.8, 7, 1), (6, 0, None, 99, 1)]
    named = session.createDataFrame([(row[0], 1) for row in table], "id long, component long")
    gone = duplicates.later(session.createDataFrame(table, columns), named).collect()
    assert {row["id"] for row in gone} == {1, 2, 3, 5, 6} and {row["kept"] for row in gone} == {4} and {row["size"] for row in gone} == {6}


def test_a_large_bucket_holds_each_document_against_few(session):
    table = [(f"l{i % 2}", i, 100, i, [7]) for i in range(200)]
    signed = session.createDataFrame(table, "language string, id long, shingles int, whole long, buckets array<long>")
    found = {(row["a"], row["b"]) for row in duplicates.candidates(signed, DuplicateConfig()).collect()}
    near = range(2, 2 * duplicates.NEIGHBOURS + 1, 2)
    assert found == {(a, b) for b in range(200) for a in {b % 2, *(b - far for far in near)} if 0 <= a < b}


def test_documents_of_too_different_size_are_no_pair(session):
    table = [("en", number, size, number, [7]) for number, size in enumerate((100, 80, 79, 126))]
    signed = session.createDataFrame(table, "language string, id long, shingles int, whole long, buckets array<long>")
    found = {(row["a"], row["b"]) for row in duplicates.candidates(signed, DuplicateConfig()).collect()}
    assert found == {(0, 1), (1, 2)}


def test_components_of_long_chains_and_stars_end_and_are_right(session, tmp_path):
    generator = random.Random(9)
    names = generator.sample(range(10_000), 900)
    edges = [(names[i], names[i + 1]) for i in range(300)]  # a path of 301
    edges += [(names[400], names[i]) for i in range(401, 700)]  # a star of 300
    edges += [(generator.choice(names[700:]), generator.choice(names[700:])) for _ in range(90)]
    edges = [(min(edge), max(edge)) for edge in edges if edge[0] != edge[1]]
    wanted = {name: name for edge in edges for name in edge}
    for one, other in edges:
        least, most = sorted((wanted[one], wanted[other]))
        wanted = {name: least if component == most else component for name, component in wanted.items()}
    rounds = []
    (tmp_path / "rounds").mkdir()
    found = duplicates.components(session, session.createDataFrame(edges, "a long, b long"), tmp_path / "rounds", rounds.append).collect()
    assert {row["id"]: row["component"] for row in found} == wanted and len(found) == len(wanted)
    assert len(rounds) <= 12  # alternating stars take about the logarithm of the longest path, 9, and a last look
