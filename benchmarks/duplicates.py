"""Measure near-duplicate detection: recall and precision over pairs, effect of components on documents, and datasketch on the same text.

    python examples/debian_text.py --out data/text-large --set large
    for what in seconds ours datasketch; do
        python -m benchmarks.duplicates --text data/text-large --workdir runs/planted --what $what
    done

The text is 50,000 passages, two fifths of them planted near-copies; the truth is the exact similarity of every pair (`near_copies`). Prints
JSON. Needs requirements-corpus.txt, Java, datasketch (requirements-parity.txt) and 4 GB of memory.
"""

import argparse
import collections
import dataclasses
import functools
import json
import os
import pathlib
import random
import sys
import time
import types
from collections.abc import Callable, Iterable, Sequence

import pyarrow.parquet

from benchmarks import near_copies
from teleflm_jax.corpus import rows, spark
from teleflm_jax.corpus.config import DuplicateConfig
from teleflm_jax.corpus.dedup import deduplicate, duplicates
from teleflm_jax.corpus.stages import partitions
from teleflm_jax.corpus.stages.run import CorpusRun
from teleflm_jax.documents.statistics import Statistics

DOCUMENTS, ORIGINALS = 50_000, 30_000
PART_DOCUMENTS = 2500
TRUTH = "truth.json"
SIGNED = 10
"""Signatures are timed on one document out of this many."""
BINS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
Pairs = Iterable[tuple[int, int]]


