"""Plant test items in real text, search for them among 10,000 documents without items, and print the findings as JSON.

    python -m benchmarks.decontamination

Items are made from one half of each source, documents from the other: WordNet's explanations (English), manual pages and LibreOffice's help
(Chinese), the standard library (code), Metamath's theorems (maths). Each item is planted in five disguises. Sets of token
tuples, made here in plain Python by a separate tokenizer, decide which documents are clean.
"""

import argparse
import ast
import gzip
import itertools
import json
import pathlib
import random
import re
import sys
import sysconfig
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator

from benchmarks.extraction import Page, extracted
from examples import debian_packages, plain_text
from teleflm_jax.corpus import rows
from teleflm_jax.corpus.config import DecontaminateConfig
from teleflm_jax.corpus.filters import clean, contamination
from teleflm_jax.documents.statistics import Statistics

DOMAINS = ("english", "chinese", "code", "maths")
DOCUMENTS, ITEMS = 2500, 400
"""Documents and items of each domain."""
WORDS, CHARACTERS, SHORTEST = 13, 20, 8
"""Numbers of the rule as the documentation states them."""
_OTHERS = frozenset(("test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3"))
"""Folders of the standard library that do not hold its code."""
_HAN = "\u3005\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_HAN}]|(?:(?![{_HAN}])[^\W_])+")


def sources(cache: debian_packages.Cache) -> dict[str, tuple[list[str], list[str]]]:
    """Return domain -> (texts for items, documents), from different files or from different halves of one.

    Raises:
        debian_packages.PackageError: a package is not available.
    """
    manuals = dict(debian_packages.files(cache.get("manpages-zh"), re.compile(r"usr/share/man/zh_CN/.+\.gz").fullmatch))
    pages = {path: plain_text.from_man(gzip.decompress(content).decode(errors="replace")) for path, content in manuals.items()}
    firsts = [page for path, page in pages.items() if "/man1/" in path]
    help_ = debian_packages.files(cache.get("libreoffice-help-zh-cn"), re.compile(r".+/zh-CN/text/.+\.html").fullmatch)
    office = extracted((Page(path, content, "", False) for path, content in help_), "resiliparse")
    wordnet = dict(debian_packages.files(cache.get("wordnet-base"), re.compile(r".+/data\.\w+").fullmatch))
    nouns, others = ([wordnet[path].decode() for path in wordnet if path.endswith("data.noun") == want] for want in (True, False))
    [(_, theorems)] = debian_packages.files(cache.get("metamath-databases"), re.compile(r".+/set\.mm").fullmatch)
    statements = re.split(r"\n\s*\n", theorems.decode())
    half = len(statements) // 2
    stdlib = pathlib.Path(sysconfig.get_paths()["stdlib"])
    definitions = [list(_definitions(path)) for path in sorted(stdlib.rglob("*.py")) if not _OTHERS.intersection(path.parts)]
    return {
        "english": (
            re.findall(r"\| (.+)", nouns[0]),
            ["\n".join(lines) for data in others for lines in _groups(re.findall(r"\| (.+)", data), 10)],
        ),
        "chinese": (
            [block for page in firsts for block in page.split("\n") if len(re.findall(f"[{_HAN}]", block)) >= SHORTEST],
            [*filter(None, office), *(page for path, page in pages.items() if "/man1/" not in path)],
        ),
        "code": (sum(definitions[::4], []), [text for i, texts in enumerate(definitions) if i % 4 for text in texts]),
        "maths": (statements[:half], list(plain_text.from_metamath("\n\n".join(statements[half:])))),
    }


def _groups(lines: list[str], count: int) -> Iterator[list[str]]:
    return (lines[i : i + count] for i in range(0, len(lines), count))


def _definitions(path: pathlib.Path) -> Iterator[str]:
    """Yield the source of a module's functions and classes."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        body = ast.parse(text).body
    except SyntaxError:
        return
    for one in body:
        if isinstance(one, ast.FunctionDef | ast.ClassDef) and one.end_lineno - one.lineno >= 4:
            yield "\n".join(text.split("\n")[one.lineno - 1 : one.end_lineno])


def words(text: str) -> list[str]:
    """Return tokens as documented: no case, spaces, punctuation or full-width forms; single characters of scripts without spaces."""
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


def size(tokens: list[str]) -> int:
    """Return the n of an item's n-grams; 0 if the item is too short to be searched for."""
    unspaced = sum(bool(re.fullmatch(f"[{_HAN}]", token)) for token in tokens)
    n = min(len(tokens), CHARACTERS if 2 * unspaced > len(tokens) else WORDS)
    return n if n >= SHORTEST else 0


def grams(tokens: list[str], n: int) -> Iterator[tuple[str, ...]]:
    """Return all n-grams of tokens."""
    return zip(*(tokens[i:] for i in range(n)), strict=False)


