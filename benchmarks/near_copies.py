"""Near-duplicates with known truth: passages of real text with planted near-copies, and exact similarities in plain Python.

This module does not use the corpus's hashes: shingles are tuples of tokens, numbered by a dictionary, and prefix filtering (Bayardo et al.,
2007), which misses none, finds all pairs at the threshold. It finds natural duplicates of the passages as well as planted ones.
"""

import collections
import dataclasses
import json
import math
import pathlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

from teleflm_jax.corpus import tokens

PASSAGE_CHARACTERS = {"zh": 700}
OTHER_PASSAGE_CHARACTERS = 1600
MIN_TOKENS = 60
SHINGLE = 5
LANGUAGES = {"chinese": "zh", "classical": "zh", "code": "code"}
"""Domain of the text -> language; all other domains count as one language, so that untranslated pages are compared."""
CHAINED = 0.25
"""Share of the copies that are copies of copies."""


@dataclasses.dataclass(frozen=True)
class Passage:
    """A passage, or a near-copy of one."""

    language: str
    text: str
    of: int = -1
    """Number of the document that it was copied from; -1 for none."""


def passages(folder: pathlib.Path) -> list[Passage]:
    """Cut the text that `examples/debian_text.py` made into passages at line ends."""
    found = []
    for file in sorted(folder.glob("*/*.jsonl")):
        language = LANGUAGES.get(file.parent.name, "en")
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                found += [Passage(language, text) for text in cut(json.loads(line)["text"], language)]
    return found


def cut(text: str, language: str) -> Iterator[str]:
    """Cut a text into passages of bounded length; short rests are left out."""
    limit, held, size = PASSAGE_CHARACTERS.get(language, OTHER_PASSAGE_CHARACTERS), [], 0
    for line in [*text.split("\n"), None]:
        if line is not None:
            held.append(line[:limit])
            size += len(held[-1])
        if line is None or size >= limit:
            passage = "\n".join(held).strip()
            if len(words(passage, language)) >= MIN_TOKENS:
                yield passage
            held, size = [], 0


class _Kinds(dict):
    """Code point -> its replacement in a text whose tokens are separated by spaces."""

    def __init__(self, *, simplified: bool):
        self._forms = tokens.simplified_forms() if simplified else None

    def __missing__(self, point: int) -> str:
        kind, form = tokens.classes()[point], chr(point if self._forms is None else self._forms[point])
        self[point] = " " if kind == tokens.OTHER else f" {form} " if kind == tokens.SINGLE else form
        return self[point]


_PLAIN, _CHINESE = _Kinds(simplified=False), _Kinds(simplified=True)


def words(text: str, language: str) -> list[str]:
    """Cut a text into tokens, as `corpus/tokens.py` explains them."""
    return text.lower().translate(_CHINESE if language == "zh" else _PLAIN).split()


def add_near_copies(originals: Sequence[Passage], count: int, seed: int) -> list[Passage]:
    """Add near-copies with similarities of 0.5 to 1, shuffled, but with each copy after its original."""
    generator = random.Random(seed)
    found = list(originals)
    while len(found) < count:
        copied = len(found) > len(originals) and generator.random() < CHAINED
        of = generator.randrange(len(originals), len(found)) if copied else generator.randrange(len(originals))
        other = originals[generator.randrange(len(originals))]
        edited = edit(found[of], other, generator.uniform(0.5, 1.0), generator)
        if len(words(edited, found[of].language)) >= SHINGLE:
            found.append(Passage(found[of].language, edited, of))
    return found


def edit(document: Passage, other: Passage, similarity: float, generator: random.Random) -> str:
    """Change a text in one of five ways, so that about the requested similarity remains."""
    text, kind = document.text, generator.randrange(5)
    size = len(text)
    if kind == 0:  # changes that do not count
        return text.upper().replace(" ", "  ")
    if kind == 1:  # the end is cut off
        return text[: int(size * similarity)]
    if kind == 2:  # the beginning is cut off
        return text[int(size * (1 - similarity)) :]
    if kind == 3:  # other text precedes it
        return other.text[: int(size * (1 / similarity - 1))] + "\n" + text
    units = list(text) if document.language == "zh" else text.split(" ")
    changed = int(len(units) * (1 - similarity) / (1 + similarity) / SHINGLE)
    for place in generator.sample(range(len(units)), min(changed, len(units))):
        units[place] = generator.choice("甲乙丙丁戊") if document.language == "zh" else f"{units[place]}{generator.choice('abc')}"
    return ("" if document.language == "zh" else " ").join(units)


class Exact:
    """Sets of shingles of all documents; each shingle is the number of a tuple of tokens."""

    def __init__(self, documents: Iterable[Passage]):
        """Number the shingles of each language."""
        self.languages = [document.language for document in documents]
        numbers: dict[str, int] = {}
        self.sets = [
            frozenset(numbers.setdefault(shingle, len(numbers)) for shingle in shingles(document.text, document.language))
            for document in documents
        ]

    def similarity(self, a: int, b: int) -> float:
        """Return the exact Jaccard similarity."""
        common = len(self.sets[a] & self.sets[b])
        return common / (len(self.sets[a]) + len(self.sets[b]) - common)

    def pairs(self, threshold: float) -> dict[tuple[int, int], float]:
        """Return all pairs of a language at or above the threshold: (lower, higher) -> similarity."""
        frequencies = collections.Counter(shingle for one in self.sets for shingle in one)
        index: Mapping[tuple[str, int], list[int]] = collections.defaultdict(list)
        found = {}
        for number in sorted(range(len(self.sets)), key=lambda i: len(self.sets[i])):
            own, language = self.sets[number], self.languages[number]
            least = math.ceil(threshold * len(own) - 1e-9)
            rarest = sorted(own, key=lambda shingle: (frequencies[shingle], shingle))[: len(own) - least + 1]
            met = {other for shingle in rarest for other in index[language, shingle] if len(self.sets[other]) >= least}
            for other in met:
                if (similarity := self.similarity(number, other)) >= threshold:
                    found[min(number, other), max(number, other)] = similarity
            for shingle in rarest:
                index[language, shingle].append(number)
        return found


def shingles(text: str, language: str) -> set[str]:
    """Return a text's shingles, tuples of consecutive tokens; a text with fewer tokens is one shingle."""
    own = words(text, language)
    return {" ".join(own[i : i + SHINGLE]) for i in range(max(1, len(own) - SHINGLE + 1))}


def groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return the components of at least two documents, in order."""
    names = list(range(count))

    def name(i: int) -> int:
        while names[i] != i:
            names[i] = i = names[names[i]]
        return i

    for a, b in pairs:
        first, last = sorted((name(a), name(b)))
        names[last] = first
    members = collections.defaultdict(list)
    for i in range(count):
        members[name(i)].append(i)
    return [group for _, group in sorted(members.items()) if len(group) > 1]
