"""Conversion of tokenizer.json and its companion files: to transformers' on export, to ours on import."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from teleflm_jax import foreign
from teleflm_jax.errors import UserError
from teleflm_jax.generate import chat
from teleflm_jax.tokenizer import load, panics, pieces, specials
from teleflm_jax.tokenizer.specials import Specials

FILE, SETTINGS, NAMES, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", chat.TEMPLATE
TEMPLATES, DEFAULT = "additional_chat_templates", "default"
"""Folder of further chat templates, and the name of the template that is used."""
PROBE = "a"
LARGEST_SETTINGS = 16 << 20
"""Maximum bytes; models' files have some hundred kB, mostly lists of tokens."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """Contents of the files beside a tokenizer.json."""

    names: Mapping[str, str] | None
    """`bos_token` and the like -> token; None: no file names them."""
    special: tuple[str, ...]
    """Further special tokens."""
    adds: Mapping[str, bool | None]
    """`add_bos_token` and `add_eos_token`; None: absent."""
    template: str | None
    """Chat template."""
    notes: tuple[str, ...]
    """Remarks for the user, one per line."""


def exported(folder: pathlib.Path, around: Specials, context_length: int) -> dict[str, str]:
    """Return name -> content of the files that transformers' `AutoTokenizer` reads.

    The exported tokenizer adds the ids around a text that the model is given here, for example `<s>` before it.

    Args:
        folder: of a run, with its tokenizer.json.
        around: special ids of that tokenizer.
        context_length: of the model.
    """
    loaded = load.load(folder / FILE)
    content = _object(folder / FILE, foreign.LARGEST_JSON) | {"truncation": None, "padding": None}
    names = around.names(loaded)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context_length, "clean_up_tokenization_spaces": False}
    content["post_processor"] = specials.post_processor(dataclasses.replace(around, named={}), loaded.id_to_token)
    found = {FILE: _text(content), SETTINGS: json.dumps(settings | names, indent=1), NAMES: json.dumps(names, indent=1)}
    ours = load.misplaced(loaded) is None
    template = chat.read_template(folder)
    if template is None and ours:
        template = chat.OWN_TEMPLATE.read_text(encoding="utf-8")
    return found | ({} if template is None else {TEMPLATE: template})


def imported(path: pathlib.Path, settings: TokenizerSettings, ids: Mapping[str, tuple[int, ...]]) -> tuple[str, tuple[str, ...]]:
    """Return the content of the tokenizer.json for a run's folder.

    It records the special tokens of all the model's files; a tokenizer that we exported comes back byte for byte.

    Args:
        path: the model's tokenizer.json.
        settings: contents of the files beside it.
        ids: special ids of config.json and generation_config.json (`config.Description.ids`).

    Returns:
        The content, and remarks for the user, one per line.

    Raises:
        UserError: the file is not a tokenizer, no id ends a text, or a piece has no bytes.
    """
    original = _content(path)
    content = original | {"truncation": None, "padding": None}
    bare = _tokenizer(path, content)
    wrapped = _probed(path, bare)
    bare.post_processor = None
    around = _around(path, wrapped, _probed(path, bare))
    content["added_tokens"] = _added(original, bare, settings)
    if content["added_tokens"] != original["added_tokens"]:
        bare = _tokenizer(path, content | {"post_processor": None})
    names = settings.names
    if names is None:
        firsts = [(f"{name}_token", index) for name in ("bos", "eos") for index in ids.get(f"config.{name}_token_id", ())[:1]]
        names = {key: token for key, index in firsts if (token := bare.id_to_token(index)) is not None}
    missing = [token for token in dict.fromkeys((*names.values(), *settings.special)) if bare.token_to_id(token) is None]
    notes = (f"{path} has no {', '.join(missing)[:200]}: left out",) if missing else ()
    for (key, said), ids_there in zip(settings.adds.items(), around, strict=True):
        if said is not None and said != bool(ids_there):
            notes += (f"{SETTINGS} says {key}={json.dumps(said)}, {path.name} does otherwise, which holds, as in transformers 5",)
    named = {f"tokenizer_config.{key}": (index,) for key, token in names.items() if (index := bare.token_to_id(token)) is not None}
    ours = load.misplaced(bare) is None
    before, after = (specials.OURS.before, ()) if ours and original["post_processor"] is None else around
    found = Specials(before=before, after=after, named={**named, **ids})
    if not found.ends:
        raise UserError(f"got {path} and no eos_token_id of it; allowed: an id that ends a text; set eos_token_id in config.json")
    if ours and (before, after, found.ends) == (specials.OURS.before, specials.OURS.after, specials.OURS.ends):
        return _text(content | {"post_processor": None}), notes
    _refuse_ordinary(path, bare, {found.bos, found.eos, *before, *after})
    pieces.piece_bytes(bare)
    return _text(content | {"post_processor": specials.post_processor(found, bare.id_to_token)}), notes


