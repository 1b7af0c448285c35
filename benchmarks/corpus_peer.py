"""Datatrove's side of benchmarks/corpus.py, run by an interpreter that has datatrove; prints MB/s by block as JSON.

Its language identification is left out, because its model must be downloaded.
"""

import json
import pathlib
import sys
import tempfile
import time

from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import HashConfig, MinhashConfig, MinhashDedupSignature
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from loguru import logger


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    logger.remove()
    pages, texts = (read(folder / f"{name}.jsonl") for name in ("pages", "texts"))
    html, size = (sum(len(one.encode()) for one in part) / 1e6 for part in (pages, texts))
    extractor = Trafilatura(timeout=60)
    with tempfile.TemporaryDirectory() as out:
        sign = MinhashDedupSignature(out, MinhashConfig(hash_config=HashConfig(precision=64), num_buckets=14, hashes_per_bucket=8))
        filters = {
            "Gopher's quality": GopherQualityFilter(),
            "Gopher's repetition": GopherRepetitionFilter(),
            "C4's quality": C4QualityFilter(filter_no_terminal_punct=False),
            "FineWeb's quality": FineWebQualityFilter(),
        }
        for block in filters.values():
            block.filter(documents(texts)[0])  # loads what is loaded once
        extractor.extract(pages[0])
        figures = {"extraction": html / seconds(lambda: [extractor.extract(page) for page in pages])}
        spent = {}
        for name, block in filters.items():
            every = documents(texts)  # filters may change them
            spent[name] = seconds(lambda block=block, every=every: [block.filter(one) for one in every])
        figures |= {name: size / one for name, one in spent.items()} | {"rules": size / sum(spent.values())}
        figures["signatures"] = size / seconds(lambda: sign.run(iter(documents(texts)), rank=0))
    print(json.dumps(figures))


def read(path: pathlib.Path) -> list[str]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def documents(texts: list[str]) -> list[Document]:
    return [Document(text=text, id=str(i)) for i, text in enumerate(texts)]


def seconds(work) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


main()
