"""Run the whole corpus pipeline on 0.1, 1 and 4 GB, and print seconds by stage and peak memory by kind of process.

    python benchmarks/corpus_scale.py [--gigabytes 0.1 1 4] [--folder /tmp]        (4 GB need 20 GB of disk and half an hour)

The input is half pages, as WARC files of 100 MB, and half text, as one JSONL file. Packages do not hold 4 GB of prose, so pages and texts
are used many times, each time with a quarter of their words replaced by other words of the same packages. This makes no near-copies, but
short lines repeat, as in real pages. The run ends before tokenisation.
"""

import argparse
import collections
import contextlib
import itertools
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import corpus as stages
import numpy as np

CHANGED = 0.25
WARC_BYTES = 100_000_000
LIBRARY = pathlib.Path(__file__).resolve().parents[1]
STAGES = ("1-read", "2-clean", "3-paragraphs", "5-duplicates", "6-decontaminate", "documents")


def variants(texts: list[str], generator: np.random.Generator) -> Iterator[str]:
    """Yield the texts again and again, in each a share of the words between blanks replaced by others."""
    split = [text.split(" ") for text in texts]
    names = list(dict.fromkeys(itertools.chain.from_iterable(split)))
    numbers = {name: i for i, name in enumerate(names)}
    words = np.array([i for i, name in enumerate(names) if name.isalpha()])
    is_word = np.zeros(len(names), bool)
    is_word[words] = True
    ids = [np.array([numbers[name] for name in pieces]) for pieces in split]
    while True:
        for own in ids:
            change = is_word[own] & (generator.random(len(own)) < CHANGED)
            yield " ".join(map(names.__getitem__, np.where(change, generator.choice(words, len(own)), own).tolist()))


def make(folder: pathlib.Path, pages: list[str], texts: list[str], num_bytes: float) -> None:
    """Write the input: folder/pages/*.warc, folder/text/text.jsonl."""
    generator = np.random.default_rng(0)
    for name in ("pages", "text"):
        (folder / name).mkdir(parents=True)
    left, number = num_bytes / 2, 0
    page = variants(pages, generator)
    while left > 0:
        with open(folder / "pages" / f"{number:04d}.warc", "wb") as file:
            while left > 0 and file.tell() < WARC_BYTES:
                left -= file.write(_record(next(page).encode(), f"http://example.org/{number}/{file.tell()}"))
        number += 1
    left = num_bytes / 2
    with open(folder / "text" / "text.jsonl", "w", encoding="utf-8") as file:
        for text in variants(texts, generator):
            left -= file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            if left <= 0:
                return


def _record(page: bytes, address: str) -> bytes:
    body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {address}\r\nContent-Type: application/http; msgtype=response\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n"


def run(source: pathlib.Path, workdir: pathlib.Path, cores: int, unit_bytes: int) -> dict:
    """Run the command up to tokenisation; return seconds by stage, and the peak memory of each kind of process."""
    bindings = {
        "corpus.sources": {name: str(source / name) for name in ("pages", "text")},
        "corpus.domains": {"pages": "web", "text": "web"},
        "corpus.unit_bytes": unit_bytes,
        "mix.proportions": {"web": 1.0},
    }
    settings = workdir.with_name("corpus.gin")
    settings.write_text("".join(f"{name} = {value!r}\n" for name, value in bindings.items()))
    command = [sys.executable, "-m", "teleflm_jax", "corpus", "--gin_file", str(settings), "--workdir", str(workdir)]
    command += ["--master", f"local[{cores}]"]
    began = time.time()
    process = subprocess.Popen(command, cwd=LIBRARY, stdout=sys.stderr, start_new_session=True)
    peaks: collections.Counter[str] = collections.Counter()
    used: dict[int, float] = {}
    spent: dict[str, float] = {}
    done = workdir / STAGES[-1] / "manifest.json"
    while process.poll() is None and not done.exists():
        for number, kind, size, seconds in _processes(process.pid):
            peaks[kind] = max(peaks[kind], size)
            used[number] = seconds
        stage = next((stage for stage in STAGES if not (workdir / stage / "manifest.json").exists()), STAGES[-1])
        spent[stage] = sum(used.values())
        time.sleep(0.2)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if not done.exists():
        sys.exit(f"error: the pipeline ended with {process.returncode}")
    seconds, before = {}, began
    for stage in STAGES:
        ended = (workdir / stage / "manifest.json").stat().st_mtime
        seconds[stage], before = ended - before, ended
    read = json.loads((workdir / STAGES[0] / "manifest.json").read_text())["tally"]
    text = sum(row["bytes"] for row in read["out"].values()) / 1e6
    kept = json.loads(done.read_text())["tally"]["out"]
    busy = dict(zip(spent, np.diff([0, *spent.values()]).tolist(), strict=True))
    return {
        "input MB": sum(path.stat().st_size for path in source.rglob("*") if path.is_file()) / 1e6,
        "text MB": text,
        "kept MB": sum(row["bytes"] for row in kept.values()) / 1e6,
        "documents": sum(row["documents"] for row in read["out"].values()),
        "seconds": seconds | {"all": sum(seconds.values())},
        "processor seconds": busy | {"all": sum(busy.values())},
        "MB of text per second and core": text / sum(seconds.values()) / cores,
        "MB of text per processor second": text / sum(busy.values()),
        "peak MB": {kind: size / 1e6 for kind, size in peaks.items()},
    }


def _processes(root: int) -> Iterator[tuple[int, str, int, float]]:
    """Yield the command's process and all below it: number, kind, resident bytes now, CPU seconds so far."""
    parents, found = {}, {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # the process may have ended
            fields = pathlib.Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            command = pathlib.Path("/proc", entry, "cmdline").read_bytes()
            parents[int(entry)] = int(fields[1])
            kind = "JVM" if b"java" in command.split(b"\0")[0] else "worker" if b"pyspark" in command else "command"
            ticks = int(fields[11]) + int(fields[12])
            found[int(entry)] = (kind, int(fields[21]) * os.sysconf("SC_PAGESIZE"), ticks / os.sysconf("SC_CLK_TCK"))
    for number, (kind, size, seconds) in found.items():
        at = number
        while at in parents and at != root:
            at = parents[at]
        if at == root:
            yield number, kind, size, seconds


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.1, 1, 4])
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="folder for temporary files")
    parser.add_argument("--debs", default="data/debs", help="downloaded packages")
    parser.add_argument("--unit_bytes", type=int, default=64_000_000)
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    packages = stages.pages(args.debs, 4, without=stages.UNSPACED)
    read = [page for pages in packages.values() for page in pages]
    pages = [page.decode("utf-8", "replace") for _, page in read]
    texts = [text for batch in stages.documents(stages.found(read)) for text in batch["text"].to_pylist()]
    random.Random(0).shuffle(pages)
    random.Random(1).shuffle(texts)
    for gigabytes in args.gigabytes:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            make(pathlib.Path(folder, "input"), pages, texts, gigabytes * 1e9)
            row = run(pathlib.Path(folder, "input"), pathlib.Path(folder, "corpus"), cores, args.unit_bytes)
        print(json.dumps({"gigabytes": gigabytes, "cores": cores} | row), flush=True)


if __name__ == "__main__":
    main()
