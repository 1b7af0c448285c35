"""Which ids stand around a prompt, which wrap a document and which end a text.

tokenizer.json is the one place that says so, and its post-processor the part of it: none in our own tokenizers, where the layout fixes
everything (`OURS`). In an imported one the template is what that tokenizer puts around a text by itself, and the table of special tokens
has a row for each id that the model's files name, such as `tokenizer_config.bos_token` or `generation_config.eos_token_id`.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import tokenizers

from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import layout, panics

NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "pad", "unk", "sep", "cls", "mask"))
"""Of tokenizer_config.json: the tokens that have a name, which chat templates may write."""
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Of config.json and generation_config.json."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Specials:
    """What a tokenizer and its model say about ids that no text yields."""

    before: tuple[int, ...]
    """What the tokenizer puts in front of a text by itself."""
    after: tuple[int, ...]
    """What it puts behind one."""
    named: Mapping[str, tuple[int, ...]]
    """`FILE.KEY` -> ids: one for each of NAMES, one or several for each of IDS. What a file leaves out is missing here too."""

    @property
    def ends(self) -> tuple[int, ...]:
        """All ids that end a text, by the files of the model; where these name none, the tokenizer's own."""
        of_model = [index for file in ("config", "generation_config") for index in self.named.get(f"{file}.eos_token_id", ())]
        return tuple(dict.fromkeys(of_model)) or self.named.get("tokenizer_config.eos_token", ())

    @property
    def eos(self) -> int:
        """Behind every document: the tokenizer's own, where it ends a text, else the first that does."""
        own = self.named.get("tokenizer_config.eos_token", ())
        return own[0] if own and own[0] in self.ends else self.ends[0]

    @property
    def bos(self) -> int:
        """In front of every document, and of a text that is scored; `eos` where nothing begins a text, as lm-evaluation-harness has it."""
        return (*self.named.get("tokenizer_config.bos_token", ()), *self.before, self.eos)[0]

    @property
    def pad(self) -> int:
        """Fills up a packed data set's last record. May be `bos`: at the end of a record, where no document begins, that counts nowhere."""
        own = self.named.get("tokenizer_config.pad_token", ())
        return own[0] if own and own[0] not in self.ends else self.bos

    def ids(self, file: str) -> dict[str, int | list[int]]:
        """What `config` or `generation_config` says, as its JSON has it."""
        found = {key: self.named.get(f"{file}.{key}", ()) for key in IDS}
        return {key: ids[0] if len(ids) == 1 else list(ids) for key, ids in found.items() if ids}

    def names(self, tokenizer: tokenizers.Tokenizer) -> dict[str, str]:
        """`bos_token` and the like -> token."""
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
    """Of a tokenizer from `load.load`."""
    found = read(tokenizer)
    assert found is not None
    return found


def prompt(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    """A text as the model is given it: between what its tokenizer puts there by itself, and without a special id of its own."""
    around = of(tokenizer)
    return [*around.before, *encode(tokenizer, text), *around.after]


def encode(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    """A text's ids, none of them special.

    A tokenizer of ours yields none. Another may: its normalizer may write one, or its model have one among the pieces that it makes.

    Raises:
        UserError: it does, or cannot take this text.
    """
    ids = encoding(tokenizer, text).ids
    if not controls(tokenizer).isdisjoint(ids):
        found = next(index for index in ids if index in controls(tokenizer))
        raise UserError(
            f"got a text in which the model's tokenizer finds the special token {tokenizer.id_to_token(found)!r}; allowed: texts in which "
            "it finds none; change the text"
        )
    return ids


def encoding(tokenizer: tokenizers.Tokenizer, text: str) -> tokenizers.Encoding:
    """Encode a text by the library; raises a `UserError` if it cannot.

    Other threads go on meanwhile, which `encode` keeps from it.
    """
    try:
        with panics.as_errors():
            return tokenizer.encode_batch([text], add_special_tokens=False)[0]
    except ValueError as error:
        raise UserError(f"got a text that the model's tokenizer cannot take ({error}); allowed: others; change it") from error


def read(tokenizer: tokenizers.Tokenizer) -> Specials | None:
    """What the post-processor says; None where it is none that `post_processor` has written."""
    if tokenizer.post_processor is None:
        return OURS
    stored = json.loads(tokenizer.post_processor.__getstate__())  # its part of tokenizer.json
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
    """The part of tokenizer.json from which `of` reads it again.

    Args:
        specials: what to write; without `named` it is what every reader of a tokenizer.json expects.
        token: of an id.
    """

    def text(name, number):
        return {"Sequence": {"id": name, "type_id": number}}

    def marks(ids):
        return [{"SpecialToken": {"id": token(index), "type_id": 0}} for index in ids]

    def around(middle):
        return [*marks(specials.before), middle, *marks(specials.after)]

    rows = {token(index): (index,) for index in sorted({*specials.before, *specials.after})} | dict(sorted(specials.named.items()))
    return {
        "type": "TemplateProcessing",
        "single": around(text("A", 0)),
        "pair": [*around(text("A", 0)), *around(text("B", 1))],
        "special_tokens": {name: {"id": name, "ids": list(ids), "tokens": [token(i) or "" for i in ids]} for name, ids in rows.items()},
    }


def controls(tokenizer: tokenizers.Tokenizer) -> frozenset[int]:
    """All ids that no text may yield: special tokens, and with ours also chat and reserved ids."""
    return frozenset(index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special)
