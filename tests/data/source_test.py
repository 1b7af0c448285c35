"""Training from more shards than a process may hold open."""

import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

from teleflm_jax import open_files
from teleflm_jax.data import loader, source
from teleflm_jax.errors import UserError
from tests.job import BARE

SHARDS, STEPS = 150, 20
LIMITED = """
import hashlib, os, pathlib, resource, sys
from teleflm_jax.cli import options
from teleflm_jax.data import loader
from teleflm_jax.data.config import DataConfig

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
assert options.run_command(lambda: None) == 0
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 65_536))
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
data = DataConfig(tokenizer=sys.argv[1], packed=sys.argv[2], proportions={"web": 3.0, "code": 1.0}, seed=5)
run = loader.open_run(data, sequence_length=32, vocab_size=400, batch_size=64, steps=20)
digest = hashlib.sha256()
for step in range(20):
    batch = run.batch(step)
    digest.update(b"".join(batch[name].tobytes() for name in sorted(batch)))
print(digest.hexdigest())
print(len(os.listdir("/proc/self/fd")))
print(sum(len(document.tokens) for document in loader.heldout(data, "code", vocab_size=400)))
again = loader.open_run(data, sequence_length=32, vocab_size=400, batch_size=64, steps=20)
held = []
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
sys.exit(options.run_command(lambda: again.batch(0)))
"""


@pytest.fixture
def many(packed, tmp_path):
    """The packed data with each training shard under many names."""
    for domain in packed.proportions:
        old, new = pathlib.Path(packed.packed, domain), tmp_path / "packed" / domain
        new.mkdir(parents=True)
        known = json.loads((old / "manifest.json").read_text())
        for entry in known["heldout"]["shards"]:
            os.link(old / entry["name"], new / entry["name"])
        entries = known["train"]["shards"]
        shards = [entries[i % len(entries)] | {"name": f"train-{i:06d}.array_record"} for i in range(SHARDS)]
        for i, entry in enumerate(shards):
            os.link(old / entries[i % len(entries)]["name"], new / entry["name"])
        known["train"] |= {"shards": shards, "records": sum(entry["records"] for entry in shards)}
        (new / "manifest.json").write_text(json.dumps(known))
    return dataclasses.replace(packed, packed=str(tmp_path / "packed"))


def test_a_low_limit_of_open_files_changes_no_batch_and_is_named_when_it_does_not_suffice(many):
    run = loader.open_run(many, sequence_length=32, vocab_size=400, batch_size=64, steps=STEPS)
    digest = hashlib.sha256()
    for step in range(STEPS):
        batch = run.batch(step)
        digest.update(b"".join(batch[name].tobytes() for name in sorted(batch)))
    heldout = sum(len(document.tokens) for document in loader.heldout(many, "code", vocab_size=400))
    command = [sys.executable, "-c", LIMITED, many.tokenizer, many.packed]
    told = subprocess.run(command, env=BARE, capture_output=True, text=True, timeout=120)
    assert told.returncode == 2, told.stderr
    raised, found, files, tokens = told.stdout.split()
    assert (raised, found, int(tokens)) == ("True", digest.hexdigest(), heldout)
    assert 25 <= int(files) < 50  # a quarter of the limit, and what any process holds
    said = told.stderr.strip()
    assert said.startswith("error: got " + many.packed) and "damaged" not in said and "pack --force" not in said
    assert "Too many open files; allowed: as many as the process's limit (RLIMIT_NOFILE), which is 100; raise it" in said


@pytest.mark.parametrize("limit, shards", [(1, 1), (100, 25), (600, 150), (1_024, 512), (4_096, 3_584), (65_536, 8_192), (1 << 20, 8_192)])
def test_shards_leave_files_for_all_else(monkeypatch, limit, shards):
    monkeypatch.setattr(open_files, "limit", lambda: limit)
    assert open_files.for_shards() == shards


def test_the_shard_that_was_not_read_for_the_longest_time_is_closed(many, monkeypatch):
    opened, real = [], source.open_reader
    monkeypatch.setattr(source, "open_reader", lambda path: opened.append(path) or real(path))
    folder = pathlib.Path(many.packed, "web")
    shards = [(str(folder / f"train-{i:06d}.array_record"), 1) for i in range(3)]
    first, second, third = (path for path, _ in shards)
    records = source.open_source(shards, source.reader_cache(2))
    assert len(records) == 3
    content = [records[number] for number in (0, 1, 0, 2, 0, 1)]
    assert opened == [first, second, third, second]
    assert content[0] == content[2] == content[4] and content[1] == content[5]
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    held = {os.readlink(link) for link in links if os.path.islink(link)}
    assert {first, second} <= held and third not in held


@pytest.mark.parametrize(
    "message, number",
    [
        ("open() failed: Too many open files; opening /a", errno.EMFILE),
        ("read() failed: Input/output error; reading /a; at byte 7", errno.EIO),
        ("open() failed: Permission denied; opening /a", errno.EACCES),
        ("open() failed: No such file or directory; opening /a", None),  # restore it from a copy
        ("Corrupted chunk hash; reading open() failed: Too many open files; x", None),
    ],
)
def test_a_refusal_of_the_system_is_told_from_damage(message, number):
    found = source.system_error(RuntimeError(message), "/a")
    assert found is None if number is None else (found.errno, found.filename) == (number, "/a")


def test_a_shard_that_is_gone_is_to_be_restored(many):
    run = loader.open_run(many, sequence_length=32, vocab_size=400, batch_size=64, steps=STEPS)
    for path in pathlib.Path(many.packed, "web").glob("train-*"):
        path.unlink()
    with pytest.raises(UserError, match=r"damaged record in .*No such file or directory.*restore that file from a copy"):
        run.batch(0)
