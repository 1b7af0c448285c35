"""Check of a tokenizer.json: its components must be known, and their time and memory must be linear in the text.

The library accepts any file that fits its types. Some files make it panic, some take gigabytes, and some patterns take minutes for a short
text. Source: the components and their fields are those of the tokenizers library 0.23.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from teleflm_jax.tokenizer import expressions

MOST_IDS = 1 << 21
"""Maximum number of ids; the largest vocabularies of models have a million."""
MOST_ADDED = 1 << 15
"""Maximum number of added tokens; models have up to a few thousand."""
LONGEST_PIECE = 1_024
"""Maximum characters of a piece."""
MOST_COMPONENTS = 64
"""Maximum number of components, including those in sequences."""
MOST_ENTRIES = 64
"""Maximum number of entries of a template, and of ids of one of its special tokens."""
MOST_GROWTH = 64
"""Maximum factor by which all replacements together may lengthen a text in UTF-8; the library needs about 17 bytes per output byte."""
LONGEST_MAPPED = 256
"""Maximum bytes that a character map may write for one character."""
SEQUENCES = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors", "decoder": "decoders"}
"""Part of a tokenizer.json -> field of its `Sequence` component."""
KNOWN = {
    "normalizer": "BertNormalizer ByteLevel Lowercase NFC NFD NFKC NFKD Nmt Precompiled Prepend Replace Strip StripAccents",
    "pre_tokenizer": "BertPreTokenizer ByteLevel CharDelimiterSplit Digits FixedLength Metaspace Punctuation Split UnicodeScripts "
    "Whitespace WhitespaceSplit",
    "post_processor": "BertProcessing ByteLevel RobertaProcessing TemplateProcessing",
    "decoder": "BPEDecoder ByteFallback ByteLevel CTC Fuse Metaspace Replace Strip WordPiece",
}


def refuse(content: Any) -> None:
    """Raise a ValueError if a tokenizer.json has something that is not allowed; the message names it."""
    if not isinstance(content, dict):
        raise ValueError("it is not an object")
    _refuse_model(content.get("model"))
    _refuse_added(content.get("added_tokens"))
    found = [(part, each) for part in SEQUENCES for each in _components(part, content.get(part), 1)]
    if len(found) > MOST_COMPONENTS:
        raise ValueError(f"{len(found):,} components; at most {MOST_COMPONENTS}")
    for part in SEQUENCES:
        growth = 1.0
        for of, component in found:
            if of == part:
                _refuse_component(component)
                growth *= _growth(component)
        if growth > MOST_GROWTH:
            raise ValueError(f"a {part} that makes a text up to {min(growth, 1e9):,.0f} times as long; at most {MOST_GROWTH} times")


def _refuse_model(model: Any) -> None:
    kind = model.get("type", "BPE") if isinstance(model, dict) else None  # older files of BPE have no type
    if kind not in ("BPE", "Unigram"):
        raise ValueError("its model is neither BPE nor Unigram")
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict if kind == "BPE" else list):
        raise ValueError("its vocabulary does not fit its model")
    if isinstance(vocabulary, dict):
        pieces, ids = list(vocabulary), list(vocabulary.values())
        if not all(_is_id(index) for index in ids) or len(set(ids)) < len(ids):
            raise ValueError(f"its pieces do not have unique ids below {MOST_IDS:,}")
        for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(key):
                raise ValueError(f"its model has a {key}")
    else:
        if not all(isinstance(row, list) and len(row) == 2 and type(row[1]) in (int, float) for row in vocabulary):
            raise ValueError("its vocabulary has rows other than a piece and a number")
        pieces = [piece for piece, _ in vocabulary]
        if model.get("unk_id") is not None and not (_is_id(model["unk_id"]) and model["unk_id"] < len(pieces)):
            raise ValueError("its unk_id is not in its vocabulary")
    if len(pieces) > MOST_IDS or not all(isinstance(piece, str) and len(piece) <= LONGEST_PIECE for piece in pieces):
        raise ValueError(f"it has more than {MOST_IDS:,} pieces, or one that is not a text of at most {LONGEST_PIECE:,} characters")


def _refuse_added(added: Any) -> None:
    tokens = _list([] if added is None else added, "added_tokens")
    if len(tokens) > MOST_ADDED:
        raise ValueError(f"{len(tokens):,} added tokens; at most {MOST_ADDED:,}")
    for token in tokens:
        text = token.get("content") if isinstance(token, dict) else None
        if not (isinstance(text, str) and 0 < len(text) <= LONGEST_PIECE and _is_id(token.get("id"))):
            raise ValueError(
                f"an added token without a content of at most {LONGEST_PIECE:,} characters, or without an id below {MOST_IDS:,}"
            )


def _components(part: str, component: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    """Yield a component, or the components of a sequence."""
    if component is None:
        return
    kind = component.get("type") if isinstance(component, dict) else None
    if kind == "Sequence":
        for each in _list(component.get(SEQUENCES[part]), f"a sequence of {part}"):
            yield from _components(part, each, depth + 1)
    elif isinstance(kind, str) and kind in KNOWN[part].split():
        yield component
    else:
        raise ValueError(f"an unknown {part}")


def _refuse_component(component: Mapping[str, Any]) -> None:
    kind = component["type"]
    if kind in ("Replace", "Split"):
        _pattern(component)
    elif kind == "Precompiled":
        _refuse_table(component.get("precompiled_charsmap"))
    elif kind == "FixedLength" and not _is_id(component.get("length"), least=1):
        raise ValueError("a piece length that is not a number above 0")
    elif kind == "Strip" and "content" in component and not all(_is_id(component.get(key)) for key in ("start", "stop")):
        raise ValueError("a decoder that strips an impossible number of characters")
    elif kind == "TemplateProcessing":
        _refuse_template(component)


def _pattern(component: Mapping[str, Any]) -> tuple[str, str]:
    """Return the kind and the text of a component's pattern."""
    pattern = component.get("pattern")
    kind, text = next(iter(pattern.items())) if isinstance(pattern, dict) and len(pattern) == 1 else (None, None)
    if kind not in ("String", "Regex") or not isinstance(text, str) or not text:
        raise ValueError(f"a {component['type']} without a pattern")
    if kind == "Regex":
        expressions.refuse(text)
    return kind, text


