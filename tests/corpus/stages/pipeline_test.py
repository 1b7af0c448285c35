"""The pipeline on Spark: the same corpus on any number of cores, on a cluster, and after kills."""

import hashlib
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import pyarrow.parquet
import pytest

pytest.importorskip("pyspark", reason="requirements-corpus.txt is not installed")
pytestmark = pytest.mark.corpus

WORDS = """the of and to in is that was for on with as by at from which this were their been have other when there would into more about
    them some could these only over also after people first made between years where those under while before through most being may
    such system work world government school during without place because year number part house water point country family history company
    later group area often known along though small large public early present general called found until several though
    major order""".split()
HAN = """我们 这个 时候 可以 看到 很多 他们 没有 时间 学校 因为 天气 所以 大家 家里 工作 休息 经济 发展 国家 问题 城市 历史 文化 社会
    学习 研究 生活 需要 使用""".split()
SETTINGS = """
corpus.sources = {{'first': '{text}/first', 'second': '{text}/second', 'chinese': '{text}/chinese', 'code': '{text}/code'}}
corpus.domains = {{'first': 'web', 'second': 'web', 'chinese': 'web', 'code': 'code'}}
corpus.formats = {{'code': 'code'}}
corpus.unit_bytes = 40_000
clean.rules = {{'min_units': 20, 'max_duplicate_5gram': 0.15}}
clean.unspaced_rules = {{'min_units': 20}}
clean.languages = ('en', 'zh')
decontaminate.benchmarks = {{'quiz': '{text}/quiz.jsonl'}}
mix.proportions = {{'web': 3.0, 'code': 1.0}}
mix.sequence_length = 64
tokenizer.vocab_size = 500
pack.heldout_fraction = 0.02
"""


def words(generator: random.Random, count: int) -> list[str]:
    return [generator.choice(WORDS) for _ in range(count)]


