import collections
import dataclasses
import json
import os
import pathlib
import shutil
import threading

import numpy as np
import pytest

from teleflm_jax.data import loader, manifest
from teleflm_jax.errors import UserError
from teleflm_jax.packing import records
from teleflm_jax.tokenizer import load

STEPS = 200


def open_run(data, **changes):
    return loader.open_run(data, **{"sequence_length": 32, "vocab_size": 400, "batch_size": 8, "steps": STEPS} | changes)


def same(one, other):
    return one.keys() == other.keys() and all(one[k].dtype == other[k].dtype and np.array_equal(one[k], other[k]) for k in one)


def test_batches_are_equal_for_1_2_4_and_8_hosts(packed):
    run = open_run(packed)
    for step in (0, 7, STEPS - 1):
        whole = run.batch(step)
        for hosts in (2, 4, 8):
            parts = [run.batch(step, process=process, num_processes=hosts) for process in range(hosts)]
            assert same(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})


def test_a_process_opens_only_the_shards_of_its_own_rows(copy, tmp_path):
    steps, share = 2, {"process": 1, "num_processes": 4}
    run = open_run(copy)
    read = [run.batch(step, **share) for step in range(steps)]
    opened = {os.path.realpath(entry.path) for entry in os.scandir("/proc/self/fd")}
    shards = set(map(str, (tmp_path / "packed").rglob("train-*")))
    others = shards - opened
    assert others and shards & opened
    for path in others:
        os.remove(path)
    again = open_run(copy, verify=False)
    assert all(same(batch, again.batch(step, **share)) for step, batch in enumerate(read))
    with pytest.raises(UserError, match="damaged packed data"):
        open_run(copy)


@pytest.mark.parametrize("first", [0, 13, STEPS])
def test_iterating_from_any_step_equals_random_access(packed, first):
    run, again = open_run(packed), open_run(packed)
    with run.iterate(first, process=1, num_processes=2) as batches:
        made = [next(batches) for _ in range(5)]
    for step, batch in enumerate(made, first):
        assert same(batch, again.batch(step, process=1, num_processes=2))


def test_no_thread_outlives_the_iterator(packed):
    before = set(threading.enumerate())
    run = open_run(packed)
    for _ in range(3):
        with run.iterate(5) as batches:
            next(batches)
            assert any("grain-prefetch" in thread.name for thread in threading.enumerate())
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
        assert not thread.is_alive()


def test_a_batch_by_hand():
    def record(tokens, starts):
        return records.TrainingRecord(tokens=np.array(tokens, np.uint32), starts=np.array(starts, np.int32))

    batch = loader.join(
        [record([1, 10, 2, 1, 11, 12, 13], [0, 3]), record([10, 2, 1, 11, 2, 3, 3], [2]), record([7, 8, 9, 10, 11, 2, 1], [6])], pad=3
    )
    assert batch["tokens"].tolist() == [[1, 10, 2, 1, 11, 12], [10, 2, 1, 11, 2, 3], [7, 8, 9, 10, 11, 2]]
    assert batch["targets"].tolist() == [[10, 2, 1, 11, 12, 13], [2, 1, 11, 2, 3, 3], [8, 9, 10, 11, 2, 1]]
    assert batch["segments"].tolist() == [[1, 1, 1, 2, 2, 2], [1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1]]
    assert batch["weights"].tolist() == [[1, 1, 0, 1, 1, 1], [1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]]
    assert {name: str(array.dtype) for name, array in batch.items()} == {
        "tokens": "int32",
        "targets": "int32",
        "segments": "int32",
        "weights": "float32",
    }


def test_padding_may_have_the_id_that_begins_documents():
    row = records.TrainingRecord(tokens=np.array([1, 10, 2, 1, 11, 2, 1, 1], np.uint32), starts=np.array([0, 3], np.int32))
    batch = loader.join([row], pad=1)
    assert batch["segments"].tolist() == [[1, 1, 1, 2, 2, 2, 0]]
    assert batch["weights"].tolist() == [[1, 1, 0, 1, 1, 0, 0]]


def test_one_epoch_draws_every_record_once_and_the_next_in_another_order(packed):
    data = dataclasses.replace(packed, proportions={"web": 1.0})
    count = manifest.load(data.packed, "web", tokenizer_sha256=load.sha256(data.tokenizer), vocab_size=400).train.records
    run = open_run(data, batch_size=1, steps=2 * count)
    rows = [run.batch(step)["tokens"].tobytes() for step in range(2 * count)]
    first, second = collections.Counter(rows[:count]), collections.Counter(rows[count:])
    assert first == second and len(first) == count
    assert rows[:count] != rows[count:]
    assert rows != [open_run(dataclasses.replace(data, seed=6), batch_size=1).batch(step)["tokens"].tobytes() for step in range(2 * count)]


def test_every_target_of_the_domain_counts_once_in_an_epoch(packed):
    data = dataclasses.replace(packed, proportions={"code": 1.0})
    known = manifest.load(data.packed, "code", tokenizer_sha256=load.sha256(data.tokenizer), vocab_size=400).train
    run = open_run(data, batch_size=1, steps=known.records)
    counted = sum(run.batch(step)["weights"].sum() for step in range(known.records))
    assert counted == known.tokens - known.documents  # all but the <s> of each document


def test_a_change_of_proportions_is_part_of_the_batches(packed):
    history = ((0, {"web": 3.0, "code": 1.0}), (50, {"web": 1.0, "code": 3.0}))
    old, new = open_run(packed), open_run(packed, history=history)
    assert same(old.batch(49), new.batch(49)) and not same(old.batch(50), new.batch(50))
    dropped = open_run(
        dataclasses.replace(packed, proportions={"code": 1.0}), history=((0, {"web": 1.0, "code": 1.0}), (50, {"code": 1.0}))
    )
    assert dropped.batch(50)["tokens"].shape == (8, 32)
    with pytest.raises(UserError, match=r"still used the domain web.*data\.proportions \(code\)"):
        dropped.batch(49)