def settings(folder: pathlib.Path) -> TokenizerSettings:
    """Read the files beside a tokenizer.json.

    Of several chat templates, the one named `default` is used, as in transformers.
    """
    there = [name for name in (SETTINGS, NAMES) if os.path.lexists(folder / name)]
    found = {name: _object(foreign.inside(folder, name), LARGEST_SETTINGS) for name in there}
    of_tokenizer = found.get(SETTINGS, {})
    # as transformers: the second file counts where the first lists no tokens
    both = of_tokenizer | ({} if "added_tokens_decoder" in of_tokenizer else found.get(NAMES, {}))
    names = {key: token for key in specials.NAMES if (token := _named(folder, key, both.get(key))) is not None}
    further = [both.get(key) for key in ("extra_special_tokens", "additional_special_tokens")]
    listed = both.get("added_tokens_decoder")
    further.append(
        [each for each in listed.values() if isinstance(each, dict) and each.get("special")] if isinstance(listed, dict) else None
    )
    special = tuple(token for each in further if isinstance(each, list) for token in map(_token, each) if token is not None)
    adds = {key: value if isinstance(value := both.get(key), bool) else None for key in ("add_bos_token", "add_eos_token")}
    template, notes = _template(folder, of_tokenizer)
    return TokenizerSettings(names=names if there else None, special=special, adds=adds, template=template, notes=notes)