def sentence(tokens: list[str]) -> str:
    """A paragraph."""
    return " ".join(tokens) + "."


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Documents with copies and near-copies across sources, repeated paragraphs, test items, and rubbish."""
    folder, generator = tmp_path_factory.mktemp("text"), random.Random(0)
    originals = [words(generator, 120) for _ in range(300)]
    item = " ".join(words(generator, 20))
    (folder / "quiz.jsonl").write_text(json.dumps({"question": item, "choices": ["a", "b"]}) + "\n")
    near = [[*tokens[:60], "changed", *tokens[61:]] for tokens in originals[:60]]
    common = "This very paragraph stands in each and every one of these documents, word for word."
    first = [sentence(tokens) for tokens in originals]
    second = [sentence(tokens) for tokens in near] + first[60:90]
    second += [f"{sentence(words(generator, 120))}\n{common}" for _ in range(20)]
    second += [sentence(words(generator, 60)) + f"\n{item.upper().replace(' ', '  ')}.\n" + sentence(words(generator, 60))]
    second += ["too short", "the same again and again " * 40, ""]
    chinese = ["".join(generator.choice(HAN) for _ in range(100)) + "。" for _ in range(60)]
    for name, texts in (("first", first), ("second", second), ("chinese", [*chinese, chinese[3]])):
        (folder / name).mkdir()
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
        (folder / name / "a.jsonl").write_text("".join(lines))
    (folder / "code").mkdir()
    for number in range(20):
        body = "\n".join(f"def {generator.choice(WORDS)}_{i}(x):\n    return x + {generator.random():.6f}" for i in range(20))
        (folder / "code" / f"m{number}.py").write_text(body)
    return folder


def command(text: pathlib.Path, workdir: pathlib.Path, master: str) -> list[str]:
    workdir.mkdir(exist_ok=True)
    (workdir / "mine.gin").write_text(SETTINGS.format(text=text))
    arguments = ["--gin_file", workdir / "mine.gin", "--workdir", workdir, "--master", master]
    return [sys.executable, "-m", "teleflm_jax", "corpus", *map(str, arguments)]


def make(text, workdir, master="local[2]") -> str:
    done = subprocess.run(command(text, workdir, master), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def digest(workdir: pathlib.Path) -> dict[str, str]:
    """Every document, hit and packed shard of a corpus."""
    found = {}
    for file in sorted((workdir / "documents").glob("*/*.parquet")):
        rows = pyarrow.parquet.read_table(file).to_pylist()
        found[f"{file.parent.name}/{file.name}"] = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    for file in [*(workdir / "packed").rglob("*.array_record"), workdir / "6-decontaminate" / "hits.jsonl", workdir / "tokenizer.json"]:
        found[str(file.relative_to(workdir))] = hashlib.sha256(file.read_bytes()).hexdigest()
    for stage in workdir.glob("*/manifest.json"):
        found[str(stage.relative_to(workdir))] = json.dumps(json.loads(stage.read_text())["tally"])
    return found


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, make(text, workdir)


def documents(workdir: pathlib.Path) -> list[tuple[str, str]]:
    """Source and text of what a corpus keeps, in any order."""
    files = (workdir / "documents").glob("*/*.parquet")
    return sorted((row["source"], row["text"]) for file in files for row in pyarrow.parquet.read_table(file).to_pylist())


def dropped(workdir: pathlib.Path, stage: str) -> dict[str, int]:
    statistics = json.loads((workdir / stage / "manifest.json").read_text())["tally"]
    return {rule: amount["documents"] for rule, amount in statistics["dropped"].items()}


def test_every_document_is_kept_or_has_a_reason(whole):
    workdir, said = whole
    before = None
    for stage in ("1-read", "2-clean", "3-paragraphs", "5-duplicates", "6-decontaminate", "documents"):
        statistics = json.loads((workdir / stage / "manifest.json").read_text())["tally"]
        out = sum(amount["documents"] for amount in statistics["out"].values())
        assert statistics["into"]["documents"] == out + sum(dropped(workdir, stage).values()) or stage == "1-read"
        assert before is None or statistics["into"]["documents"] == before
        before = out
        assert f"{out:,} documents" in said
    assert dropped(workdir, "1-read") == {"empty": 1}
    assert dropped(workdir, "2-clean") == {"min_units": 1, "max_duplicate_5gram": 1}
    assert dropped(workdir, "6-decontaminate") == {"benchmark: quiz": 1}
    [hit] = map(json.loads, (workdir / "6-decontaminate" / "hits.jsonl").read_text().splitlines())
    assert hit["benchmark"] == "quiz" and hit["hits"] == 20 - 13 + 1


def test_of_copies_and_near_copies_the_first_source_keeps_its_own(whole):
    workdir, _ = whole
    assert dropped(workdir, "3-paragraphs") == {"mostly repeated paragraphs": 30 + 1}
    assert dropped(workdir, "5-duplicates") == {"near-duplicate": 60}
    kept = documents(workdir)
    assert sum(source == "first" for source, _ in kept) == 300
    assert sum(source == "chinese" for source, _ in kept) == 60
    assert sum("stands in each and every one" in own for _, own in kept) == 1


def test_a_corpus_against_a_reference_corpus_adds_what_both_at_once_have_more(text, whole, tmp_path):
    domains = {"first": "web", "second": "web", "chinese": "web", "code": "code"}

    def made(name: str, chosen: list[str], *parameters: str) -> pathlib.Path:
        sources = {source: f"{text}/{source}" for source in chosen}
        formats = {source: "code" for source in chosen if source == "code"}
        own = [f"corpus.sources = {sources}", f"corpus.domains = { {source: domains[source] for source in chosen} }", *parameters]
        own.append(f"corpus.formats = {formats}")
        call = command(text, tmp_path / name, "local[2]") + [word for one in own for word in ("--gin_param", one)]
        done = subprocess.run(call, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return tmp_path / name

    first = made("first", ["first"], "mix.proportions = {'web': 1.0}")
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    second = made("second", ["second", "chinese", "code"], f"corpus.earlier = ('{first}',)")
    assert sorted(documents(first) + documents(second)) == documents(whole[0])
    assert dropped(second, "5-duplicates") == {"near-duplicate of an earlier corpus": 60}
    assert dropped(second, "3-paragraphs") == dropped(whole[0], "3-paragraphs")
    assert before == {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}


def test_cores_change_nothing(text, whole, tmp_path):
    make(text, tmp_path, "local[4]")
    assert digest(tmp_path) == digest(whole[0])


def test_done_is_done(text, whole):
    before = digest(whole[0])
    started = {path: path.stat().st_mtime_ns for path in whole[0].glob("*/part-*")}
    make(text, whole[0])
    assert digest(whole[0]) == before and started == {path: path.stat().st_mtime_ns for path in started}


def test_another_threshold_makes_that_stage_and_those_behind_it_anew(text, whole, tmp_path):
    call = command(text, tmp_path, "local[2]")
    assert subprocess.run(call, capture_output=True, timeout=1800).returncode == 0
    read = {path: path.stat().st_mtime_ns for path in (tmp_path / "2-clean").glob("part-*")}
    done = subprocess.run([*call, "--gin_param", "duplicates.similarity = 1.0"], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 2 and "--force" in done.stderr  # the documents and so the tokenizer are others
    assert dropped(tmp_path, "5-duplicates") == {} and read == {path: path.stat().st_mtime_ns for path in read}


def test_killed_at_any_instant_and_started_again_it_is_the_same(text, whole, tmp_path):
    generator, kills = random.Random(1), 0
    while True:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "process_group": 0}
        process = subprocess.Popen(command(text, tmp_path, "local[2]"), **quiet)
        try:
            # ever later: on a machine so slow that no partition is done in 25 s it must end, too
            assert process.wait(timeout=generator.normalize(5, 25) * 1.1**kills) == 0
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            assert kills < 40
    assert kills and digest(tmp_path) == digest(whole[0])


def test_a_signal_leaves_with_75_and_a_line(text, tmp_path):
    process = subprocess.Popen(command(text, tmp_path, "local[2]"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("2-clean/part-*.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75 and "run the same command again" in out and "Traceback" not in err


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


@pytest.fixture
def cluster(tmp_path):
    """A standalone cluster of a master and two workers on this machine."""
    import pyspark

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = pathlib.Path(pyspark.__file__).parent
    environment = os.environ | {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
    run = [str(home / "bin" / "spark-class"), "org.apache.spark.deploy"]
    first = [run[0], f"{run[1]}.master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", "0"]
    worker = [run[0], f"{run[1]}.worker.Worker", "--cores", "1", "--memory", "1g", "--webui-port", "0", f"spark://127.0.0.1:{port}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment, "process_group": 0}
    started = [subprocess.Popen(first, **quiet)]
    while not answers(port):
        assert started[0].poll() is None
        time.sleep(0.2)
    started += [subprocess.Popen([*worker, "--work-dir", str(tmp_path / f"work{i}")], **quiet) for i in range(2)]
    yield f"spark://127.0.0.1:{port}"
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_cluster_of_two_workers_makes_the_same(text, whole, cluster, tmp_path):
    make(text, tmp_path / "run", cluster)
    assert digest(tmp_path / "run") == digest(whole[0])