def test_held_out_documents_come_whole(packed):
    documents = list(loader.heldout(packed, "code", vocab_size=400))
    decode = load.load(packed.tokenizer).decode
    assert documents and not set(np.concatenate([one.tokens for one in documents]).tolist()) & {0, 1, 2, 3}
    for one in documents:
        text = decode(one.tokens.tolist())
        assert text.startswith("code ") and len(text.encode()) == one.num_bytes


@pytest.fixture
def copy(packed, tmp_path):
    """The packed data where a test may damage them."""
    shutil.copytree(packed.packed, tmp_path / "packed")
    return dataclasses.replace(packed, packed=str(tmp_path / "packed"))


def test_domains_of_the_same_records_are_read_in_different_orders(copy):
    shutil.rmtree(f"{copy.packed}/code")
    shutil.copytree(f"{copy.packed}/web", f"{copy.packed}/code")
    count = manifest.load(copy.packed, "web", tokenizer_sha256=load.sha256(copy.tokenizer), vocab_size=400).train.records
    rows = {}
    for domain in ("web", "code"):
        run = open_run(dataclasses.replace(copy, proportions={domain: 1.0}), batch_size=1, steps=count)
        rows[domain] = [run.batch(step)["tokens"].tobytes() for step in range(count)]
    assert rows["web"] != rows["code"] and sorted(rows["web"]) == sorted(rows["code"])


def test_data_that_do_not_fit_the_run_are_refused(copy, tmp_path):
    (tmp_path / "other.json").write_text(pathlib.Path(copy.tokenizer).read_text() + "\n")
    for data, changes, message in (
        (dataclasses.replace(copy, tokenizer=str(tmp_path / "other.json")), {}, r"another tokenizer.*data\.tokenizer.*pack --force"),
        (copy, {"sequence_length": 64}, r"context longer than the packed records.*64.*records of 32.*model\.context_length"),
        (copy, {"sequence_length": 16}, r"context shorter than the packed records"),
        (copy, {"vocab_size": 399}, r"token ids up to 399.*model\.vocab_size"),
        (dataclasses.replace(copy, proportions={"book": 1.0}), {}, r"no packed data in .*book.*teleflm_jax pack"),
        (dataclasses.replace(copy, max_epochs={"web": 0.5}), {}, r"max_epochs\['web'\]=0\.5 for 200 steps.*runs out at step"),
    ):
        with pytest.raises(UserError, match=message):
            open_run(data, **changes)
    with pytest.raises(UserError, match="batch of 8 sequences for 3 processes"):
        open_run(copy).batch(0, num_processes=3)


def test_unfinished_and_damaged_data_are_refused(copy, tmp_path):
    path = tmp_path / "packed" / "web" / "manifest.json"
    known = json.loads(path.read_text())
    shard = tmp_path / "packed" / "web" / known["train"]["shards"][0]["name"]
    other = tmp_path / "packed" / "code" / json.loads((path.parent.parent / "code/manifest.json").read_text())["train"]["shards"][0]["name"]
    whole = shard.read_bytes()

    def refused(message):
        with pytest.raises(UserError, match=message):
            open_run(copy)

    for change, message in (({"finished": False}, r"finished: False.*pack"), ({"version": 2}, "version 2")):
        path.write_text(json.dumps(known | change))
        refused(message)
    path.write_text(json.dumps(known | {"train": known["train"] | {"records": 1}}))
    refused(r"damaged.*1 records in total")
    for damage in ({"train": known["heldout"] | {"shards": [{"name": "../web"}]}}, {"heldout": 3}, {"vocab_size": "many"}):
        path.write_text(json.dumps(known | damage))
        refused(r"manifest that cannot be read")
    path.write_text(json.dumps([known]))
    refused(r"manifest that cannot be read")
    path.write_text(path.read_text()[:50])
    refused(r"manifest that cannot be read")
    path.write_text(json.dumps(known))
    shutil.copy(other, shard)
    refused(r"damaged.*records in .* bytes, but it has")
    shard.unlink()
    refused(r"damaged.*but it has 0 in 0.*pack --force")
    shard.write_bytes(whole)
    open_run(copy)
    shard.write_bytes(whole[:300] + bytes(50) + whole[350:])
    run = open_run(copy)
    with pytest.raises(UserError, match=r"damaged record in .*train-000000.array_record \(record \d+ .*pack --force"):
        [run.batch(step) for step in range(STEPS)]
    shard.write_bytes(whole)
    path.unlink()
    refused(r"no packed data in .*web.*run `python -m teleflm_jax pack`")


def test_epochs_are_what_was_drawn_of_each_domain_s_records(packed):
    run = open_run(packed)
    assert run.epochs(0) == {"code": 0.0, "web": 0.0}
    drawn = collections.Counter(origin["domain"] for step in range(STEPS) for origin in run.origins(step))
    sizes = {domain: known.train.records for domain, known in run.manifests.items()}
    assert run.epochs(STEPS) == {domain: round(drawn[domain] / sizes[domain], 4) for domain in ("code", "web")}
    assert run.epochs(STEPS)["web"] > 1
    changed = run.with_history(((0, {"web": 1.0}), (STEPS, {"web": 1.0, "code": 1.0})))
    assert changed.epochs(STEPS) == {"code": 0.0, "web": round(STEPS * 8 / sizes["web"], 4)}
