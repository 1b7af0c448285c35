"""Measure the loader: milliseconds from one batch to the next in one process, for shapes from a laptop's to a cluster node's; prints JSON.

python benchmarks/loader.py
"""

import json
import pathlib
import random
import tempfile
import time

from teleflm_jax.data import loader
from teleflm_jax.data.config import DataConfig
from teleflm_jax.packing import pack
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.tokenizer import train

SHAPES = ((8, 512), (12, 4096), (128, 4096))
DOMAINS = 8
BATCHES = 200
TOKENS = 2_000_000


def prepare(folder: pathlib.Path, sequence_length: int) -> DataConfig:
    numbers = random.Random(0)
    words = ["".join(numbers.choices("etaoinshrdlu", k=numbers.randrange(2, 9))) for _ in range(500)]
    (folder / "tokenizer.json").write_text(train.train(iter([" ".join(numbers.choices(words, k=20_000))] * 2), 700), encoding="utf-8")
    sources = {}
    for domain in map(str, range(DOMAINS)):
        path = folder / f"{domain}.jsonl"
        texts = (" ".join(numbers.choices(words, k=numbers.randrange(20, 1000))) for _ in range(TOKENS // DOMAINS // 500))
        path.write_text("".join(json.dumps({"text": text, "family": str(i)}) + "\n" for i, text in enumerate(texts)))
        sources[domain] = str(path)
    data = DataConfig(
        tokenizer=str(folder / "tokenizer.json"),
        packed=str(folder / "packed"),
        proportions={domain: 1.0 + int(domain) for domain in sources},
    )
    pack.pack(
        sources=sources,
        packed=data.packed,
        tokenizer=data.tokenizer,
        sequence_length=sequence_length,
        vocab_size=700,
        config=PackConfig(unit_bytes=500_000),
        log=lambda line: None,
    )
    return data


def main():
    with tempfile.TemporaryDirectory() as name:
        for batch_size, sequence_length in SHAPES:
            folder = pathlib.Path(name, f"{batch_size}x{sequence_length}")
            folder.mkdir()
            data = prepare(folder, sequence_length)
            begun = time.perf_counter()
            run = loader.open_run(data, sequence_length=sequence_length, vocab_size=700, batch_size=batch_size, steps=BATCHES + 1)
            opened = time.perf_counter()
            with run.iterate() as batches:
                next(batches)
                first = time.perf_counter()
                for _ in range(BATCHES):
                    next(batches)
            seconds = (time.perf_counter() - first) / BATCHES
            result = {
                "batch_size": batch_size,
                "sequence_length": sequence_length,
                "open_ms": (opened - begun) * 1e3,
                "batch_ms": seconds * 1e3,
            }
            print(
                json.dumps(
                    result | {"records_per_second": batch_size / seconds, "tokens_per_second": batch_size * sequence_length / seconds}
                )
            )


if __name__ == "__main__":
    main()
