"""Which documents are kept for evaluation: whole families by hash, less those that training text repeats.

Splitting by document would leak: the same page comes in many versions and languages, which share a source file or a named family.
Families that do not say so (mirrors, translations that were never translated) are found by their long lines. Our choice; the report names
no held-out sets.
"""

import collections
import hashlib
from collections.abc import Iterable

from teleflm_jax.documents.statistics import Tally, total
from teleflm_jax.documents.work_units import Unit, read

KEYS = 2**64
"""Family keys are spread evenly over [0, KEYS)."""
KEPT_FAMILIES = 100
"""Families of a unit that a scan remembers though they are above the fraction, so that a domain of few families finds one that fits."""
LONG_LINE = 40
"""Characters from which a line says whose text it is; shorter ones (braces, headings, menus) repeat everywhere."""


def family_key(family: str, seed: int) -> int:
    """Hash a family to [0, KEYS); the families with the lowest keys are held out."""
    digest = hashlib.blake2b(family.encode("utf-8", "replace"), digest_size=8, key=str(seed).encode())
    return int.from_bytes(digest.digest(), "big")


def is_apart(family: str, fraction: float, seed: int) -> bool:
    """Say whether a family may be held out: what is trained before packing has chosen leaves it alone."""
    return family_key(family, seed) < fraction * KEYS


def scan(unit: Unit, *, seed: int, fraction: float) -> dict:
    """Count a unit's documents without tokenizing them.

    Returns:
        documents, bytes (UTF-8), malformed and malformed_bytes (by reason), mended (places by reason), first_malformed (path or ""),
        families (key -> bytes, complete below `limit`), limit.
    """
    tally = Tally()
    families: collections.Counter = collections.Counter()
    documents = num_bytes = 0
    first_malformed = ""
    floor, limit = int(fraction * KEYS), KEYS
    for piece in unit.pieces:
        before = total(tally.dropped).documents
        for document in read(Unit(unit.root, (piece,)), tally):
            documents += 1
            size = len(document.text.encode())
            num_bytes += size
            key = family_key(document.family, seed)
            if key < limit:
                families[key] += size
                if len(families) > 2 * KEPT_FAMILIES and limit > floor:
                    families, limit = _lowest(families, floor)
        if total(tally.dropped).documents > before and not piece.skipped:
            first_malformed = first_malformed or piece.path
    if len(families) > KEPT_FAMILIES:
        families, limit = _lowest(families, floor)
    return {
        "documents": documents,
        "bytes": num_bytes,
        "malformed": {reason: one.documents for reason, one in sorted(tally.dropped.items())},
        "malformed_bytes": {reason: one.bytes for reason, one in sorted(tally.dropped.items())},
        "mended": {reason: one.documents for reason, one in sorted(tally.changed.items())},
        "first_malformed": first_malformed,
        "families": {str(key): size for key, size in sorted(families.items())},
        "limit": str(limit),
    }


def choose(scans: Iterable[dict], *, fraction: float, max_bytes: int) -> frozenset[int]:
    """Choose the families to hold out: in the order of their keys, those below the fraction that fit into `max_bytes`.

    A domain of two families or more holds out at least one that fits (if `fraction` is above 0) and always leaves one for training.
    """
    scans = list(scans)
    limit = min((int(scan["limit"]) for scan in scans), default=KEYS)
    sizes: collections.Counter = collections.Counter()
    for one in scans:
        sizes.update({int(key): size for key, size in one["families"].items() if int(key) < limit})
    chosen: list[int] = []
    room = max_bytes
    for key in sorted(sizes):
        is_last = limit == KEYS and len(chosen) + 1 == len(sizes)  # above a lower limit there are more
        if not fraction or is_last or (chosen and key >= fraction * KEYS):
            break
        if sizes[key] <= room:
            chosen.append(key)
            room -= sizes[key]
    return frozenset(chosen)


def collect(unit: Unit, keys: frozenset[int], *, seed: int) -> list[str]:
    """Read the texts of the chosen families in one unit."""
    return [document.text for document in read(unit, Tally()) if family_key(document.family, seed) in keys]


def marks(text: str) -> frozenset[str]:
    """Say by what a text is recognised: its long lines, or all of it if it has none."""
    return frozenset(line for line in map(str.strip, text.splitlines()) if len(line) >= LONG_LINE) or frozenset([text.strip()])


def recognise(text: str, watched: frozenset[str]) -> frozenset[str]:
    """Find which watched marks a training text has; one hash of every line, so it costs little beside tokenizing."""
    if not watched:
        return watched
    return watched.intersection(map(str.strip, text.splitlines())) | watched.intersection([text.strip()])


def without_near_duplicates(texts: list[str], seen: set[str]) -> list[str]:
    """Keep the held-out texts of whose marks training has seen at most half.

    The others go nowhere: held out they would be measured on what was trained on, and in training they would bring the rest of their
    family with them.
    """
    return [text for text in texts if 2 * len(marks(text) & seen) <= len(marks(text))]


def _lowest(families: collections.Counter, floor: int) -> tuple[collections.Counter, int]:
    limit = max(floor, sorted(families)[KEPT_FAMILIES])
    return collections.Counter({key: size for key, size in families.items() if key < limit}), limit
