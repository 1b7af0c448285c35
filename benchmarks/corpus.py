"""MB/s of one core for each stage of the corpus pipeline, compared with datatrove's blocks on the same documents in one run; prints JSON.

    python benchmarks/corpus.py [--debs data/debs] [--peer /tmp/datatrove/bin/python]
    /tmp/datatrove/bin/pip install datatrove==0.10.1 trafilatura lxml_html_clean nltk spacy "xxhash<3.6" regex tokenizers

The second line installs datatrove into a venv of its own, which takes 0.5 GB without datatrove's extras; without --peer, only our stages
are measured. Documents are HTML pages of Debian packages: manuals in English, LibreOffice's help in English, German, French, Russian and
Chinese, and a handbook in 26 languages. Both sides run on one thread, ours on Arrow batches as between the pipeline's
stages, datatrove on its own documents; seconds are CPU time.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from resiliparse.extract.html2text import extract_plain_text

from teleflm_jax.corpus import rows, tokens
from teleflm_jax.corpus.config import CleanConfig, DecontaminateConfig, DuplicateConfig, ExtractConfig, ParagraphConfig
from teleflm_jax.corpus.dedup import duplicates, paragraphs
from teleflm_jax.corpus.extraction import extract
from teleflm_jax.corpus.filters import clean, contamination, languages, rules
from teleflm_jax.documents.statistics import Statistics

HELP = "/libreoffice/help/"
PACKAGES = (
    ("linux-doc", r"linux-doc-\d[\d.]*", "/html/"),
    ("python3-doc", r"python3\.\d+-doc", "/html/"),
    *((f"libreoffice-help-{language}", "", HELP) for language in ("en-us", "de", "fr", "ru", "zh-cn")),
    ("debian-handbook", "", "/html/"),
)
"""Package, pattern of the dependency that has the files, and part of their paths."""
UNSPACED = ("libreoffice-help-zh-cn", "debian-handbook")
"""Packages with pages that have no blanks between words."""
QUIZ = 1000
"""Number of the documents' sentences that serve as benchmark items."""
AS_ONE = 4
"""Batches of pages that yield about one batch of text."""


def pages(debs: str, step: int, without: Collection[str] = ()) -> dict[str, list[tuple[str, bytes]]]:
    """Return package -> every step-th of its HTML pages, with the path."""
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
    import debian_packages

    cache, read = debian_packages.Cache(debs), {}
    for package, through, inside in PACKAGES:
        if package in without:
            continue
        try:
            deb = cache.get(package, through)
        except debian_packages.PackageError as error:
            sys.exit(f"error: got no package {package} ({error}); allowed: Debian or Ubuntu with a mirror; change --debs")
        read[package] = list(debian_packages.files(deb, lambda path, inside=inside: path.endswith(".html") and inside in path))[::step]
    return read


def found(read: Iterable[tuple[str, bytes]]) -> list[pa.RecordBatch]:
    """Return pages as a reader yields them."""
    return list(rows.batches(((i, "html", path, path, "", "", page) for i, (path, page) in enumerate(read)), rows.RAW_DOCUMENT))


