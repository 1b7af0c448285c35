"""Trains the byte-level BPE on a sample of the domains' text; needs no more memory than the sample's distinct words.

Source: report, section 3.2: byte-level BPE, 80,000 pieces, 12 M samples. That digits stand alone follows from its table 3 (a token
a byte on arithmetic); the rest of `patterns.TELEFLM` is our choice.
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
"""A rarer pair is not merged."""
Texts = Callable[[], Iterable[str]]
"""Opens a domain's documents; the same ones in the same order at every call."""


@dataclasses.dataclass(frozen=True)
class Draw:
    """Which documents of a domain are in the sample: those whose hash is below `limit`."""

    domain: str
    seed: int
    limit: int
    documents: int
    """In the sample."""
    num_bytes: int
    """In the sample, UTF-8."""
    documents_there: int
    documents_asked: int
    not_unicode: int
    """Documents passed over because a lone surrogate stands in them."""
    digest: str
    """Of all the domain's text."""

    @property
    def everything(self) -> bool:
        """Whether the domain had no more to give."""
        return self.documents + self.not_unicode == self.documents_there

    def __contains__(self, number: int) -> bool:
        return _hash(self.seed, self.domain, number) < self.limit


_NO_LIMIT = 1 << 64


def draw(texts: Mapping[str, Texts], proportions: Mapping[str, float], config: TokenizerConfig) -> list[Draw]:
    """Choose the sample: `sample_documents` and at most `sample_bytes`, both shared out by the domains' proportions.

    Reads all text once and holds none of it: each document gets a hash from its number, and the smallest hashes win.
    """
    total = sum(proportions[domain] for domain in texts)
    shares = {domain: proportions[domain] / total for domain in texts}
    return [
        _draw(domain, opened(), max(1, round(config.sample_documents * shares[domain])), config.sample_bytes * shares[domain], config.seed)
        for domain, opened in texts.items()
    ]


def _draw(domain: str, texts: Iterable[str], max_documents: int, max_bytes: float, seed: int) -> Draw:
    chosen: list[tuple[int, int]] = []  # a heap of (-hash, bytes), the largest hash on top
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
        # A single document may be longer than the bound: a domain is never left without any.
        while len(chosen) > max_documents or (total > max_bytes and len(chosen) > 1):
            dropped, size = heapq.heappop(chosen)
            limit, total = -dropped, total - size
    return Draw(domain, seed, limit, len(chosen), total, count, max_documents, not_unicode, digest.hexdigest())


def drawn(texts: Mapping[str, Texts], draws: Iterable[Draw]) -> Iterator[str]:
    """The sample's texts, one after the other."""
    for chosen in draws:
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
    """Train on texts; return the content of a `tokenizer.json` that `tokenizers` and transformers load.

    It is what `tokenizers` learns from the texts, byte for byte. Its own trainer is not used because it looks through a whole word at each
    merge in it, so that a megabyte without a place to cut takes hours; the trainer from counts takes seconds.

    Args:
        texts: read once; only the distinct words are held.
        vocab_size: ids.
        pattern: cuts texts into words.
        progress: called with pieces made and pieces wanted.

    Raises:
        UserError: The texts yield fewer pieces than asked for, or their words are too many for memory.
    """
    return train_counted(words.gather(words.count(texts, pattern=pattern)), vocab_size, pattern=pattern, progress=progress)


def train_counted(
    found: pa.Table,
    vocab_size: int,
    *,
    pattern: str = patterns.TELEFLM,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Train on the words of texts, as `train` does on the texts.

    Args:
        found: `words.COUNTS`, each word once, in any order.
        vocab_size: ids.
        pattern: with which the words were cut.
        progress: called with pieces made and pieces wanted.

    Raises:
        UserError: The words yield fewer pieces than asked for, or are too many for memory.
    """
    wanted = _num_pieces(vocab_size)
    column = found["word"].cast(pa.large_binary()).combine_chunks()
    counts = found["count"].to_numpy()
    pieces, pairs = merges.learn(column, counts, wanted, min_count=MIN_PAIR_COUNT, progress=lambda done: progress(done, wanted))
    names = ["".join(layout.byte_character(byte) for byte in piece) for piece in pieces]
    trained = json.loads(_blank(pattern).to_str())
    trained["model"]["vocab"] = {name: index for index, name in enumerate(names)}
    trained["model"]["merges"] = [[names[left], names[right]] for left, right in pairs]
    return _laid_out(trained, vocab_size)


def _blank(pattern: str) -> tokenizers.Tokenizer:
    """What cuts text into words and words into bytes, without a piece."""
    blank = tokenizers.Tokenizer(models.BPE())
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    blank.pre_tokenizer = pre_tokenizers.Sequence([words.splitter(pattern), bytewise])
    blank.decoder = decoders.ByteLevel()
    return blank


def _num_pieces(vocab_size: int) -> int:
    """Of a tokenizer, the bytes among them."""
    return len(layout.alphabet()) + vocab_size - layout.FIRST_PIECE


def _laid_out(trained: dict, vocab_size: int) -> str:
    """The trained tokenizer with our ids: its pieces in the order they were found, after the fixed ids."""
    found = trained["model"]["vocab"]
    fixed = layout.alphabet() | layout.controls()
    pieces = [piece for piece in sorted(found, key=found.__getitem__) if piece not in layout.alphabet()]
    if layout.FIRST_PIECE + len(pieces) < vocab_size:
        raise UserError(
            f"got text that yields {layout.FIRST_PIECE + len(pieces):,} ids; allowed: at least tokenizer.vocab_size={vocab_size:,}; "
            "lower tokenizer.vocab_size, or give more text: data.sources, tokenizer.sample_documents, tokenizer.sample_bytes"
        )
    # no pattern has a letter and then a bracket in one word, as every control's name does.
    assert not layout.controls().keys() & set(pieces)
    vocabulary = fixed | {piece: layout.FIRST_PIECE + rank for rank, piece in enumerate(pieces)}
    trained["model"]["vocab"] = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    trained["added_tokens"] = [
        {"id": index, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for name, index in layout.controls().items()
    ]
    return json.dumps(trained, ensure_ascii=False, separators=(",", ":"))