def _growth(component: Mapping[str, Any]) -> float:
    """Return the maximum factor by which a component lengthens a text."""
    if component["type"] == "Prepend":
        written, found = component.get("prepend"), "x"
    elif component["type"] == "Replace":
        kind, found = _pattern(component)
        written, found = component.get("content"), found if kind == "String" else ""
    else:
        return 1.0
    if not isinstance(written, str):
        raise ValueError(f"a {component['type']} without replacement text")
    size = len(written.encode())
    return max(1.0, size / len(found.encode())) if found else 1.0 + size  # an expression may match the empty string everywhere


def _refuse_template(component: Mapping[str, Any]) -> None:
    known = component.get("special_tokens")
    if not isinstance(known, dict) or not all(_is_special(row) for row in known.values()):
        raise ValueError("a template whose special tokens are not a table of ids and tokens")
    for key in ("single", "pair"):
        entries = _list(component.get(key), f"the template {key}")
        if len(entries) > MOST_ENTRIES:
            raise ValueError(f"a template of {len(entries):,} entries; at most {MOST_ENTRIES}")
        for entry in entries:
            inner = entry.get("SpecialToken", entry.get("Sequence")) if isinstance(entry, dict) else None
            name = inner.get("id") if isinstance(inner, dict) else None
            if not isinstance(name, str) or ("SpecialToken" in entry and name not in known):
                raise ValueError("a template with a token that is not in its table of special tokens")


def _is_special(row: Any) -> bool:
    ids, tokens = (row.get("ids"), row.get("tokens")) if isinstance(row, dict) else (None, None)
    return (
        isinstance(ids, list)
        and isinstance(tokens, list)
        and len(ids) == len(tokens) <= MOST_ENTRIES
        and all(_is_id(index) for index in ids)
        and all(isinstance(token, str) for token in tokens)
    )


def _refuse_table(encoded: Any) -> None:
    """Check SentencePiece's character map: a trie as an array (Darts), followed by zero-terminated replacement texts.

    Source: normalizer.cc of SentencePiece and darts.h of Darts-clone: a unit's offset leads to its children, bit 8 marks that the first
    of them is a value, which has bit 31 set and holds the start of a text.
    """
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise ValueError("a character map that is not in base64") from error
    if not blob:
        return
    size = int.from_bytes(blob[:4], "little")
    if len(blob) < 8 or not size or size % 4 or size > len(blob) - 4:
        raise ValueError("a character map whose size differs from its header")
    units, texts = np.frombuffer(blob, "<u4", size // 4, 4).astype(np.int64), blob[4 + size :]
    [inner] = np.nonzero(units >> 31 == 0)
    children = inner ^ ((units[inner] >> 10) << ((units[inner] & (1 << 9)) >> 6))
    starts = units[children[(units[inner] >> 8) & 1 == 1] % len(units)] & 0x7FFFFFFF
    begins = np.zeros(len(texts) + 1, bool)
    begins[:1] = True
    begins[1:] = np.frombuffer(texts, np.uint8) == 0
    if (children | 0xFF).max(initial=0) >= len(units) or (starts >= len(texts)).any() or not begins[starts].all():
        raise ValueError("a character map with an offset outside the map")
    if max(map(len, texts.split(b"\0"))) > LONGEST_MAPPED:
        raise ValueError(f"a character map that writes more than {LONGEST_MAPPED} bytes for a character")
    try:
        texts.decode()
    except UnicodeDecodeError as error:
        raise ValueError("a character map that writes invalid UTF-8") from error


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is not a list")
    return value


def _is_id(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value < MOST_IDS
