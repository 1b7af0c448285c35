"""Compare text extracted from HTML with the text the pages were made from, by resiliparse and trafilatura; prints JSON.

    python -m benchmarks.extraction

Debian's packages have Python's and the kernel's documentation as Sphinx's pages and as their reStructuredText. Both are split into the
tokens that the corpus counts, and compared as multisets: precision is the share of the extracted text that is in the source, recall the
share of the source that was extracted. Pages that have no source (indices, search) are left out and counted.
Target: an F1 of at least 0.95 over all of Python's pages.

Pages of many makers have no source in their packages; for these, elements of each maker's template mark the content
(benchmarks/makers.py). Recall leaves out tables of contents; precision is the share of the extracted tokens that is content. List items,
definitions, cells and other items without a link are counted as found or missing in the extracted text.
"""

import argparse
import collections
import dataclasses
import gzip
import json
import pathlib
import statistics
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from benchmarks import makers, restructured
from examples import debian_packages
from teleflm_jax.corpus import rows, tokens
from teleflm_jax.corpus.config import EXTRACTORS, ExtractConfig
from teleflm_jax.corpus.extraction import extract
from teleflm_jax.documents.statistics import Statistics

BAR = 0.95
_HTML, _SOURCES = "/html/", "_sources/"


@dataclasses.dataclass(frozen=True)
class Documentation:
    """A documentation that Sphinx made into pages, and its package."""

    package: str
    through: str
    """Pattern of the package with a version in its name."""
    said: Mapping[str, str]
    """Substitutions that its configuration defines."""


DOCUMENTATION = {
    "python": Documentation("python3-doc", r"python3\.\d+-doc", {"version": "3.11", "release": "3.11.2"}),
    "linux": Documentation("linux-doc", r"linux-doc-[\d.]+", {}),
}


