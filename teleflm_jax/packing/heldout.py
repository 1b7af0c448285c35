"""Choice of held-out documents: whole families by hash, without the documents that training text repeats.

Splitting by document would leak: the same page exists in many versions and languages, which share a source file or a named family.
Related families without a common name (mirrors, untranslated translations) are found by their long lines. Our choice; the report names no
held-out sets.
"""

import collections
import hashlib
from collections.abc import Iterable

from teleflm_jax.documents.statistics import Statistics, total
from teleflm_jax.documents.work_units import WorkUnit, read

KEYS = 2**64
"""Family keys are uniform over [0, KEYS)."""
KEPT_FAMILIES = 100
"""Families above the fraction that a scan remembers per unit, so that a domain with few families has candidates that fit."""
LONG_LINE = 40
"""Minimum characters of a line that identifies a text; shorter lines (braces, headings, menus) repeat everywhere."""


def family_key(family: str, seed: int) -> int:
    """Hash a family to [0, KEYS); families with the lowest keys are held out."""
    digest = hashlib.blake2b(family.encode("utf-8", "replace"), digest_size=8, key=str(seed).encode())
    return int.from_bytes(digest.digest(), "big")


def may_be_held_out(family: str, fraction: float, seed: int) -> bool:
    """Return True if a family may be held out, so that anything trained before packing leaves it out."""
    return family_key(family, seed) < fraction * KEYS


def scan(unit: WorkUnit, *, seed: int, fraction: float) -> dict:
    """Count a unit's documents without tokenizing them.

    Returns:
        `documents`; `bytes` in UTF-8; `malformed` and `malformed_bytes` by reason; `mended`, repaired places by reason;
        `first_malformed`, a path or ""; `families`, key -> bytes, complete below `limit`; and `limit`.
    """
    statistics = Statistics()
    families: collections.Counter = collections.Counter()
    documents = num_bytes = 0
    first_malformed = ""
    floor, limit = int(fraction * KEYS), KEYS
    for file_range in unit.ranges:
        before = total(statistics.dropped).documents
        for document in read(WorkUnit(unit.root, (file_range,)), statistics):
            documents += 1
            size = len(document.text.encode())
            num_bytes += size
            key = family_key(document.family, seed)
            if key < limit:
                families[key] += size
                if len(families) > 2 * KEPT_FAMILIES and limit > floor:
                    families, limit = _lowest(families, floor)
        if total(statistics.dropped).documents > before and not file_range.skipped:
            first_malformed = first_malformed or file_range.path
    if len(families) > KEPT_FAMILIES:
        families, limit = _lowest(families, floor)
    return {
        "documents": documents,
        "bytes": num_bytes,
        "malformed": {reason: one.documents for reason, one in sorted(statistics.dropped.items())},
        "malformed_bytes": {reason: one.bytes for reason, one in sorted(statistics.dropped.items())},
        "mended": {reason: one.documents for reason, one in sorted(statistics.changed.items())},
        "first_malformed": first_malformed,
        "families": {str(key): size for key, size in sorted(families.items())},
        "limit": str(limit),
    }


def choose(scans: Iterable[dict], *, fraction: float, max_bytes: int) -> frozenset[int]:
    """Choose the held-out families: in key order, those below the fraction that fit into `max_bytes`.

    A domain of two or more families holds out at least one that fits (if `fraction` is above 0), and keeps at least one for training.
    """
    scans = list(scans)
    limit = min((int(scan["limit"]) for scan in scans), default=KEYS)
    sizes: collections.Counter = collections.Counter()
    for one in scans:
        sizes.update({int(key): size for key, size in one["families"].items() if int(key) < limit})
    chosen: list[int] = []
    room = max_bytes
    for key in sorted(sizes):
        is_last = limit == KEYS and len(chosen) + 1 == len(sizes)  # with a lower limit there are more families
        if not fraction or is_last or (chosen and key >= fraction * KEYS):
            break
        if sizes[key] <= room:
            chosen.append(key)
            room -= sizes[key]
    return frozenset(chosen)


def collect(unit: WorkUnit, keys: frozenset[int], *, seed: int) -> list[str]:
    """Return the texts of the chosen families in one unit."""
    return [document.text for document in read(unit, Statistics()) if family_key(document.family, seed) in keys]


def identifying_lines(text: str) -> frozenset[str]:
    """Return the lines that identify a text: its long lines, or the whole text if it has none."""
    return frozenset(line for line in map(str.strip, text.splitlines()) if len(line) >= LONG_LINE) or frozenset([text.strip()])


def find_watched_lines(text: str, watched: frozenset[str]) -> frozenset[str]:
    """Return the watched lines that a training text contains; costs one hash per line, little compared with tokenizing."""
    if not watched:
        return watched
    return watched.intersection(map(str.strip, text.splitlines())) | watched.intersection([text.strip()])


def without_near_duplicates(texts: list[str], seen: set[str]) -> list[str]:
    """Keep the held-out texts with at most half of their identifying lines in training text.

    The others are left out of both sets: held out they would be evaluated on trained text, and in training they would bring the rest of
    their family with them.
    """
    return [text for text in texts if 2 * len(identifying_lines(text) & seen) <= len(identifying_lines(text))]


def _lowest(families: collections.Counter, floor: int) -> tuple[collections.Counter, int]:
    limit = max(floor, sorted(families)[KEPT_FAMILIES])
    return collections.Counter({key: size for key, size in families.items() if key < limit}), limit
