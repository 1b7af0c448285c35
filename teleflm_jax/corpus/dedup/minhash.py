"""MinHash signatures of a batch of texts, and the buckets that near-duplicates share. Source: Broder, 1997; report, section 2.

For each of `bands * rows` random functions, the minimum over a text's shingles is kept; two texts share such a value with a probability
equal to their Jaccard similarity. Texts that share all values of a band are candidates: with 20 bands of 6 rows, 99.8 % of the pairs at 0.8
and 27 % of those at 0.5, which exact similarity then accepts or rejects.
"""

import numpy as np

from teleflm_jax.corpus import tokens

CHUNK = 1 << 13
"""Shingles per batch of work, so that they and their products stay in a core's cache."""
_BAND_FACTOR = np.uint64(0xA24BAED4963EE407)


def buckets(found: tokens.Tokens, *, shingle_tokens: int, bands: int, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the bucket of each text of a batch in every band.

    Args:
        found: Tokens of the batch.
        shingle_tokens: Consecutive tokens per shingle.
        bands: Bands of a signature.
        rows: Values per band.
        seed: Seed of the hash functions.

    Returns:
        int64 [texts, bands]: hash of each band and its number, 0 for texts without tokens; bool [texts]: True for texts with tokens.
    """
    shingles, sizes = _shingles(found, shingle_tokens)
    filled = sizes > 0
    signatures = np.empty((bands * rows, int(filled.sum())), np.uint64)
    factors, terms = _functions(bands * rows, seed)
    ends = np.cumsum(sizes[filled])
    at = first = 0
    while first < len(ends):
        last = max(first + 1, int(np.searchsorted(ends, at + CHUNK, side="right")))
        _minima(shingles[at : ends[last - 1]], ends[first:last] - sizes[filled][first:last] - at, factors, terms, signatures[:, first:last])
        at, first = int(ends[last - 1]), last
    found_buckets = np.zeros((len(sizes), bands), np.int64)
    for band in range(bands):
        value = np.full(signatures.shape[1], band, np.uint64)
        for row in signatures[band * rows : (band + 1) * rows]:
            value = tokens.mix(value * _BAND_FACTOR + row)
        found_buckets[filled, band] = value.view(np.int64)
    return found_buckets, filled


def _shingles(found: tokens.Tokens, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the concatenated shingles of all texts with repetitions, 32 bits each in uint64, and their number for each text."""
    lengths = np.diff(found.offsets)
    sizes = np.maximum(lengths - n + 1, 0)
    starts = np.repeat(found.offsets[:-1], sizes) + np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    grams = tokens.grams(found.hashes, n)[starts] if len(starts) else np.empty(0, np.uint64)
    short = np.flatnonzero((lengths > 0) & (lengths < n))
    wholes = [tokens.grams(found.hashes[found.of(int(i))], int(lengths[i]))[0] for i in short]
    grams = np.insert(grams, (np.cumsum(sizes) - sizes)[short], wholes)
    sizes[short] = 1
    return grams >> np.uint64(32), sizes


def _functions(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random odd factors and terms of x -> (factor * x + term) / 2^32 modulo 2^32 (Dietzfelbinger's multiply-shift)."""
    generator = np.random.Generator(np.random.Philox(seed))
    factors, terms = generator.integers(0, 2**64, (2, count), np.uint64, endpoint=False)
    return factors | np.uint64(1), terms


def _minima(values: np.ndarray, starts: np.ndarray, factors: np.ndarray, terms: np.ndarray, out: np.ndarray) -> None:
    buffer = np.empty_like(values)
    for k in range(len(factors)):
        np.multiply(values, factors[k], out=buffer)
        buffer += terms[k]
        out[k] = np.minimum.reduceat(buffer, starts) >> np.uint64(32)