@dataclasses.dataclass(frozen=True)
class Page:
    """A page, and the text that should be extracted from it."""

    path: str
    html: bytes
    text: str
    brings_in: bool
    """Whether the page shows text that is not in its source."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Token counts of one page."""

    common: int
    extracted: int
    wanted: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 if nothing was wanted and nothing extracted."""
        return 2 * self.common / (self.extracted + self.wanted) if self.extracted + self.wanted else 1.0


def pages(name: str, cache: debian_packages.Cache) -> tuple[list[Page], int]:
    """Return pages with their truth, in order, and the number of other pages.

    Raises:
        debian_packages.PackageError: the package is not available.
    """
    own = DOCUMENTATION[name]
    html, sources = {}, {}
    for path, content in debian_packages.files(cache.get(own.package, own.through), lambda path: _HTML in path):
        place = path.partition(_HTML)[2]
        if place.endswith(".html"):
            html[place.removesuffix(".html")] = content
        elif place.startswith(_SOURCES):
            content = gzip.decompress(content) if place.endswith(".gz") else content
            sources[place.removeprefix(_SOURCES).removesuffix(".gz").removesuffix(".txt").removesuffix(".rst")] = content.decode()
    known = restructured.titles(sources)
    found = [
        Page(path, html[path], restructured.visible(source, path, known, own.said), restructured.brings_in(source))
        for path, source in sorted(sources.items())
        if path in html
    ]
    return found, len(html) - len(found)


def extracted(found: Iterable[Page | makers.Page], extractor: str) -> Iterator[str]:
    """Return the text of each page, empty for pages without text."""
    texts = {}
    numbered = list(found)
    records = ((i, "html", page.path, "", "", "", page.html) for i, page in enumerate(numbered))
    batches = rows.batches(records, rows.RAW_DOCUMENT)
    for batch in extract.extract(batches, Statistics(), domain="", source="", config=ExtractConfig(extractor=extractor)):
        texts.update(zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True))
    return (texts.get(i, "") for i in range(len(numbered)))


def score(text: str, truth: str) -> Score:
    """Compare two texts as multisets of tokens."""
    both = tokens.tokens([text, truth])
    (ours, our_counts), (theirs, their_counts) = (np.unique(both.hashes[both.of(i)], return_counts=True) for i in (0, 1))
    _, at, there = np.intersect1d(ours, theirs, assume_unique=True, return_indices=True)
    return Score(int(np.minimum(our_counts[at], their_counts[there]).sum()), int(our_counts.sum()), int(their_counts.sum()))


def figures(scores: list[Score]) -> dict[str, float]:
    """Return F1, precision and recall over all tokens, and F1 by page."""
    common, out, wanted = (sum(getattr(one, name) for one in scores) for name in ("common", "extracted", "wanted"))
    by_page = sorted(one.f1 for one in scores)
    return {
        "pages": len(scores),
        "f1": round(2 * common / (out + wanted), 4),
        "precision": round(common / out, 4),
        "recall": round(common / wanted, 4),
        "f1_mean_page": round(statistics.fmean(by_page), 4),
        "f1_median_page": round(statistics.median(by_page), 4),
        "f1_tenth_percentile": round(by_page[len(by_page) // 10], 4),
    }


def of_makers(found: Mapping[str, list[makers.Page]], extractor: str) -> dict[str, dict]:
    """Return precision, recall and F1 of each maker's pages, the mean of all makers, and the share of items found by kind."""
    by_maker, kinds = {}, collections.Counter()
    for name, own in found.items():
        texts = [unicodedata.normalize("NFKC", text) for text in extracted(own, extractor)]
        of_content = [score(text, page.content) for text, page in zip(texts, own, strict=True)]
        of_wanted = [score(text, page.wanted) for text, page in zip(texts, own, strict=True)]
        precision = sum(one.common for one in of_content) / max(1, sum(one.extracted for one in of_content))
        recall = sum(one.common for one in of_wanted) / sum(one.wanted for one in of_wanted)
        f1 = 2 * precision * recall / max(precision + recall, 1e-9)
        by_maker[name] = {"f1": round(f1, 3), "precision": round(precision, 3), "recall": round(recall, 3)}
        for text, page in zip(texts, own, strict=True):
            kinds += makers.found(page, text)
    mean = {key: round(statistics.fmean(one[key] for one in by_maker.values()), 4) for key in ("f1", "precision", "recall")}
    items = {kind: f"{kinds[kind, True]} of {kinds[kind, True] + kinds[kind, False]}" for kind in sorted({kind for kind, _ in kinds})}
    return {"mean": mean, "items": items, "makers": by_maker}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--debs", type=pathlib.Path, default=pathlib.Path("data/debs"), help="folder of packages (default: data/debs)")
    parser.add_argument("--every", type=int, default=1, help="use one page out of this many (default: 1)")
    parser.add_argument("--of_maker", type=int, default=30, help="number of pages of each maker (default: 30)")
    parser.add_argument("--worst", type=int, default=0, help="also print the paths of this many pages with the lowest scores")
    args = parser.parse_args()
    said = {"bar": BAR}
    for name in DOCUMENTATION:
        found, left_out = pages(name, debian_packages.Cache(args.debs))
        found = found[:: args.every]
        said[name] = {"pages": len(found), "without_source": left_out, "megabytes": round(sum(len(page.html) for page in found) / 1e6, 1)}
        for extractor in EXTRACTORS:
            scores = [score(text, page.text) for text, page in zip(extracted(found, extractor), found, strict=True)]
            whole = [one for one, page in zip(scores, found, strict=True) if not page.brings_in]
            said[name][extractor] = {"all": figures(scores), "nothing_brought_in": figures(whole)}
            if args.worst:
                order = sorted(range(len(found)), key=lambda i: scores[i].f1)[: args.worst]
                said[name][extractor]["worst"] = [f"{found[i].path} {scores[i].f1:.3f}" for i in order]
    if args.of_maker:
        cache = debian_packages.Cache(args.debs)
        of_maker = {name: makers.pages(maker, cache, args.of_maker) for name, maker in makers.MAKERS.items()}
        said["makers"] = {"pages": sum(map(len, of_maker.values()))} | {name: of_makers(of_maker, name) for name in EXTRACTORS}
    print(json.dumps(said, indent=1))
    return 0 if said["python"]["resiliparse"]["all"]["f1"] >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