def documents(batches: Iterable[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Return the text of pages."""
    return list(extract.extract(batches, Statistics(), domain="web", source="packages", config=ExtractConfig()))


def best(steps: Mapping[str, tuple[Callable, Sequence]], rounds: int) -> dict[str, float]:
    """Return the CPU seconds of each step on all its parts, each part in its fastest round.

    Other users of the machine change its speed from second to second, so parts are small and all steps alternate.
    """
    quickest = {name: np.full(len(parts), np.inf) for name, (_, parts) in steps.items()}
    for number in range(rounds + 1):
        for name, (work, parts) in steps.items():
            for i, part in enumerate(parts):
                began = time.process_time()
                work(part)
                if number:  # the first round builds tables
                    quickest[name][i] = min(quickest[name][i], time.process_time() - began)
    return {name: float(seconds.sum()) for name, seconds in quickest.items()}


def ours(packages: Mapping[str, Sequence[tuple[str, bytes]]], rounds: int) -> tuple[dict[str, float], list[str]]:
    """Return MB/s by stage, and the documents' texts."""
    cleaning, exact = CleanConfig(), DuplicateConfig()
    pages_ = {package: found(read) for package, read in packages.items()}
    every = [batch for batches in pages_.values() for batch in batches]
    texts = documents(every)
    plain = [batch["text"].to_pylist() for batch in texts]
    normalized = [clean.normalize_texts(batch["text"], [False] * len(batch)) for batch in texts]
    cut = [tokens.tokens(part) for part in normalized]
    index = _index([text for part in normalized for text in part])

    def hold(part: tuple[list[str], tokens.Tokens]) -> None:
        unspaced, stop_words = np.zeros(len(part[0]), bool), [cleaning.stop_words["en"]] * len(part[0])
        rules.rejection_reasons(rules.Measures(*part, unspaced, stop_words), [cleaning.rules] * len(part[0]))

    def whole(batches: list[pa.RecordBatch]) -> None:
        kept = list(clean.clean(batches, Statistics(), config=cleaning))
        list(paragraphs.hashes(kept, config=ParagraphConfig()))
        left = list(paragraphs.without(kept, {}, Statistics(), config=ParagraphConfig()))
        list(duplicates.signatures(left, priority=0, config=exact))
        list(contamination.decontaminate(left, index, Statistics(), [], config=DecontaminateConfig()))

    of_html = {package: _megabytes(page for _, page in read) for package, read in packages.items()}
    of_text = _megabytes(text.encode() for part in plain for text in part)
    on_batches = {
        "cleaning, all of it": lambda batch: list(clean.clean([batch], Statistics(), config=cleaning)),
        "normalisation": lambda batch: clean.normalize_texts(batch["text"], [False] * len(batch)),
        "paragraphs' hashes": lambda batch: list(paragraphs.hashes([batch], config=ParagraphConfig())),
        "signatures": lambda batch: list(duplicates.signatures([batch], priority=0, config=exact)),
        "decontamination": lambda batch: list(contamination.decontaminate([batch], index, Statistics(), [], config=DecontaminateConfig())),
        "text to tokenisation": lambda batch: whole([batch]),
    }
    chunks = [every[i : i + AS_ONE] for i in range(0, len(every), AS_ONE)]
    steps = {
        "extraction": (lambda batch: documents([batch]), every),
        "resiliparse alone": (_alone, every),
        **{name: (work, texts) for name, work in on_batches.items()},
        "language": (languages.languages, normalized),
        "tokens": (tokens.tokens, normalized),
        "rules": (hold, list(zip(normalized, cut, strict=True))),
        "pages to tokenisation, MB of text": (lambda some: whole(documents(some)), chunks),
        **{f"extraction, {package}": (lambda batch: documents([batch]), batches) for package, batches in pages_.items()},
        **{f"resiliparse alone, {package}": (_alone, batches) for package, batches in pages_.items()},
    }
    sizes = dict.fromkeys(steps, of_text) | dict.fromkeys(("extraction", "resiliparse alone"), sum(of_html.values()))
    sizes |= {f"{what}, {package}": size for what in ("extraction", "resiliparse alone") for package, size in of_html.items()}
    figures = {name: sizes[name] / seconds for name, seconds in best(steps, rounds).items()}
    counts = {"MB of HTML": sum(of_html.values()), "MB of text": of_text, "documents": sum(map(len, plain))}
    return counts | figures, [text for part in plain for text in part]


def theirs(python: str, read: list[tuple[str, bytes]], texts: list[str], rounds: int) -> dict[str, float]:
    """Return MB/s of datatrove's blocks, measured by its own interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        for name, rows_ in (("pages", (page.decode("utf-8", "replace") for _, page in read)), ("texts", texts)):
            pathlib.Path(folder, f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_), encoding="utf-8")
        script = pathlib.Path(__file__).with_name("corpus_peer.py")
        done = subprocess.run([python, str(script), folder, str(rounds)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _alone(batch: pa.RecordBatch) -> None:
    for page in batch["content"].to_pylist():
        html = page.decode("utf-8", "replace")
        extract_plain_text(html, preserve_formatting=True, main_content=True, list_bullets=True, alt_texts=False, links=False)


def _megabytes(parts: Iterable[bytes]) -> float:
    return sum(map(len, parts)) / 1e6


def _index(texts: list[str]) -> contamination.NgramIndex:
    """Build an index of sentences from the texts."""
    items = [" ".join(text.split()[:40]) for text in texts[:: max(1, len(texts) // QUIZ)]]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "quiz.jsonl")
        path.write_text("".join(json.dumps({"question": item + f" {i}"}) + "\n" for i, item in enumerate(items)))
        return contamination.index(DecontaminateConfig(benchmarks={"quiz": str(path)}))


def main() -> None:
    """Print the figures of both sides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debs", default="data/debs", help="downloaded packages")
    parser.add_argument("--peer", help="a Python interpreter that has datatrove")
    parser.add_argument("--step", type=int, default=8, help="use one page out of this many")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of our stages, of which the fastest counts; datatrove runs once")
    args = parser.parse_args()
    packages = pages(args.debs, args.step)
    figures, texts = ours(packages, args.rounds)
    read = [page for pages in packages.values() for page in pages]
    result = {"ours": figures} | ({"theirs": theirs(args.peer, read, texts, 1)} if args.peer else {})
    print(json.dumps({side: {name: round(value, 2) for name, value in row.items()} for side, row in result.items()}, indent=1))


if __name__ == "__main__":
    main()