def _template(folder: pathlib.Path, settings: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """Return the chat template, and a remark on those that are left out."""
    given = found = settings.get("chat_template")
    if isinstance(found, list):
        found = {each.get("name"): each.get("template") for each in found if isinstance(each, dict) and isinstance(each.get("name"), str)}
    templates = found if isinstance(found, dict) else {DEFAULT: found}
    dropped = isinstance(given, list) and len(templates) < len(given)
    dropped |= given is not None and not all(isinstance(each, str) for each in templates.values())
    if (further := folder / TEMPLATES).is_symlink():
        raise UserError(f"got {further}, which is a link; allowed: a folder of the model's own; copy it there (cp -rL)")
    files = {path.stem: path for path in sorted(further.glob("*.jinja"))}
    if os.path.lexists(folder / TEMPLATE):
        files.setdefault(DEFAULT, folder / TEMPLATE)
    notes = (f"chat_template of {SETTINGS} has entries that are no templates, which are left out",) if dropped else ()
    left = sorted(str(name) for name in {**templates, **files} if name != DEFAULT)
    notes += (f"of the chat templates {DEFAULT!r} alone is taken, not {foreign.printable(', '.join(left), 200)}",) if left else ()
    if DEFAULT in files:
        return chat.read_template(files[DEFAULT].parent, files[DEFAULT].name), notes
    text = templates.get(DEFAULT)
    if isinstance(text, str) and len(text) > (most := chat.MAX_TEMPLATE_BYTES):
        raise UserError(f"got a chat_template of {len(text):,} characters in {folder / SETTINGS}; allowed: at most {most:,}; shorten it")
    return text if isinstance(text, str) else None, notes


def _refuse_ordinary(path: pathlib.Path, tokenizer: tokenizers.Tokenizer, ids: set[int]) -> None:
    """Raise unless the ids around a text are special tokens; text could contain them otherwise."""
    added = tokenizer.get_added_tokens_decoder()
    for index in sorted(ids):
        if index not in added or not added[index].special:
            raise UserError(
                f"got {path}, in which {tokenizer.id_to_token(index)!r} ({index}) wraps a text and is no special token; allowed: a special "
                "added token; correct bos_token_id or eos_token_id in config.json"
            )


def _content(path: pathlib.Path) -> dict[str, Any]:
    """Read a tokenizer.json as JSON."""
    if not path.exists():
        raise UserError(
            f"got no {path}; allowed: a tokenizer.json, which says what the weights' ids mean; add --tokenizer FILE (a tokenizer.model of "
            "SentencePiece becomes one when transformers loads it and saves it again)"
        )
    found = _object(path, foreign.LARGEST_JSON)
    return found | {"post_processor": found.get("post_processor"), "added_tokens": found.get("added_tokens") or []}


def _tokenizer(path: pathlib.Path, content: Mapping[str, Any]) -> tokenizers.Tokenizer:
    try:
        return load.parse(_text(content))
    except ValueError as error:
        raise UserError(f"got {path}, which is not a tokenizer.json ({error}); allowed: one; change --tokenizer") from error


def _probed(path: pathlib.Path, tokenizer: tokenizers.Tokenizer) -> list[int]:
    try:
        with panics.as_errors():
            ids = tokenizer.encode(PROBE).ids
    except ValueError as error:
        raise UserError(f"got {path}, which cannot encode {PROBE!r} ({error}); allowed: one that can; change --tokenizer") from error
    if not ids:
        raise UserError(f"got {path}, which has no id for {PROBE!r}; allowed: one with a piece for every byte; change --tokenizer")
    return ids


def _added(content: Mapping[str, Any], tokenizer: tokenizers.Tokenizer, settings: TokenizerSettings) -> list[dict[str, Any]]:
    """Return the added tokens; those that the settings name are special, as in transformers."""
    added = {token["content"]: token for token in content["added_tokens"]}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for token in (*(settings.names or {}).values(), *settings.special):
        if (index := tokenizer.token_to_id(token)) is not None:
            added[token] = {"id": index, "content": token, **plain} | added.get(token, {}) | {"special": True}
    return sorted(added.values(), key=lambda token: token["id"])


def _around(path: pathlib.Path, wrapped: Sequence[int], text: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that a post-processor adds before and after a text."""
    starts = [start for start in range(len(wrapped) - len(text) + 1) if wrapped[start : start + len(text)] == text]
    if not starts:
        raise UserError(f"got {path}, whose post_processor changes a text; allowed: one that adds ids before or after it; correct it")
    return tuple(wrapped[: starts[0]]), tuple(wrapped[starts[0] + len(text) :])


def _named(folder: pathlib.Path, key: str, value: Any) -> str | None:
    """Return the text of a named token, None for null; raise a `UserError` for anything else."""
    token = _token(value)
    if token is None and value is not None:
        shown = foreign.printable(json.dumps(value), 40)
        raise UserError(f"got {key} {shown} in the settings of {folder}; allowed: a token's text, or null; correct {SETTINGS}")
    return token


def _token(value: Any) -> str | None:
    """Return the text of a token, which is written alone or with its properties."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def _object(path: pathlib.Path, most: int) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        found = foreign.parse_json(foreign.read(path, most))
    except ValueError as error:
        raise UserError(f"got {path}, which is not a {path.name} ({error}); allowed: one in JSON; fetch it again") from error
    if not isinstance(found, dict):
        raise UserError(f"got {path}, which is not a {path.name}; allowed: a JSON object; fetch it again")
    return found


def _text(content: Mapping[str, Any]) -> str:
    """Return JSON in the form that `tokenizer train` writes."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
