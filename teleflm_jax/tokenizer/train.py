"""Training of the byte-level BPE on a sample of the domains' text, in memory proportional to the sample's distinct words.

Source: report, section 3.2: byte-level BPE, 80,000 pieces, 12 M samples. Single-digit tokens follow from its table 3 (one token per byte
on arithmetic); the rest of `patterns.TELEFLM` is our choice.
"""

import dataclasses
import hashlib
import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Mapping

import pyarrow as pa
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import layout, merges, patterns, words
from teleflm_jax.tokenizer.config import TokenizerConfig

MIN_PAIR_COUNT = 2
"""Minimum count of a pair that is merged."""
Texts = Callable[[], Iterable[str]]
"""Function that opens a domain's documents; every call yields the same documents in the same order."""


@dataclasses.dataclass(frozen=True)
class DomainSample:
    """The documents of a domain that are in the sample: those whose hash is below `limit`."""

    domain: str
    seed: int
    limit: int
    documents: int
    """Documents in the sample."""
    num_bytes: int
    """UTF-8 bytes in the sample."""
    documents_there: int
    """Documents of the domain."""
    documents_asked: int
    """Documents that the domain's share of the sample asks for."""
    not_unicode: int
    """Documents left out because they contain a lone surrogate."""
    digest: str
    """Hash of all text of the domain."""

    @property
    def everything(self) -> bool:
        """True if the sample holds all documents of the domain."""
        return self.documents + self.not_unicode == self.documents_there

    def __contains__(self, number: int) -> bool:
        return _hash(self.seed, self.domain, number) < self.limit


_NO_LIMIT = 1 << 64


def draw(texts: Mapping[str, Texts], proportions: Mapping[str, float], config: TokenizerConfig) -> list[DomainSample]:
    """Draw the sample: `sample_documents` and at most `sample_bytes`, both divided by the domains' proportions.

    Reads all text once and keeps none of it: each document gets a hash from its number, and the smallest hashes are drawn.
    """
    total = sum(proportions[domain] for domain in texts)
    shares = {domain: proportions[domain] / total for domain in texts}
    return [
        _draw(domain, opened(), max(1, round(config.sample_documents * shares[domain])), config.sample_bytes * shares[domain], config.seed)
        for domain, opened in texts.items()
    ]


def _draw(domain: str, texts: Iterable[str], max_documents: int, max_bytes: float, seed: int) -> DomainSample:
    chosen: list[tuple[int, int]] = []  # heap of (-hash, bytes) with the largest hash on top
    limit, total, count, not_unicode = _NO_LIMIT, 0, 0, 0
    digest = hashlib.blake2b(digest_size=16)
    for count, text in enumerate(texts, start=1):
        if (encoded := _utf8(text)) is None:
            not_unicode += 1
            continue
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
        if (key := _hash(seed, domain, count - 1)) >= limit:
            continue
        heapq.heappush(chosen, (-key, len(encoded)))
        total += len(encoded)
        # a domain keeps at least one document, even if it is longer than the limit
        while len(chosen) > max_documents or (total > max_bytes and len(chosen) > 1):
            dropped, size = heapq.heappop(chosen)
            limit, total = -dropped, total - size
    return DomainSample(domain, seed, limit, len(chosen), total, count, max_documents, not_unicode, digest.hexdigest())


def drawn(texts: Mapping[str, Texts], samples: Iterable[DomainSample]) -> Iterator[str]:
    """Yield the texts of the samples, one domain after the other."""
    for chosen in samples:
        for number, text in enumerate(texts[chosen.domain]()):
            if number in chosen and _utf8(text) is not None:
                yield text


def _hash(seed: int, domain: str, number: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {domain} {number}".encode(), digest_size=8).digest(), "little")


def _utf8(text: str) -> bytes | None:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None


def train(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: str = patterns.TELEFLM,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Train on texts and return the content of a `tokenizer.json` that `tokenizers` and transformers load.

    The result equals that of the `tokenizers` trainer byte for byte. That trainer is not used because it scans a whole word at each merge
    in it, so that a megabyte without a word boundary takes hours; training from counts takes seconds.

    Args:
        texts: The texts, read once; only the distinct words are kept.
        vocab_size: Number of ids.
        pattern: Regular expression that splits texts into words.
        progress: Called with the number of pieces and the number wanted.

    Raises:
        UserError: The texts yield too few pieces, or their words exceed the memory.
    """
    return train_counted(words.gather(words.count(texts, pattern=pattern)), vocab_size, pattern=pattern, progress=progress)


def train_counted(
    found: pa.Table,
    vocab_size: int,
    *,
    pattern: str = patterns.TELEFLM,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Train on word counts; otherwise like `train`.

    Args:
        found: A table of `words.COUNTS`, each word once, in any order.
        vocab_size: Number of ids.
        pattern: Regular expression that the words were split with.
        progress: Called with the number of pieces and the number wanted.

    Raises:
        UserError: The words yield too few pieces, or exceed the memory.
    """
    wanted = _num_pieces(vocab_size)
    column = found["word"].cast(pa.large_binary()).combine_chunks()
    counts = found["count"].to_numpy()
    pieces, pairs = merges.learn(column, counts, wanted, min_count=MIN_PAIR_COUNT, progress=lambda done: progress(done, wanted))
    names = ["".join(layout.byte_character(byte) for byte in piece) for piece in pieces]
    trained = json.loads(_untrained(pattern).to_str())
    trained["model"]["vocab"] = {name: index for index, name in enumerate(names)}
    trained["model"]["merges"] = [[names[left], names[right]] for left, right in pairs]
    return _with_layout(trained, vocab_size)


def _untrained(pattern: str) -> tokenizers.Tokenizer:
    """Return a tokenizer that splits text into words and words into bytes, with an empty vocabulary."""
    blank = tokenizers.Tokenizer(models.BPE())
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    blank.pre_tokenizer = pre_tokenizers.Sequence([words.splitter(pattern), bytewise])
    blank.decoder = decoders.ByteLevel()
    return blank


def _num_pieces(vocab_size: int) -> int:
    """Return the number of pieces of a tokenizer, including the 256 bytes."""
    return len(layout.alphabet()) + vocab_size - layout.FIRST_PIECE


def _with_layout(trained: dict, vocab_size: int) -> str:
    """Return the tokenizer.json with the fixed ids of `layout`, followed by the pieces in the order of training."""
    found = trained["model"]["vocab"]
    fixed = layout.alphabet() | layout.controls()
    pieces = [piece for piece in sorted(found, key=found.__getitem__) if piece not in layout.alphabet()]
    if layout.FIRST_PIECE + len(pieces) < vocab_size:
        raise UserError(
            f"got text that yields {layout.FIRST_PIECE + len(pieces):,} ids; allowed: at least tokenizer.vocab_size={vocab_size:,}; "
            "lower tokenizer.vocab_size, or provide more text: data.sources, tokenizer.sample_documents, tokenizer.sample_bytes"
        )
    # no pattern puts a letter and a following bracket into one word, and every control name has both
    assert not layout.controls().keys() & set(pieces)
    vocabulary = fixed | {piece: layout.FIRST_PIECE + rank for rank, piece in enumerate(pieces)}
    trained["model"]["vocab"] = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    trained["added_tokens"] = [
        {"id": index, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for name, index in layout.controls().items()
    ]
    return json.dumps(trained, ensure_ascii=False, separators=(",", ":"))
