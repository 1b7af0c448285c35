"""tokenizer.json and what stands beside it: for transformers on export, for us on import."""

import json
import pathlib
from typing import Any

import tokenizers

from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import load, pieces
from teleflm_jax.tokenizer.specials import Specials

FILE, SETTINGS, NAMES, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"
OUR_TEMPLATE = pathlib.Path(load.__file__).parent / TEMPLATE
LARGEST_FILE = 1 << 28


def exported(folder: pathlib.Path, wrap: Specials, context_length: int) -> dict[str, str]:
    """Name -> content of the files that transformers' `AutoTokenizer` reads.

    Their tokenizer puts `<s>` in front of a text, which is what the model has seen in front of every document.

    Args:
        folder: a run's, with its tokenizer.json.
        wrap: of that tokenizer.
        context_length: of the model.
    """
    content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    loaded = load.load(folder / FILE)
    ours = load.foreign(loaded) is None
    names = {"bos_token": loaded.id_to_token(wrap.bos), "eos_token": loaded.id_to_token(wrap.eos)}
    if ours:
        names |= {"pad_token": loaded.id_to_token(wrap.pad), "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context_length, "clean_up_tokenization_spaces": False}
    content["post_processor"] = _template(loaded, [wrap.bos, None])
    found = {FILE: _text(content), SETTINGS: json.dumps(settings | names, indent=1), NAMES: json.dumps(names, indent=1)}
    template = folder / TEMPLATE if (folder / TEMPLATE).is_file() else OUR_TEMPLATE if ours else None
    return found | ({TEMPLATE: template.read_text(encoding="utf-8")} if template else {})


def imported(path: pathlib.Path, bos: int | None, eos: int | None) -> str:
    """The content of the tokenizer.json that a run's folder gets: theirs, but that it says what wraps a document; ours is ours again.

    Args:
        path: their tokenizer.json.
        bos: what begins a text by their configuration; what their tokenizer.json itself puts there wins.
        eos: what ends one.

    Raises:
        UserError: it is none, has no id for the end of a text, or pieces that are no bytes.
    """
    if not path.is_file() or path.stat().st_size > LARGEST_FILE:
        raise UserError(
            f"got no {path} of at most {LARGEST_FILE:,} bytes; allowed: a tokenizer.json, which says what the weights' ids mean; add "
            "--tokenizer FILE (a tokenizer.model of SentencePiece becomes one when transformers loads it and saves it again)"
        )
    try:
        content = json.loads(path.read_bytes())
        theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
        bare = tokenizers.Tokenizer.from_str(json.dumps(content | {"post_processor": None}))
    except Exception as error:  # the library raises no narrower class
        raise UserError(f"got {path}, which is no tokenizer.json ({error}); allowed: one; change --tokenizer") from error
    if load.foreign(bare) is None:
        return _text(content | {"post_processor": None})
    before = theirs.encode("").ids
    bos = before[0] if before and before[0] != eos else bos
    if eos is None or theirs.id_to_token(eos) is None:
        raise UserError(f"got {path} and no eos_token_id of it; allowed: an id that ends a text; set eos_token_id in config.json")
    bos = eos if bos is None or theirs.id_to_token(bos) is None else bos
    _refuse_ordinary(path, bare, {bos, eos})
    pieces.piece_bytes(bare)
    return _text(content | {"post_processor": _template(bare, [bos, None, eos]), "truncation": None, "padding": None})


def template(folder: pathlib.Path) -> str | None:
    """The chat template that comes with a model, as text."""
    if (folder / TEMPLATE).is_file():
        try:
            return (folder / TEMPLATE).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"got {folder / TEMPLATE}, which is not UTF-8 ({error}); allowed: a template in UTF-8; fetch it again"
            ) from error
    if not (folder / SETTINGS).is_file():
        return None
    try:
        found = json.loads((folder / SETTINGS).read_bytes())
    except ValueError as error:
        raise UserError(f"got {folder / SETTINGS}, which is no JSON ({error}); allowed: JSON; fetch it again") from error
    text = found.get("chat_template") if isinstance(found, dict) else None
    return text if isinstance(text, str) else None


def _refuse_ordinary(path: pathlib.Path, tokenizer: tokenizers.Tokenizer, ids: set[int]) -> None:
    """What wraps a text must be special, or text could yield it."""
    added = tokenizer.get_added_tokens_decoder()
    for index in sorted(ids):
        if index not in added or not added[index].special:
            raise UserError(
                f"got {path}, in which {tokenizer.id_to_token(index)!r} ({index}) wraps a text and is no special token; allowed: a special "
                "added token; correct bos_token_id or eos_token_id in config.json"
            )


def _template(tokenizer: tokenizers.Tokenizer, pattern: list[int | None]) -> dict[str, Any]:
    """A post-processor that puts ids around a text, which None stands for."""

    def entry(index):
        return {"Sequence": {"id": "A", "type_id": 0}} if index is None else {"SpecialToken": {"id": name[index], "type_id": 0}}

    name = {index: tokenizer.id_to_token(index) for index in pattern if index is not None}
    single = [entry(index) for index in pattern]
    pair = [*single, *({"Sequence": {"id": "B", "type_id": 1}} if i is None else entry(i) for i in pattern)]
    tokens = {name[index]: {"id": name[index], "ids": [index], "tokens": [name[index]]} for index in sorted(name)}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


def _text(content: dict) -> str:
    """JSON as `tokenizer train` writes it."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