def main() -> int:
    arguments = _parse()
    found = near_copies.passages(arguments.text)
    originals = random.Random(arguments.seed).sample(found, min(len(found), arguments.documents * ORIGINALS // DOCUMENTS))
    documents, config = near_copies.add_near_copies(originals, arguments.documents, arguments.seed), DuplicateConfig()
    facts = {"documents": len(documents), "MB": sum(len(document.text.encode()) for document in documents) / 1e6}
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    if arguments.what == "seconds":
        report = {"stage, seconds": stage(arguments, documents, config), "signatures, MB/s of a core": signing(documents, config)}
    elif arguments.what == "ours":
        exact, ours = near_copies.Exact(documents), answer(arguments.workdir)
        truth = exact.pairs(config.similarity)
        (arguments.workdir / TRUTH).write_text(json.dumps([[*pair, similarity] for pair, similarity in sorted(truth.items())]))
        report = {"planted": _planted(documents, exact)} | judged(documents, truth, ours.links) | chaining(exact, ours.kept_for)
    else:
        truth = {(a, b): similarity for a, b, similarity in json.loads((arguments.workdir / TRUTH).read_text())}
        report = _beside(documents, truth, config, answer(arguments.workdir))
    print(json.dumps(facts | _rounded(report), indent=1))
    return 0


def stage(arguments: argparse.Namespace, documents: Sequence[near_copies.Passage], config: DuplicateConfig) -> float:
    """Run the stage in a session of its own, and return its seconds."""
    session = spark.session(arguments.master, arguments.workdir / "spark")
    try:
        clock = time.monotonic()
        deduplicated(session, arguments.workdir, documents, config)
        return time.monotonic() - clock
    finally:
        session.stop()


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of the stage."""

    links: set[tuple[int, int]]
    """Pairs that the stage calls duplicates; exact copies of a document count as that document."""
    kept_for: dict[int, int]
    """Removed document -> the document that is kept."""


def deduplicated(session, folder: pathlib.Path, documents: Sequence[near_copies.Passage], config: DuplicateConfig) -> None:
    """Run the pipeline's stage on the documents, or resume it."""
    source, count = folder / partitions.PARAGRAPHS, -(-len(documents) // PART_DOCUMENTS)
    for place in (source, folder / partitions.DUPLICATES):
        place.mkdir(exist_ok=True)
    for number in set(range(count)) - partitions.done(source):
        chosen = documents[number * PART_DOCUMENTS : (number + 1) * PART_DOCUMENTS]
        table = [
            ((number << rows.ROW_BITS) + i, "web", "s", "", "", "", document.language, None, document.text)
            for i, document in enumerate(chosen)
        ]
        partitions.write(source, number, rows.batches(table, rows.DOCUMENT), rows.DOCUMENT, Statistics())
    run = CorpusRun(
        workdir=folder,
        settings=types.SimpleNamespace(duplicates=config),
        partitions=[types.SimpleNamespace(priority=0)] * count,
        references=(),
        session=session,
        log=lambda line: None,
        progress=lambda step, done, count: None,
    )
    deduplicate.make(run, source)


def answer(folder: pathlib.Path) -> Result:
    """Return the result of the stage."""
    found = folder / partitions.DUPLICATES
    links = {(_place(row["a"]), _place(row["b"])) for row in _rows(found / "links")}
    signed = collections.defaultdict(list)
    for row in _rows(found / "signatures"):
        signed[row["language"], row["whole"]].append(_place(row["id"]))
    gone = {_place(row["id"]): _place(row["kept"]) for row in _rows(found / "later")}
    return Result(_with_copies(links, signed.values()), gone)


def _place(number: int) -> int:
    return (number >> rows.ROW_BITS) * PART_DOCUMENTS + number % (1 << rows.ROW_BITS)


def _rows(folder: pathlib.Path) -> list[dict]:
    return [row for file in sorted(folder.rglob("*.parquet")) for row in pyarrow.parquet.ParquetFile(file).read().to_pylist()]


def _with_copies(links: Pairs, copies: Iterable[list[int]]) -> set[tuple[int, int]]:
    """Replace exact copies by the first of them, the only one that is compared with others."""
    of = {min(group): group for group in copies}
    alike = {(a, b) for group in of.values() for a in group for b in group if a < b}
    return alike | {(min(a, b), max(a, b)) for one, other in links for a in of.get(one, (one,)) for b in of.get(other, (other,)) if a != b}


def judged(documents: Sequence[near_copies.Passage], truth: dict, links: set[tuple[int, int]]) -> dict:
    """Compare the reported pairs with all true ones, and with the planted ones alone."""
    own = {(i, document.of) for i, document in enumerate(documents) if document.of >= 0}
    set_up = {(min(pair), max(pair)) for pair in own} & truth.keys()
    members = {i: number for number, group in enumerate(near_copies.groups(len(documents), links)) for i in group}
    return {
        "named": len(links),
        "precision": len(links & truth.keys()) / max(1, len(links)),
        "recall": len(links & truth.keys()) / len(truth),
        "recall_planted": len(links & set_up) / len(set_up),
        "together": sum(a in members and members[a] == members.get(b) for a, b in truth) / len(truth),
        "recall_by_similarity": _by_bin(truth, links),
    }


def _by_bin(similarities: dict[tuple[int, int], float], links: set[tuple[int, int]]) -> dict[str, list]:
    counts = {f"{low:.2f}": [0, 0] for low in BINS}
    for pair, similarity in similarities.items():
        own = counts[f"{max(low for low in BINS if low <= similarity):.2f}"]
        own[0] += pair in links
        own[1] += 1
    return {low: [found / total, total] for low, (found, total) in counts.items() if total}


def chaining(exact: near_copies.Exact, kept_for: dict[int, int]) -> dict:
    """Count the documents of components, and those removed for a document to which they are less similar than the threshold."""
    threshold, groups = DuplicateConfig().similarity, collections.defaultdict(list)
    for gone, kept in kept_for.items():
        groups[kept].append(gone)
    inside = [[kept, *gone] for kept, gone in groups.items()]
    pairs = [(a, b) for group in inside for i, a in enumerate(group) for b in group[i + 1 :]]
    return {
        "components": len(inside),
        "largest": max(map(len, inside)),
        "pairs_inside": len(pairs),
        "pairs_below": sum(exact.similarity(a, b) < threshold for a, b in pairs),
        "dropped": len(kept_for),
        "dropped_below": sum(exact.similarity(a, b) < threshold for a, b in kept_for.items()),
        "dropped_below_half": sum(exact.similarity(a, b) < 0.5 for a, b in kept_for.items()),
    }


def signing(documents: Sequence[near_copies.Passage], config: DuplicateConfig) -> dict:
    """Time signatures on one core, ours and datasketch's, for all texts and for Chinese ones, with both scripts as one and separate."""
    found = {}
    chosen = documents[: len(documents) // SIGNED]
    for name, languages in (("all", ("en", "zh", "code")), ("Chinese", ("zh",))):
        own = [one for one in chosen if one.language in languages]
        megabytes = sum(len(one.text.encode()) for one in own) / 1e6
        table = [(i, "", "", "", "", "", one.language, None, one.text) for i, one in enumerate(own)]
        batches = list(rows.batches(table, rows.DOCUMENT))
        for simplified in (True, False):
            settings = dataclasses.replace(config, simplify_chinese=simplified)
            seconds = _seconds(lambda s=settings, b=batches: duplicates.signatures(b, priority=0, config=s))
            found[f"{name}, scripts {'as one' if simplified else 'apart'}"] = megabytes / seconds
        cutting = _seconds(lambda o=own: map(shingled, o))
        both = _seconds(lambda o=own: map(functools.partial(_sketch, config.bands * config.rows), map(shingled, o)))
        found |= {f"{name}, datasketch": megabytes / both, f"{name}, datasketch without its shingles": megabytes / (both - cutting)}
    return found


def _seconds(make: Callable[[], Iterable]) -> float:
    """Return MB/s of one core, the best of three."""
    found = []
    for _ in range(3):
        clock = time.process_time()
        collections.deque(make(), maxlen=0)
        found.append(time.process_time() - clock)
    return min(found)


def _planted(documents: Sequence[near_copies.Passage], exact: near_copies.Exact) -> dict:
    copies = [(document.of, i) for i, document in enumerate(documents) if document.of >= 0]
    counts = collections.Counter(f"{max(low for low in (0, *BINS) if low <= exact.similarity(*pair)):.2f}" for pair in copies)
    return {"planted": len(copies), "planted_by_similarity": dict(sorted(counts.items()))}


def _beside(documents: Sequence[near_copies.Passage], truth: dict, config: DuplicateConfig, ours: Result) -> dict:
    """Run datasketch, with its own choice of bands for the threshold and with ours."""
    found = {}
    for name, settings in (
        ("threshold=0.8, num_perm=128", {"threshold": config.similarity, "num_perm": 128}),
        (f"{config.bands} bands of {config.rows}", {"num_perm": config.bands * config.rows, "params": (config.bands, config.rows)}),
    ):
        links = peer(documents, settings)
        checked = links & truth.keys()
        groups = [sorted(group, key=lambda i: (-len(documents[i].text), i)) for group in near_copies.groups(len(documents), checked)]
        kept = set(range(len(documents))) - {i for group in groups for i in group[1:]}
        own = set(range(len(documents))) - ours.kept_for.keys()
        found[name] = judged(documents, truth, links)
        found[name] |= {"kept": len(kept), "kept_by_ours": len(own), "kept_by_one_alone": len(kept ^ own)}
    return found


def peer(documents: Sequence[near_copies.Passage], settings: dict) -> set[tuple[int, int]]:
    """Return the pairs that datasketch's MinHashLSH reports, without verification, as it is usually used."""
    import datasketch

    found, tables = set(), {language: datasketch.MinHashLSH(**settings) for language in {document.language for document in documents}}
    for i, document in enumerate(documents):
        sketch = _sketch(settings["num_perm"], shingled(document))
        found.update((other, i) for other in tables[document.language].query(sketch))
        tables[document.language].insert(i, sketch)
    return found


def shingled(document: near_copies.Passage) -> list[bytes]:
    """Return a document's shingles in the form that datasketch takes."""
    return [shingle.encode() for shingle in near_copies.shingles(document.text, document.language)]


def _sketch(num_perm: int, shingles: list[bytes]):
    import datasketch

    sketch = datasketch.MinHash(num_perm=num_perm)
    sketch.update_batch(shingles)
    return sketch


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 5) if isinstance(value, float) else value


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", type=pathlib.Path, required=True, help="folder made by examples/debian_text.py")
    parser.add_argument("--documents", type=int, default=DOCUMENTS, help=f"number of documents (default: {DOCUMENTS})")
    parser.add_argument("--seed", type=int, default=0, help="seed for the choice of passages and for the copies (default: 0)")
    parser.add_argument("--master", default=f"local[{len(os.sched_getaffinity(0))}]", help="Spark master (default: all local cores)")
    parser.add_argument(
        "--what", choices=("seconds", "ours", "datasketch"), required=True, help="part to run; `seconds` runs the stage and must come first"
    )
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="folder for the stage's results, which later parts reuse")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
