"""Conversion of a tokenizer.json to the vocabulary of a GGUF file, where llama.cpp produces the same ids.

llama.cpp has a fixed set of word patterns; a file names one of them. A tokenizer.json that asks for anything that llama.cpp would ignore
is refused.

Source: llama.cpp's `src/llama-vocab.cpp` and `src/unicode.cpp`.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import patterns

NORMAL, CONTROL, UNUSED = 1, 3, 5
"""Token types of the format; text never yields a control token unless the caller asks for it."""
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def _split(pattern: str) -> dict[str, Any]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return _sequence(cut, _GPT2 | {"use_regex": False})


def _sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """A pre-tokenizer of llama.cpp."""

    name: str
    """Value of `tokenizer.ggml.pre`."""
    cut: Mapping[str, Any]
    """The equal pre-tokenizer of tokenizer.json."""
    whole_words: bool = False
    """True if a word that is a piece is not merged (`ignore_merges`)."""
    long_s: bool = False
    """True if the pattern treats 'ſ as a contraction; llama.cpp does not."""


KNOWN = (
    Known(name="qwen2", cut=_split(patterns.QWEN2)),
    Known(name="qwen2", cut=_split(_LLAMA3.replace("{1,3}", "")), long_s=True),
    Known(name="llama-bpe", cut=_split(_LLAMA3), whole_words=True, long_s=True),
    Known(name="gpt-2", cut=_GPT2),
    Known(name="smollm", cut=_sequence({"type": "Digits", "individual_digits": True}, _GPT2)),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GGUFVocabulary:
    """Tokenizer of a GGUF file."""

    pre: str
    """Name of the pre-tokenizer."""
    tokens: tuple[str, ...]
    """A token for every row of the embedding."""
    types: tuple[int, ...]
    merges: tuple[str, ...]
    notes: tuple[str, ...]
    """Texts for which llama.cpp's ids differ, one per line."""


def read(content: Mapping[str, Any], size: int) -> GGUFVocabulary:
    """Convert a tokenizer for llama.cpp.

    Args:
        content: of the tokenizer.json.
        size: rows of the embedding.

    Raises:
        UserError: llama.cpp would produce other ids.
    """
    if content.get("model", {}).get("type") != "BPE" or content["model"].get("byte_fallback"):
        raise _refused("has no byte-level BPE")
    model, cut = content["model"], _without_offsets(content.get("pre_tokenizer"))
    matching = [known for known in KNOWN if known.cut == cut]
    if not matching:
        raise _refused("cuts text into words by a pattern that llama.cpp does not have")
    [known] = matching
    if bool(model.get("ignore_merges")) != known.whole_words:
        raise _refused(f"has ignore_merges={bool(model.get('ignore_merges'))}, where llama.cpp's {known.name} does the opposite")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise _refused(f"has {key}={model[key]!r}")
    tokens, types = [f"[PAD{index}]" for index in range(size)], [UNUSED] * size
    for name, index in model["vocab"].items():
        tokens[index], types[index] = name, NORMAL
    for token in content.get("added_tokens", ()):
        if not token["special"]:
            raise _refused(f"takes {token['content']!r} out of any text before cutting it into words")
        tokens[token["id"]], types[token["id"]] = token["content"], CONTROL
    merges = tuple(pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    notes = tuple(_notes(content.get("normalizer"), known))
    return GGUFVocabulary(pre=known.name, tokens=tuple(tokens), types=tuple(types), merges=merges, notes=notes)


def _without_offsets(part: Any) -> Any:
    """Return a pre-tokenizer without the fields that change no id."""
    if isinstance(part, Mapping):
        return {name: _without_offsets(value) for name, value in part.items() if name != "trim_offsets"}
    return [_without_offsets(each) for each in part] if isinstance(part, Sequence) and not isinstance(part, str) else part


def _notes(normalizer: Any, known: Known) -> Iterator[str]:
    yield "llama.cpp knows Unicode 15: in the scripts and digits that came later, ids may differ from this tokenizer's"
    if normalizer == {"type": "NFC"}:
        yield "llama.cpp does not compose characters: in text that is not in the form NFC, ids differ from this tokenizer's"
    elif normalizer is not None:
        raise _refused("changes text before cutting it into words")
    if known.long_s:
        yield "llama.cpp takes 'ſ (an apostrophe and the long s) for no contraction: around it, ids may differ from this tokenizer's"


def _refused(reason: str) -> UserError:
    return UserError(
        f"got --format gguf for a tokenizer that {reason}, so that llama.cpp would give other ids; allowed: one trained with "
        "tokenizer.pattern = 'qwen2', or an imported one that cuts text like those of Qwen2, Llama 3, GPT-2 or SmolLM; change --format to "
        "llama, or train with such a tokenizer"
    )
