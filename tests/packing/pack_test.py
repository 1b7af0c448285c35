import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from array_record.python import array_record_module

from teleflm_jax.errors import UserError
from teleflm_jax.packing import pack, records
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.tokenizer import load

CONFIG = PackConfig(unit_bytes=20_000, heldout_fraction=0.1, processes=1)


def write_documents(folder, count=60, lines=12, prefix="document"):
    folder.mkdir(parents=True)
    for start in range(0, count, 20):
        rows = [
            {"text": "\n".join(f"{prefix} {i} has its line {j} of the house of stone and water" for j in range(lines)), "family": f"{i}"}
            for i in range(start, start + 20)
        ]
        (folder / f"{start:03d}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def place(tmp_path, tokenizer):
    """What every call of pack needs; documents lie in tmp_path/text."""
    write_documents(tmp_path / "text")
    sources = {"web": str(tmp_path / "text")}
    return {
        "sources": sources,
        "packed": str(tmp_path / "packed"),
        "tokenizer": tokenizer,
        "sequence_length": 64,
        "vocab_size": 400,
        "config": CONFIG,
    }


def snapshot(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def manifest(tmp_path, domain="web"):
    return json.loads((tmp_path / "packed" / domain / "manifest.json").read_text())


def packed_texts(tmp_path, tokenizer):
    """(training texts, held-out texts) as they come back from the shards."""
    decode = load.load(tokenizer).decode
    folder = tmp_path / "packed" / "web"
    train = []
    for entry in manifest(tmp_path)["train"]["shards"]:
        rows = [records.decode(row) for row in array_record_module.ArrayRecordReader(str(folder / entry["name"])).read_all()]
        tokens = [rows[0].tokens[0], *(token for row in rows for token in row.tokens[1:])]
        text = decode([int(token) for token in tokens if token != 3], skip_special_tokens=False)
        train += [part.removeprefix("<s>") for part in text.split("</s>")[:-1]]
    held = [
        decode(records.decode_document(row).tokens.tolist())
        for entry in manifest(tmp_path)["heldout"]["shards"]
        for row in array_record_module.ArrayRecordReader(str(folder / entry["name"])).read_all()
    ]
    return train, held


def test_every_document_is_in_training_or_held_out_and_comes_back(place, tmp_path, tokenizer, capsys):
    pack.pack(**place)
    texts = [json.loads(line)["text"] for path in sorted((tmp_path / "text").iterdir()) for line in path.read_text().splitlines()]
    train, held = packed_texts(tmp_path, tokenizer)
    assert [text for text in texts if text not in held] == train and [text for text in texts if text in held] == held
    known = manifest(tmp_path)
    assert 1 <= known["heldout"]["documents"] == len(held) < 15
    assert known["train"]["bytes"] + known["heldout"]["bytes"] == sum(len(text.encode()) for text in texts)
    assert known["finished"] and known["version"] == 1 and known["domain"] == "web" and known["vocab_size"] == 400
    assert known["tokenizer_sha256"] == load.sha256(tokenizer)
    assert len(known["train"]["shards"]) > 1 and not list((tmp_path / "packed").glob(".*"))
    assert "60 documents" not in capsys.readouterr().out


def test_bytes_do_not_depend_on_processes_and_a_finished_set_is_left_alone(place, tmp_path, capsys):
    pack.pack(**place)
    first = snapshot(tmp_path / "packed")
    changed = {path: os.stat(tmp_path / "packed" / path).st_mtime_ns for path in first}
    capsys.readouterr()
    pack.pack(**place)
    assert capsys.readouterr().out == "web: already packed\n"
    before = os.stat(tmp_path / "packed").st_mtime_ns
    pack.pack(**place)
    assert os.stat(tmp_path / "packed").st_mtime_ns == before, "finished data may be on a disk that cannot be written"
    assert changed == {path: os.stat(tmp_path / "packed" / path).st_mtime_ns for path in first}
    place["config"] = dataclasses.replace(CONFIG, processes=2)
    pack.pack(**place, force=True)
    assert snapshot(tmp_path / "packed") == first
    assert changed != {path: os.stat(tmp_path / "packed" / path).st_mtime_ns for path in first}


def test_changed_inputs_are_refused_and_named(place, tmp_path):
    pack.pack(**place)
    before = snapshot(tmp_path / "packed")
    with pytest.raises(UserError, match=r"sequence_length 64 -> 32.*--force"):
        pack.pack(**place | {"sequence_length": 32})
    with pytest.raises(UserError, match=r"pack\.seed 0 -> 1.*--force"):
        pack.pack(**place | {"config": dataclasses.replace(CONFIG, seed=1)})
    (tmp_path / "text" / "more.jsonl").write_text('{"text": "more"}\n')
    with pytest.raises(UserError, match=r"source files 3 files of .* -> 4 files of .*--force"):
        pack.pack(**place)
    assert snapshot(tmp_path / "packed") == before and not list((tmp_path / "packed").glob(".*"))


def test_near_duplicates_are_left_out_of_the_held_out_set(place, tmp_path, tokenizer):
    pack.pack(**place)
    leaked = packed_texts(tmp_path, tokenizer)[1][0]
    # the same page again under another family, with a new heading and one of its twelve lines gone
    copy = "\n".join(["Eine Überschrift", *leaked.splitlines()[1:]])
    (tmp_path / "text" / "copy.jsonl").write_text(json.dumps({"text": copy, "family": "000.jsonl"}) + "\n")
    pack.pack(**place, force=True)
    train, held = packed_texts(tmp_path, tokenizer)
    assert (copy in train) != (copy in held)
    if copy in train:
        assert leaked not in held and manifest(tmp_path)["moved"] == {"near-duplicate": 1}


def test_too_many_malformed_documents_are_an_error_before_any_work(place, tmp_path):
    with open(tmp_path / "text" / "020.jsonl", "a") as file:
        file.write('oops\n{"text": ""}\n')
    with pytest.raises(
        UserError, match=r"2 malformed of 62 documents in web \(1 empty, 1 not JSON; first in 020.jsonl\).*max_malformed_fraction"
    ):
        pack.pack(**place)
    assert not (tmp_path / "packed" / "web").exists()
    pack.pack(**place | {"config": dataclasses.replace(CONFIG, max_malformed_fraction=0.1)})
    assert manifest(tmp_path)["malformed"] == {"empty": 1, "not JSON": 1}


def test_an_empty_corpus_and_a_large_tokenizer_are_refused(place, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no document in web \(no files\)"):
        pack.pack(**place | {"sources": {"web": str(tmp_path / "empty")}})
    (tmp_path / "empty" / ".hidden").write_text("text")
    with pytest.raises(UserError, match=r"no document in web \(1 hidden file or folder\)"):
        pack.pack(**place | {"sources": {"web": str(tmp_path / "empty")}})
    with pytest.raises(UserError, match=r"tokenizer of 400 ids.*model\.vocab_size=399"):
        pack.pack(**place | {"vocab_size": 399})


def test_a_place_that_cannot_be_written_is_a_user_error(place, tmp_path):
    (tmp_path / "packed").write_text("a file stands here")
    with pytest.raises(UserError, match=r"error while packing into .*packed.*change data\.packed"):
        pack.pack(**place)


def test_a_folder_that_is_no_data_set_is_not_replaced(place, tmp_path):
    (tmp_path / "packed" / "web").mkdir(parents=True)
    (tmp_path / "packed" / "web" / "precious").write_text("mine")
    with pytest.raises(UserError, match=r"without a manifest\.json.*--force"):
        pack.pack(**place)
    assert (tmp_path / "packed" / "web" / "precious").read_text() == "mine"


def test_two_packs_of_one_domain_at_a_time_are_refused(place, tmp_path):
    def meet(step, done, total):
        with pytest.raises(UserError, match="another pack command is writing"):
            pack.pack(**place)
        met.append(step)

    met = []
    pack.pack(**place, progress=meet)
    assert {"scan", "pack"} <= set(met) and manifest(tmp_path)["finished"]


GIN = """
model.num_layers = 1
model.d_model = 8
model.num_heads = 2
model.num_kv_heads = 2
model.d_ff = 8
model.vocab_size = 400
model.context_length = 64
data.tokenizer = '{tokenizer}'
data.packed = '{packed}'
data.proportions = {{'web': 1.0, 'book': 2.0}}
data.sources = {{'web': '{root}/text', 'book': '{root}/book'}}
pack.unit_bytes = 20_000
pack.heldout_fraction = 0.1
pack.processes = {processes}
"""


def start(tmp_path, tokenizer, packed, processes):
    path = tmp_path / f"{packed.name}-{processes}.gin"
    path.write_text(GIN.format(tokenizer=tokenizer, packed=packed, root=tmp_path, processes=processes))
    command = [sys.executable, "-m", "teleflm_jax", "pack", "--gin_file", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(process):
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def test_killed_at_any_instant_it_goes_on_to_the_same_bytes(tmp_path, tokenizer):
    write_documents(tmp_path / "text", count=200)
    write_documents(tmp_path / "book", count=100, prefix="chapter")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert "web: 1" in finish(start(tmp_path, tokenizer, whole, 2))
    expected = {path: hashlib.sha256(data).hexdigest() for path, data in snapshot(whole).items()}
    for pattern, count, processes in (("state/scan-*.json", 1, 2), ("state/unit-*.json", 1, 1), ("state/unit-*.json", 3, 2)):
        process = start(tmp_path, tokenizer, broken, processes)
        while process.poll() is None and len(list(broken.glob(f".*.partial/{pattern}"))) < count:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)  # the parent alone: its workers must end by themselves
        process.communicate()
    finish(start(tmp_path, tokenizer, broken, 2))
    assert {path: hashlib.sha256(data).hexdigest() for path, data in snapshot(broken).items()} == expected
    assert len(expected) > 15


def test_a_wrong_input_is_one_line_and_code_2(tmp_path, tokenizer):
    process = start(tmp_path, tokenizer, tmp_path / "packed", 1)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and err.startswith("error: got the source") and err.count("\n") == 1 and not out


def test_a_removal_stopped_halfway_leaves_nothing_to_go_on_from(place, tmp_path, monkeypatch):
    def stop(step, done, total):
        if step == "pack" and list((tmp_path / "packed").glob(".web.partial/state/unit-*.json")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack.pack(**place, progress=stop)
    partial = tmp_path / "packed" / ".web.partial"
    assert (partial / "state" / "fingerprint.json").exists()

    def fail(path, *arguments, **options):
        raise OSError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", fail)
        with pytest.raises(UserError, match="stopped"):
            pack.pack(**place, force=True)
    assert not (partial / "state" / "fingerprint.json").exists()
    pack.pack(**place)
    for entry in manifest(tmp_path)["train"]["shards"]:
        assert (tmp_path / "packed" / "web" / entry["name"]).stat().st_size == entry["size"]


def test_what_is_finished_and_not_yet_named_is_named(place, tmp_path):
    pack.pack(**place)
    before = snapshot(tmp_path / "packed")
    (tmp_path / "packed" / "web").rename(tmp_path / "packed" / ".web.partial")
    pack.pack(**place)
    assert snapshot(tmp_path / "packed") == before
    (tmp_path / "packed" / "web").rename(tmp_path / "packed" / ".web.former")
    pack.pack(**place)
    assert snapshot(tmp_path / "packed") == before


def test_malformed_documents_count_by_bytes_too(place, tmp_path):
    (tmp_path / "text" / "crawl.warc").write_bytes(b"WARC/1.0\r\nWARC-Type: response\r\n" + b"x" * 10_000)
    config = dataclasses.replace(CONFIG, max_malformed_fraction=0.1)
    words = r"got 1 malformed of 61 .*web archive.*crawl\.warc\), 10,031 of \d\d,\d+ bytes; allowed: a share of 0\.1 of either"
    with pytest.raises(UserError, match=words):
        pack.pack(**place | {"config": config})
    config = dataclasses.replace(CONFIG, max_malformed_fraction=0.3)
    said = []
    pack.pack(**place | {"config": config}, log=said.append)
    assert manifest(tmp_path)["malformed_bytes"] == {"web archive, which `corpus` reads": 10_031} and "(10,031 bytes)" in said[0]


def test_a_source_of_unknown_files_is_refused_before_any_work(place, tmp_path):
    (tmp_path / "text" / "more.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(10_000))
    with pytest.raises(UserError, match=r"more\.7z\); allowed: JSON Lines.*change data\.sources\['web'\]"):
        pack.pack(**place)
    assert not (tmp_path / "packed").exists()


def test_a_domains_text_may_stand_in_another_column(place, tmp_path, tokenizer):
    for path in (tmp_path / "text").iterdir():
        path.rename(path.with_suffix(".NDJSON"))
    pack.pack(**place)
    whole = packed_texts(tmp_path, tokenizer)
    for path in (tmp_path / "text").iterdir():
        path.write_text(path.read_text().replace('{"text":', '{"content":'))
    with pytest.raises(UserError, match="60 no text"):
        pack.pack(**place, force=True)
    config = dataclasses.replace(CONFIG, text_columns={"web": "content"})
    pack.pack(**place | {"config": config}, force=True)
    assert packed_texts(tmp_path, tokenizer) == whole
    with pytest.raises(UserError, match="text column content -> text"):
        pack.pack(**place)


def test_what_was_mended_is_told(place, tmp_path):
    with open(tmp_path / "text" / "020.jsonl", "a") as file:
        file.write('{"text": "half a pair \\\\ud800"}\n'.replace("\\\\", "\\"))
    said = []
    pack.pack(**place, log=said.append)
    assert manifest(tmp_path)["mended"] == {"lone surrogates replaced": 1} and "repaired 1 lone surrogates replaced" in said[0]
