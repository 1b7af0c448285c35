"""MB/s of one core for each stage of the corpus pipeline, beside datatrove's blocks on the same documents in the same run; prints JSON.

    python benchmarks/corpus.py [--debs data/debs] [--peer /tmp/datatrove/bin/python]
    /tmp/datatrove/bin/pip install datatrove==0.10.1 trafilatura lxml_html_clean nltk spacy "xxhash<3.6" regex tokenizers

The second line installs the peer into a venv of its own, which without datatrove's extras takes 0.5 GB; without --peer we are measured
alone. Documents are HTML pages of Debian packages: manuals in English, and LibreOffice's help in English, German, French, Russian and
Chinese. Both sides work on one thread, ours on Arrow batches as between the pipeline's stages, theirs on its own documents; seconds are of
processor time.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
from resiliparse.extract.html2text import extract_plain_text

from teleflm_jax.corpus import clean, contamination, duplicates, extract, languages, paragraphs, rows, rules, tokens
from teleflm_jax.corpus.config import CleanConfig, DecontaminateConfig, DuplicateConfig, ExtractConfig, ParagraphConfig
from teleflm_jax.corpus.tally import Tally

HELP = "/libreoffice/help/"
PACKAGES = (
    ("linux-doc", r"linux-doc-\d[\d.]*", "/html/"),
    ("python3-doc", r"python3\.\d+-doc", "/html/"),
    *((f"libreoffice-help-{language}", "", HELP) for language in ("en-us", "de", "fr", "ru")),
)
UNSPACED = (("libreoffice-help-zh-cn", "", HELP),)
"""Package, the dependency that has the files, and what their paths hold."""
QUIZ = 1000
"""Sentences of the documents that play benchmark items."""


def pages(debs: str, *, unspaced: bool, step: int = 1) -> list[tuple[str, bytes]]:
    """Every step-th HTML page of the packages, with its path."""
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
    import debian_packages

    cache, found = debian_packages.Cache(debs), []
    for package, through, inside in (*PACKAGES, *(UNSPACED if unspaced else ())):
        try:
            deb = cache.get(package, through)
        except debian_packages.PackageError as error:
            sys.exit(f"error: got no package {package} ({error}); allowed: Debian or Ubuntu with a mirror; change --debs")
        found += list(debian_packages.files(deb, lambda path, inside=inside: path.endswith(".html") and inside in path))[::step]
    return found


def found(read: Iterable[tuple[str, bytes]]) -> list[pa.RecordBatch]:
    """Pages as readers find them."""
    return list(rows.batches(((i, "html", path, path, "", "", page) for i, (path, page) in enumerate(read)), rows.FOUND))


def documents(batches: Iterable[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Pages' text."""
    return list(extract.extract(batches, Tally(), domain="web", source="packages", config=ExtractConfig()))


def best(work: Callable[[], object], rounds: int) -> float:
    """Seconds of processor time of the quickest of some rounds."""
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds)


def ours(read: list[tuple[str, bytes]], rounds: int) -> tuple[dict[str, float], list[str]]:
    """MB/s by stage, and the documents' texts."""
    pages_, cleaning, exact = found(read), CleanConfig(), DuplicateConfig()
    texts = documents(pages_)
    plain = [batch["text"].to_pylist() for batch in texts]
    html, size = (sum(map(len, batch)) / 1e6 for batch in ([page for _, page in read], [text.encode() for part in plain for text in part]))
    uniform = [[clean.uniform(text) for text in part] for part in plain]
    cut = [tokens.tokens(part) for part in uniform]
    index = _index([text for part in uniform for text in part])

    def hold() -> None:
        for part, own in zip(uniform, cut, strict=True):
            measures = rules.Measures(part, own, np.zeros(len(part), bool), [cleaning.stop_words["en"]] * len(part))
            rules.objections(measures, [cleaning.rules] * len(part))

    def sign() -> None:
        for _ in duplicates.signatures(texts, priority=0, config=exact):
            pass

    def whole(read: list[pa.RecordBatch]) -> None:
        for batch in read:
            kept = list(clean.clean([batch], Tally(), config=cleaning))
            list(paragraphs.hashes(kept, config=ParagraphConfig()))
            left = list(paragraphs.without(kept, {}, Tally(), config=ParagraphConfig()))
            list(duplicates.signatures(left, priority=0, config=exact))
            list(contamination.decontaminate(left, index, Tally(), [], config=DecontaminateConfig()))

    steps = {
        "extraction": (html, lambda: documents(pages_)),
        "resiliparse alone": (html, lambda: [_alone(page.decode("utf-8", "replace")) for _, page in read]),
        "cleaning, all of it": (size, lambda: list(clean.clean(texts, Tally(), config=cleaning))),
        "normalisation": (size, lambda: [clean.uniform(text) for part in plain for text in part]),
        "language": (size, lambda: [languages.languages(part) for part in uniform]),
        "tokens": (size, lambda: [tokens.tokens(part) for part in uniform]),
        "rules": (size, hold),
        "paragraphs' hashes": (size, lambda: list(paragraphs.hashes(texts, config=ParagraphConfig()))),
        "signatures": (size, sign),
        "decontamination": (size, lambda: list(contamination.decontaminate(texts, index, Tally(), [], config=DecontaminateConfig()))),
        "text to tokenisation": (size, lambda: whole(texts)),
        "pages to tokenisation, MB of text": (size, lambda: whole(documents(pages_))),
    }
    for _, work in steps.values():
        work()  # tables that are made once
    figures = {name: megabytes / best(work, rounds) for name, (megabytes, work) in steps.items()}
    return {"MB of HTML": html, "MB of text": size, "documents": sum(map(len, plain))} | figures, [text for part in plain for text in part]


def theirs(python: str, read: list[tuple[str, bytes]], texts: list[str], rounds: int) -> dict[str, float]:
    """MB/s of the peer's blocks, by its own interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        for name, rows_ in (("pages", (page.decode("utf-8", "replace") for _, page in read)), ("texts", texts)):
            pathlib.Path(folder, f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_), encoding="utf-8")
        script = pathlib.Path(__file__).with_name("corpus_peer.py")
        done = subprocess.run([python, str(script), folder, str(rounds)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _alone(page: str) -> str:
    return extract_plain_text(page, preserve_formatting=True, main_content=True, list_bullets=True, alt_texts=False, links=False)


def _index(texts: list[str]) -> contamination.Index:
    """An index of sentences from the texts."""
    items = [" ".join(text.split()[:40]) for text in texts[:: max(1, len(texts) // QUIZ)]]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "quiz.jsonl")
        path.write_text("".join(json.dumps({"question": item + f" {i}"}) + "\n" for i, item in enumerate(items)))
        return contamination.index(DecontaminateConfig(benchmarks={"quiz": str(path)}))


def main() -> None:
    """Print both sides' figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debs", default="data/debs", help="downloaded packages")
    parser.add_argument("--peer", help="the Python that has datatrove")
    parser.add_argument("--step", type=int, default=8, help="take every so-manieth page")
    parser.add_argument("--rounds", type=int, default=3, help="of ours; the quickest counts. Theirs run once")
    args = parser.parse_args()
    read = pages(args.debs, unspaced=True, step=args.step)
    figures, texts = ours(read, args.rounds)
    result = {"ours": figures} | ({"theirs": theirs(args.peer, read, texts, 1)} if args.peer else {})
    print(json.dumps({side: {name: round(value, 2) for name, value in row.items()} for side, row in result.items()}, indent=1))


if __name__ == "__main__":
    main()
