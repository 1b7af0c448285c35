"""Special ids: those around a prompt, those around a document, and those that end a text.

They are stored in one place, the post-processor of tokenizer.json. Tokenizers that were trained here have none, because the layout fixes
the ids (`OURS`). In an imported tokenizer the template has the ids that the tokenizer adds to a text, and the table of special tokens has a
row for each id that the model's files name, such as `tokenizer_config.bos_token` or `generation_config.eos_token_id`.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import tokenizers

from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import layout, panics

NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "pad", "unk", "sep", "cls", "mask"))
"""Keys of tokenizer_config.json for named tokens, which chat templates may use."""
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Keys of config.json and generation_config.json."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Specials:
    """Special ids of a tokenizer and its model, which text does not yield."""

    before: tuple[int, ...]
    """Ids that the tokenizer adds before a text."""
    after: tuple[int, ...]
    """Ids that the tokenizer adds after a text."""
    named: Mapping[str, tuple[int, ...]]
    """`FILE.KEY` -> ids: one for each of NAMES, one or more for each of IDS. Keys that a file lacks are missing here too."""

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids that end a text according to the model's files, or the tokenizer's own `eos_token` if they name none."""
        of_model = [index for file in ("config", "generation_config") for index in self.named.get(f"{file}.eos_token_id", ())]
        return tuple(dict.fromkeys(of_model)) or self.named.get("tokenizer_config.eos_token", ())

    @property
    def eos(self) -> int:
        """Id after every document: the tokenizer's `eos_token` if it ends a text, otherwise the first of `ends`."""
        own = self.named.get("tokenizer_config.eos_token", ())
        return own[0] if own and own[0] in self.ends else self.ends[0]

    @property
    def bos(self) -> int:
        """Id before every document and every scored text; `eos` if there is no other, as in lm-evaluation-harness."""
        return (*self.named.get("tokenizer_config.bos_token", ()), *self.before, self.eos)[0]

    @property
    def pad(self) -> int:
        """Id that pads the last record of a packed data set. It may equal `bos`, because no document begins in padding."""
        own = self.named.get("tokenizer_config.pad_token", ())
        return own[0] if own and own[0] not in self.ends else self.bos

    def ids(self, file: str) -> dict[str, int | list[int]]:
        """Return the ids of `config` or `generation_config` in the form of its JSON."""
        found = {key: self.named.get(f"{file}.{key}", ()) for key in IDS}
        return {key: ids[0] if len(ids) == 1 else list(ids) for key, ids in found.items() if ids}

    def names(self, tokenizer: tokenizers.Tokenizer) -> dict[str, str]:
        """Return `bos_token` and similar keys -> token."""
        found = {key: self.named.get(f"tokenizer_config.{key}", ()) for key in NAMES}
        return {key: token for key, ids in found.items() if ids and (token := tokenizer.id_to_token(ids[0])) is not None}


_OURS = {"bos": layout.BOS, "eos": layout.EOS, "pad": layout.PAD}
OURS = Specials(
    before=(layout.BOS,),
    after=(),
    named={f"tokenizer_config.{name}_token": (index,) for name, index in (*_OURS.items(), ("unk", layout.UNK))}
    | {f"{file}.{name}_token_id": (index,) for file in ("config", "generation_config") for name, index in _OURS.items()},
)


def of(tokenizer: tokenizers.Tokenizer) -> Specials:
    """Return the special ids of a tokenizer from `load.load`."""
    found = read(tokenizer)
    assert found is not None
    return found


def prompt(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    """Return the ids of a prompt: the text without special ids, between the ids that the tokenizer adds."""
    around = of(tokenizer)
    return [*around.before, *encode(tokenizer, text), *around.after]


def encode(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    """Return the ids of a text, none of them special.

    Tokenizers that were trained here never yield special ids for text. Imported ones may, through a normalizer or as a piece of the model.

    Raises:
        UserError: The text yields a special id or cannot be encoded.
    """
    ids = encoding(tokenizer, text).ids
    if not controls(tokenizer).isdisjoint(ids):
        found = next(index for index in ids if index in controls(tokenizer))
        raise UserError(
            f"got a text in which the model's tokenizer finds the special token {tokenizer.id_to_token(found)!r}; allowed: texts without "
            "special tokens; change the text"
        )
    return ids


def encoding(tokenizer: tokenizers.Tokenizer, text: str) -> tokenizers.Encoding:
    """Encode a text with the library; raise a UserError if it cannot be encoded.

    Other threads run meanwhile, because `encode_batch`, unlike `encode`, releases the GIL.
    """
    try:
        with panics.as_errors():
            return tokenizer.encode_batch([text], add_special_tokens=False)[0]
    except ValueError as error:
        raise UserError(f"got a text that the model's tokenizer cannot encode ({error}); allowed: other texts; change the text") from error


def read(tokenizer: tokenizers.Tokenizer) -> Specials | None:
    """Return the special ids stored in the post-processor; None if `post_processor` did not write it."""
    if tokenizer.post_processor is None:
        return OURS
    stored = json.loads(tokenizer.post_processor.__getstate__())  # the post-processor's part of tokenizer.json
    if stored["type"] != "TemplateProcessing":
        return None
    rows = {name: tuple(row["ids"]) for name, row in stored["special_tokens"].items()}
    named = {name: ids for name, ids in rows.items() if name.partition(".")[2] in (*NAMES, *IDS)}
    if not any(name.partition(".")[2] in ("eos_token", "eos_token_id") for name in named):
        return None
    around: list[list[int]] = [[]]
    for entry in stored["single"]:
        if "Sequence" in entry:
            around.append([])
        else:
            around[-1] += rows[entry["SpecialToken"]["id"]]
    if len(around) != 2:
        return None
    before, after = around
    return Specials(before=tuple(before), after=tuple(after), named=named)


def post_processor(specials: Specials, token: Callable[[int], str | None]) -> dict[str, Any]:
    """Return the post-processor of a tokenizer.json, from which `of` reads the special ids.

    Args:
        specials: The special ids; without `named` the result has the form that every reader of a tokenizer.json expects.
        token: Returns the token of an id.
    """

    def text(name: str, number: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": number}}

    def special(ids: tuple[int, ...]) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": token(index), "type_id": 0}} for index in ids]

    def around(middle: dict[str, Any]) -> list[dict[str, Any]]:
        return [*special(specials.before), middle, *special(specials.after)]

    rows = {token(index): (index,) for index in sorted({*specials.before, *specials.after})} | dict(sorted(specials.named.items()))
    return {
        "type": "TemplateProcessing",
        "single": around(text("A", 0)),
        "pair": [*around(text("A", 0)), *around(text("B", 1))],
        "special_tokens": {name: {"id": name, "ids": list(ids), "tokens": [token(i) or "" for i in ids]} for name, ids in rows.items()},
    }


def controls(tokenizer: tokenizers.Tokenizer) -> frozenset[int]:
    """Return the ids that text may not yield: special tokens, and in our layout also chat and reserved ids."""
    return frozenset(index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special)
