"""Slow proofs on the real packages; they need apt-get and its network."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def run(*arguments) -> str:
    one_device = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, env=one_device, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_quickstart_beats_both_compressors_on_pieces_in_every_domain(tmp_path):
    printed = run("examples/quickstart.py", "--workdir", tmp_path / "run")
    assert "on pieces as long as its context in 4 of 4 domains" in printed
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(row["data_wait_seconds"] for row in rows[1:]) < 0.02 * sum(row["step_seconds"] for row in rows[1:])


def test_an_80k_tokenizer_reaches_its_ratios_within_its_memory(tmp_path):
    run("examples/debian_text.py", "--out", tmp_path / "text", "--debs", ROOT / "data/debs", "--set", "large")
    benchmark = [sys.executable, "benchmarks/tokenizer.py", "--text", tmp_path / "text"]
    # its exit code also judges the seconds, which are for a quiet machine; here tokens per UTF-8 byte and peak memory count
    found = json.loads(subprocess.run(benchmark, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False).stdout)["figures"]
    assert found["english"] <= 0.25 and found["chinese"] <= 0.24 and found["code"] <= 0.24
    assert found["peak_gb"] < 3
