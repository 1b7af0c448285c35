"""Compare `pack` with the tokenizer's own rate, on the same text and cores, alternating in one run; prints JSON.

    python benchmarks/pack.py [--source FOLDER] [--tokenizer tokenizer.json] [--megabytes 40] [--repeats 3]

`encode_batch_fast` gets all texts in memory at once and one thread per core, and its ids are discarded. The time of `pack` includes reading
files, starting its processes, searching for held-out text and writing shards.
"""

import argparse
import itertools
import json
import os
import pathlib
import sysconfig
import tempfile
import time

from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Statistics
from teleflm_jax.packing import pack
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.tokenizer import load, train

VOCABULARY = 8_000


def texts(source: str, num_bytes: int) -> list[str]:
    chosen, size = [], 0
    for document in itertools.chain.from_iterable(work_units.read(unit, Statistics()) for unit in work_units.split_source(source, 1 << 30)):
        chosen.append(document.text)
        size += len(document.text.encode())
        if size >= num_bytes:
            break
    return chosen


def pack_seconds(source: pathlib.Path, packed: str, tokenizer: str, unit_bytes: int) -> float:
    begun = time.perf_counter()
    pack.pack(
        sources={"text": str(source)},
        packed=packed,
        tokenizer=tokenizer,
        sequence_length=4096,
        vocab_size=1 << 20,
        config=PackConfig(unit_bytes=unit_bytes),
        force=True,
        log=lambda line: None,
    )
    return time.perf_counter() - begun


def encode_seconds(chosen: list[str], tokenizer: str) -> float:
    loaded = load.load(tokenizer)
    begun = time.perf_counter()
    for first in range(0, len(chosen), 1000):
        loaded.encode_batch_fast(chosen[first : first + 1000], add_special_tokens=False)
    return time.perf_counter() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default=sysconfig.get_paths()["stdlib"], help="documents; default: the interpreter's own library")
    parser.add_argument("--tokenizer", help=f"tokenizer.json; default: one of {VOCABULARY:,} pieces trained here")
    parser.add_argument("--megabytes", type=float, default=40)
    parser.add_argument("--unit_bytes", type=int, default=4_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chosen = texts(args.source, int(args.megabytes * 1e6))
        megabytes = sum(len(text.encode()) for text in chosen) / 1e6
        source = pathlib.Path(folder, "text.jsonl")
        source.write_text("".join(json.dumps({"text": text, "family": str(i)}) + "\n" for i, text in enumerate(chosen)))
        tokenizer = args.tokenizer or os.path.join(folder, "tokenizer.json")
        if not args.tokenizer:
            pathlib.Path(tokenizer).write_text(train.train(iter(chosen[::2]), VOCABULARY), encoding="utf-8")
        packing, encoding = [], []
        for _ in range(args.repeats):
            packing.append(pack_seconds(source, os.path.join(folder, "packed"), tokenizer, args.unit_bytes))
            encoding.append(encode_seconds(chosen, tokenizer))
    result = {
        "megabytes": megabytes,
        "cores": len(os.sched_getaffinity(0)),
        "pack_megabytes_per_second": [megabytes / seconds for seconds in packing],
        "encode_batch_fast_megabytes_per_second": [megabytes / seconds for seconds in encoding],
        "share_of_the_best": min(encoding) / min(packing),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