def is_clean(text: str, wanted: dict[int, set[tuple[str, ...]]]) -> bool:
    """Return whether a text contains no n-gram of an item."""
    tokens = words(text)
    return not any(gram in found for n, found in wanted.items() for gram in grams(tokens, n))


def _wide(text: str) -> str:
    return "".join(chr(ord(one) + 0xFEE0) if one.isascii() and one.isalnum() else "，" if one == "," else one for one in text)


def _respaced(text: str) -> str:
    return re.sub(rf"(?<=[{_HAN}])(?=[{_HAN}])", " ", re.sub(r"\s+", " \n\t ", text))


DISGUISES: dict[str, Callable[[str], str]] = {
    "verbatim": lambda item: f"\n{item}\n",
    "re-cased": lambda item: f"\n{item.swapcase()}\n",
    "re-spaced": lambda item: f"\n{_respaced(item)}\n",
    "embedded": lambda item: f" (Q: {' '.join(item.split())}) A, ",
    "full width, without punctuation": lambda item: "\n" + _wide(re.sub(r"[^\w\s]|_", " ", item)) + "\n",
}


def planted(items: list[str], hosts: Iterable[str], generator: random.Random) -> Iterator[tuple[str, str]]:
    """Yield (disguise, document that contains the item) for every disguise of an item."""
    for (item, (name, disguise)), host in zip(itertools.product(items, DISGUISES.items()), itertools.cycle(hosts), strict=False):
        place = generator.choice([i for i, one in enumerate(host) if one.isspace()] or [len(host)])
        yield name, host[:place] + disguise(item) + host[place:]


def left(texts: Iterable[str], index: contamination.NgramIndex, config: DecontaminateConfig) -> set[int]:
    """Return the numbers of the documents that decontamination keeps."""
    documents = ((i, "", "", "", "", "", "", None, clean.normalize(text)) for i, text in enumerate(texts))
    kept = contamination.decontaminate(rows.batches(documents, rows.DOCUMENT), index, Statistics(), [], config=config)
    return {number for batch in kept for number in batch["id"].to_pylist()}


def measure(name: str, texts: list[str], documents: list[str], folder: pathlib.Path, num_items: int, num_documents: int) -> dict:
    """Plant a domain's items, and count how many are found.

    Args:
        name: name of the domain.
        texts: texts from which items are drawn.
        documents: documents from other files.
        folder: folder for the benchmark's file.
        num_items: number of items to plant.
        num_documents: number of documents without an item, which should be kept.
    """
    generator = random.Random(0)
    long_enough = sorted({text.strip() for text in texts if size(words(text))})
    items = generator.sample(long_enough, min(num_items, len(long_enough)))
    file = folder / f"{name}.jsonl"
    lines = (json.dumps({"question": item, "choices": ["yes", "no"], "answer": 0}, ensure_ascii=False) + "\n" for item in items)
    file.write_text("".join(lines), encoding="utf-8")
    wanted: dict[int, set[tuple[str, ...]]] = {}
    for tokens in map(words, items):
        wanted.setdefault(size(tokens), set()).update(grams(tokens, size(tokens)))
    generator.shuffle(documents)
    truth, without = [], 0
    for text in documents:
        if without == num_documents:
            break
        truth.append(is_clean(text, wanted))
        without += truth[-1]
    taken = documents[: len(truth)]
    config = DecontaminateConfig(benchmarks={name: str(file)})
    index = contamination.index(config)
    kept = left(taken, index, config)
    hosts = [text for text, clean_ in zip(taken, truth, strict=True) if clean_]
    disguised = list(planted(items, hosts, generator))
    missed = left((text for _, text in disguised), index, config)
    lengths = [len(words(item)) for item in items]
    return {
        "items": len(items),
        "shorter_than_an_n_gram": sum(length == size(words(item)) for length, item in zip(lengths, items, strict=True)),
        "planted": {name: sum(one == name for one, _ in disguised) for name in DISGUISES},
        "missed": {name: sum(disguised[i][0] == name for i in missed) for name in DISGUISES},
        "clean_documents": without,
        "clean_documents_dropped": sum(clean_ and i not in kept for i, clean_ in enumerate(truth)),
        "documents_with_an_item_of_themselves": len(truth) - without,
        "of_these_kept": sum(not clean_ and i in kept for i, clean_ in enumerate(truth)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--debs", type=pathlib.Path, default=pathlib.Path("data/debs"), help="folder of packages (default: data/debs)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: measure(name, *texts, pathlib.Path(folder), ITEMS, DOCUMENTS)
            for name, texts in sources(debian_packages.Cache(args.debs)).items()
        }
    print(json.dumps(found, indent=1, ensure_ascii=False))
    return int(any(sum(one["missed"].values()) + one["clean_documents_dropped"] + one["of_these_kept"] for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
