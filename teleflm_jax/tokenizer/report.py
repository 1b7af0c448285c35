"""Tokens per UTF-8 byte by domain, in the form of the report's table 3, for any text and any tokenizers."""

import base64
import binascii
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

import tiktoken
from tokenizers import Tokenizer

from teleflm_jax import foreign
from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import panics, words

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_ENDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_CL100K = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _ENDS
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|"
    rf"\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_ENDS}"
)
PATTERNS = {
    50_256: ("GPT-2", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
    100_256: ("cl100k", _CL100K),
    128_000: ("Llama 3", _CL100K),
    151_643: ("Qwen", _CL100K.replace(r"\p{N}{1,3}", r"\p{N}")),
    199_998: ("o200k", _O200K),
}
"""Number of ranks in a file -> name of its tokenizer, and its word pattern, which rank files lack; other sizes use the pattern of cl100k.
Source: tiktoken, and the tokenizers that were released with Llama 3 and Qwen."""
_RANK = re.compile(rb"[A-Za-z0-9+/]+=* \d+\s")
"""First line of a rank file."""

DOMAINS = ("english", "chinese", "classical", "code", "multilingual", "math")
PUBLISHED = {
    "GPT-4": (0.221, 0.420, 0.478, 0.267, 0.303, 0.508, 0.291),
    "Llama 1/2": (0.262, 0.515, 0.558, 0.367, 0.314, 0.974, 0.356),
    "Llama 3": (0.220, 0.294, 0.353, 0.267, 0.274, 0.508, 0.251),
    "Tele-FLM": (0.248, 0.235, 0.307, 0.363, 0.340, 0.965, 0.261),
}
"""Tokenizer -> ratio in each of DOMAINS, then the weighted average. Source: report, table 3, on unpublished texts."""

BATCH_BYTES = 4_000_000
"""UTF-8 bytes of text in memory at a time."""

CountTokens = Callable[[list[str]], int]
"""Function that returns the number of tokens of texts."""


def counter(tokenizer: Tokenizer) -> CountTokens:
    """Return a function that counts the tokens of texts, without `<s>` and `</s>`."""
    return lambda texts: sum(len(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False))


def other(path: str | os.PathLike) -> tuple[str, CountTokens]:
    """Open a tokenizer of any kind and return its name and its counting function.

    Args:
        path: A `tokenizer.json`, a rank file of tiktoken (`*.tiktoken`, and Llama 3's `tokenizer.model`), or a SentencePiece model
            (`*.model`); the content of a `.model` decides which of the two it is.

    Raises:
        UserError: The file is none of these.
    """
    path = pathlib.Path(path)
    openers = {".json": _open_json, ".tiktoken": _open_tiktoken, ".model": _open_model}
    allowed = f"allowed: {', '.join('*' + suffix for suffix in openers)}; change --beside"
    if path.suffix not in openers or not path.is_file():
        raise UserError(f"got the tokenizer {path}{'' if path.exists() else ', which does not exist'}; {allowed}")
    try:
        return openers[path.suffix](path)
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(
            f"got {path}, which cannot be read as a tokenizer ({error}); allowed: {', '.join(openers)}; change --beside"
        ) from error


def _open_json(path: pathlib.Path) -> tuple[str, CountTokens]:
    content = foreign.read(path, foreign.LARGEST_JSON).decode()
    with panics.as_errors():  # for a comparison any kind of tokenizer will do, also one that models here cannot use
        tokenizer = Tokenizer.from_str(content)
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return str(path), counter(tokenizer)


def _open_model(path: pathlib.Path) -> tuple[str, CountTokens]:
    with path.open("rb") as file:
        begins = file.readline(1 << 10)
    return _open_tiktoken(path) if _RANK.fullmatch(begins) else _open_sentencepiece(path)


def _open_tiktoken(path: pathlib.Path) -> tuple[str, CountTokens]:
    try:
        rows = [line.split() for line in foreign.read(path, foreign.LARGEST_JSON).splitlines() if line]
        ranks = {base64.b64decode(token): int(rank) for token, rank in rows}
    except binascii.Error as error:
        raise ValueError(error) from error
    if not {bytes([byte]) for byte in range(256)} <= ranks.keys():
        raise ValueError("not every byte has a rank")  # the library would panic on the first text with such a byte
    name, pattern = PATTERNS.get(len(ranks), PATTERNS[100_256])
    encoding = tiktoken.Encoding(path.stem, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

    def count(texts: list[str]) -> int:
        # the library's regular expressions run out of memory when they backtrack over a million blanks; segments end where no pattern
        # matches across, except in a run of LONGEST characters without such a place, which may yield one more token
        parts = [part for text in texts for part in words.segments(text)]
        return sum(map(len, encoding.encode_ordinary_batch(parts)))

    return f"{path} ({name} pattern)", count


def _open_sentencepiece(path: pathlib.Path) -> tuple[str, CountTokens]:
    import sentencepiece  # importing it raises SWIG's deprecation warnings, so it is imported only if needed

    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return str(path), lambda texts: sum(map(len, model.encode(texts)))


def ratios(texts: Mapping[str, Iterable[str]], counters: Mapping[str, CountTokens]) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """Measure the tokens per byte of tokenizers on domains.

    Args:
        texts: Domain -> its documents, read once.
        counters: Tokenizer -> its counting function.

    Returns:
        Tokenizer -> domain -> tokens per UTF-8 byte, and domain -> UTF-8 bytes.

    Raises:
        UserError: A domain has no text.
    """
    tokens = {name: dict.fromkeys(texts, 0) for name in counters}
    num_bytes = dict.fromkeys(texts, 0)
    for domain, documents in texts.items():
        for batch, size in _batches(documents):
            num_bytes[domain] += size
            for name, count in counters.items():
                tokens[name][domain] += count(batch)
    empty = [domain for domain, size in num_bytes.items() if not size]
    if empty:
        raise UserError(f"got no text for {', '.join(empty)}; allowed: a file with text; change --text")
    return {name: {domain: found[domain] / num_bytes[domain] for domain in texts} for name, found in tokens.items()}, num_bytes


def _batches(documents: Iterable[str]) -> Iterator[tuple[list[str], int]]:
    batch: list[str] = []
    size = 0
    for text in documents:
        batch.append(text)
        size += len(text.encode())
        if size >= BATCH_BYTES:
            yield batch, size
            batch, size = [], 0
    if batch:
        yield batch, size


def weights(domains: Iterable[str], proportions: Mapping[str, float]) -> tuple[dict[str, float], str]:
    """Return the weight of each domain in the average, with a sum of 1, and the source of the weights.

    The weights are the run's proportions if they have every domain, and equal otherwise.
    """
    domains = list(domains)
    if all(domain in proportions for domain in domains):
        total = sum(proportions[domain] for domain in domains)
        return {domain: proportions[domain] / total for domain in domains}, "data.proportions"
    return dict.fromkeys(domains, 1 / len(domains)), "equal weights"


def weighted(ratio: Mapping[str, float], weight: Mapping[str, float]) -> float:
    """Return the weighted arithmetic mean of per-domain ratios, as in table 3."""
    return sum(ratio[domain] * weight[domain] for domain in weight)
