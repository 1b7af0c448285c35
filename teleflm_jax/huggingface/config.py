"""Conversion between config.json and our settings.

A config.json may come from anyone: its numbers are bounded before anything is allocated by them, and a key that asks for something we do
not implement is refused by name. Keys that change no output (dropout, caches, code to download) are not read.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NoReturn

from teleflm_jax import foreign, mup
from teleflm_jax.errors import UserError
from teleflm_jax.generate.request import MAX_STOP_IDS
from teleflm_jax.huggingface import names
from teleflm_jax.model.config import DTYPES, ModelConfig
from teleflm_jax.mup import MupConfig
from teleflm_jax.tokenizer.specials import IDS

FILE, GENERATION = "config.json", "generation_config.json"
LARGEST_FILE = 1 << 20
LARGEST = {"num_layers": 10_000, "context_length": 2**24}
"""Bounds of sizes that no tensor's shape confirms before memory is allocated for them."""
LARGEST_SIZE = 2**31 - 1
LLAMA, TELEFLM, GGUF = "llama", "teleflm", "gguf"
FORMATS = (LLAMA, TELEFLM, GGUF)
ARCHITECTURES = {"LlamaForCausalLM": LLAMA, "TeleFLMForCausalLM": TELEFLM, "TeleFLM": TELEFLM, "TelechatForCausalLM": "telechat"}
"""Architectures that can be imported -> our name of the layout. TeleChat means 7B and 12B; later ones have another layout."""
OURS = "teleflm_jax"
"""Key of the settings that only we read: how the model computes, where the format has no key for it."""
KEPT = ("compute_dtype", "document_attention")
MOST_ENDS = MAX_STOP_IDS // 2
"""Largest number of ids that may end a text in each of the two files."""
BOOKKEEPING = ("transformers_version", "use_cache", "_from_model_config")
"""Keys of generation_config.json that say nothing about a text."""
TELECHAT_CONTEXT = 8_192
"""Up to here TeleChat's rotary positions are the plain ones; beyond, their base depends on the length of the text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """A config.json in our terms."""

    model: ModelConfig
    mup: MupConfig
    rows: tuple[names.Row, ...]
    """Rows of the table of names."""
    tied: bool | None
    """True if the embedding is also the head; None: it is so if there is no head."""
    ids: Mapping[str, tuple[int, ...]]
    """`config.bos_token_id` and the like of both files; absent keys are left out."""
    notes: tuple[str, ...]
    """Remarks for the user, one per line."""
    names_dtype: bool
    """True if the file names the compute dtype."""


def exported(model: ModelConfig, rates: MupConfig, form: str, dtype: str, ids: Mapping[str, int | list[int]]) -> dict[str, Any]:
    """Return the config.json of an export.

    Args:
        model: shape.
        rates: with the multipliers.
        form: LLAMA or TELEFLM.
        dtype: of the weights.
        ids: `bos_token_id` and the like; one that is missing is written as null, since Llama's defaults are ids.

    Raises:
        UserError: the format cannot describe the model.
    """
    if form == TELEFLM and model.output_biases:
        raise UserError("got --format teleflm for a model with output biases; allowed: a model without; change --format to llama")
    found = {
        "architectures": ["LlamaForCausalLM" if form == LLAMA else "TeleFLMForCausalLM"],
        "model_type": "llama" if form == LLAMA else "TeleFLM",
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "intermediate_size": model.d_ff,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": model.context_length,
        "rms_norm_eps": model.norm_epsilon,
        "rope_theta": model.rope_theta,
        "rope_scaling": None,
        "attention_bias": model.output_biases,
        "mlp_bias": model.output_biases,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "use_cache": True,
        **{key: ids.get(key) for key in IDS},
        OURS: {name: getattr(model, name) for name in KEPT},
    }
    if form == LLAMA:
        return found
    # embeddings are multiplied by input_mult, logits by output_mult / mup_scale_factor
    scale = model.d_model / rates.base_width
    scale = int(scale) if scale == int(scale) else scale
    return found | {
        "use_mup": True,
        "mup_scale_factor": scale,
        "output_mult": rates.output_multiplier,
        "input_mult": rates.input_multiplier,
    }


def read(folder: pathlib.Path) -> Description:
    """Read a folder's config.json.

    Raises:
        UserError: the file is missing, or describes a model that we do not implement; names the key.
    """
    if not os.path.lexists(folder / FILE):
        raise UserError(f"got {folder} without a {FILE}; allowed: a model's folder; change the folder")
    keys = _opened(folder, FILE)
    architecture = keys.value("architectures", [None])
    name = architecture[0] if isinstance(architecture, list) and architecture else architecture
    known = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if known is None:
        keys.refuse("architectures", ", ".join(ARCHITECTURES))
    keys.only("quantization_config", None)
    describe = _telechat if known == "telechat" else _llama
    return describe(keys, known)


def _opened(folder: pathlib.Path, name: str) -> "_Keys":
    found = foreign.read_json(foreign.inside(folder, name), LARGEST_FILE)
    return _Keys(folder / name, found if isinstance(found, dict) else {})


@dataclasses.dataclass(frozen=True)
class _Keys:
    """A config.json whose values are checked as they are read."""

    path: pathlib.Path
    found: Mapping[str, Any]

    def value(self, key: str, default: Any) -> Any:
        """Return the value of a key; null counts as absent."""
        value = self.found.get(key)
        return default if value is None else value

    def refuse(self, key: str, allowed: str) -> NoReturn:
        raise UserError(
            f"got {key}={json.dumps(self.found.get(key))[:100]} in {self.path}; allowed: {allowed}; import another model, or correct {key}"
        )

    def only(self, key: str, *allowed: Any) -> None:
        """Raise unless the value is one of those allowed; an absent key counts as the first of them."""
        if not any(self.value(key, allowed[0]) is each or self.value(key, allowed[0]) == each for each in allowed):
            self.refuse(key, " or ".join(json.dumps(each) for each in allowed))

    def count(self, key: str, default: int | None = None, *, field: str = "") -> int:
        largest = LARGEST.get(field, LARGEST_SIZE)
        value = self.value(key, default)
        if type(value) is not int or not 1 <= value <= largest:
            self.refuse(key, f"a whole number from 1 to {largest:,}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.value(key, default)
        if type(value) not in (int, float) or not (1e-30 < value < 1e30):
            self.refuse(key, "a number above 0, from 1e-30 to 1e30")
        return float(value)

    def ids(self) -> dict[str, tuple[int, ...]]:
        """Return the ids of IDS that are present; only the end of a text may have several, and a padding of -1 means none."""
        found = {}
        for key in IDS:
            value = self.value(key, [])
            several = value if isinstance(value, list) and (key == "eos_token_id" or not value) else [value]
            if key == "pad_token_id" and several == [-1]:
                several = []
            if len(several) > MOST_ENDS or not all(type(index) is int and 0 <= index <= LARGEST_SIZE for index in several):
                self.refuse(key, f"an id, none, or as eos_token_id up to {MOST_ENDS}")
            if several:
                found[key] = tuple(dict.fromkeys(several))
        return found


def _llama(keys: _Keys, known: str) -> Description:
    width, heads = keys.count("hidden_size"), keys.count("num_attention_heads")
    if width % heads:
        keys.refuse("num_attention_heads", f"a divisor of hidden_size, {width:,}")
    for key in ("attention_bias", "mlp_bias"):
        keys.only(key, False)
    keys.only("hidden_act", "silu")
    keys.only("head_dim", width // heads)
    keys.only("partial_rotary_factor", 1)
    theta = _theta(keys)
    kept, notes = _kept(keys), _notes(keys)
    model = ModelConfig(
        num_layers=keys.count("num_hidden_layers", field="num_layers"),
        d_model=width,
        num_heads=heads,
        num_kv_heads=keys.count("num_key_value_heads", heads),
        d_ff=keys.count("intermediate_size"),
        vocab_size=keys.count("vocab_size"),
        context_length=keys.count("max_position_embeddings", field="context_length"),
        norm_epsilon=keys.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        **kept,
    )
    keys.only("tie_word_embeddings", False, True)
    rates = _multipliers(keys, width) if known == TELEFLM and keys.value("use_mup", False) else transferred(width)
    tied = bool(keys.value("tie_word_embeddings", False))
    return Description(
        model=model,
        mup=rates,
        rows=names.LLAMA,
        tied=tied,
        ids=_ids(keys),
        notes=notes,
        names_dtype="compute_dtype" in kept,
    )


def _telechat(keys: _Keys, known: str) -> Description:
    del known
    width, heads = keys.count("hidden_size"), keys.count("n_head")
    for key in ("embed_layernorm", "apply_residual_connection_post_layernorm", "logn"):
        keys.only(key, False)
    keys.only("num_key_value_heads", heads)
    context = keys.count("training_seqlen", TELECHAT_CONTEXT, field="context_length")
    if context > TELECHAT_CONTEXT:
        keys.refuse("training_seqlen", f"at most {TELECHAT_CONTEXT:,}, where rotary positions are the plain ones")
    keys.only("tie_word_embeddings", False, True)
    kept, notes = _kept(keys), _notes(keys)
    model = ModelConfig(
        num_layers=keys.count("n_layer", field="num_layers"),
        d_model=width,
        num_heads=heads,
        num_kv_heads=heads,
        d_ff=keys.count("ffn_hidden_size"),
        vocab_size=keys.count("vocab_size"),
        context_length=context,
        norm_epsilon=keys.number("layer_norm_epsilon", 1e-5),
        output_biases=True,
        **kept,
    )
    return Description(
        model=model,
        mup=transferred(width),
        rows=names.TELECHAT,
        tied=keys.value("tie_word_embeddings", None),
        ids=_ids(keys),
        notes=notes,
        names_dtype="compute_dtype" in kept,
    )


def _theta(keys: _Keys) -> float:
    """Return the base of the rotary angles, in the old or the new form; scaled positions are refused."""
    for key in ("rope_scaling", "rope_parameters"):
        scaling = keys.value(key, {})
        kind = scaling.get("rope_type", scaling.get("type", "default")) if isinstance(scaling, dict) else None
        if kind != "default" or scaling.get("partial_rotary_factor", 1) != 1:
            keys.refuse(key, "none, or the type default")
    parameters = _Keys(keys.path, keys.value("rope_parameters", {}))
    return parameters.number("rope_theta", keys.number("rope_theta", 10_000.0))


def _kept(keys: _Keys) -> dict[str, Any]:
    """Return how the model computes: our own settings if present, else the named dtype, else nothing."""
    dtype = _dtype(keys)
    found = {} if dtype is None else {"compute_dtype": dtype}
    own = keys.value(OURS, {})
    if not isinstance(own, dict) or own.keys() - set(KEPT):
        keys.refuse(OURS, f"an object with {', '.join(KEPT)}")
    if own.get("compute_dtype", "float32") not in list(DTYPES) or not isinstance(own.get("document_attention", False), bool):
        keys.refuse(OURS, f"compute_dtype one of {', '.join(DTYPES)}; document_attention true or false")
    return found | own


def _generation(keys: _Keys) -> _Keys:
    """Return the generation_config.json beside a config.json; without one, config.json decides, as in transformers."""
    path = keys.path.with_name(GENERATION)
    return (
        _opened(path.parent, path.name)
        if os.path.lexists(path)
        else _Keys(path, {key: keys.found[key] for key in IDS if key in keys.found})
    )


def _ids(keys: _Keys) -> dict[str, tuple[int, ...]]:
    """Return the special ids of both files, without those that the model has no row for; `_notes` names these."""
    size = keys.count("vocab_size")
    found = {f"{each.path.stem}.{key}": ids for each in (keys, _generation(keys)) for key, ids in each.ids().items()}
    return {name: kept for name, ids in found.items() if (kept := tuple(index for index in ids if index < size))}


def _dtype(keys: _Keys) -> str | None:
    """Return the dtype under its newer or older key; `auto` counts as absent."""
    for key in ("dtype", "torch_dtype"):
        value = keys.value(key, "auto")
        name = value.removeprefix("torch.") if isinstance(value, str) else value
        if name not in ("auto", *DTYPES):
            keys.refuse(key, ", ".join(DTYPES))
        if name != "auto":
            return name
    return None


def _notes(keys: _Keys) -> tuple[str, ...]:
    notes, generation = (), _generation(keys)
    for each in (keys, generation):
        for key, ids in each.ids().items():
            if beyond := [index for index in ids if index >= keys.count("vocab_size")]:
                notes += (f"{each.path} says {key}={beyond[0]}, which is no id of the model (vocab_size): left out",)
    if keys.value("auto_map", None):
        notes += (f"{keys.path} names Python code (auto_map), which is not read: the layout is known here",)
    if left := sorted(key for key in generation.found if key not in (*IDS, *BOOKKEEPING)):
        notes += (f"{generation.path} also says {', '.join(left)[:200]}, which is not taken over: say so with each request",)
    return notes


def _multipliers(keys: _Keys, width: int) -> MupConfig:
    """Return TeleFLM's multipliers: our output multiplier is stated at the base width and equals `output_mult` there."""
    scale, output = keys.number("mup_scale_factor", 1.0), keys.number("output_mult", 1.0)
    base = round(width / scale)
    if base < 1 or width / base != scale:  # no whole width has that ratio: state the quotient at the model's own
        base, output = width, output / scale
    return dataclasses.replace(transferred(base), output_multiplier=output, input_multiplier=keys.number("input_mult", 1.0))


def transferred(base_width: int) -> MupConfig:
    """Return the report's rates and std restated at another base width, so that every width gets the same values; multipliers are 1."""
    report = MupConfig()
    at_base = mup.at_width(report, base_width)
    matrix = at_base.rules[mup.MATRIX]
    return MupConfig(
        base_width=base_width,
        matrix_learning_rate=matrix.learning_rate,
        matrix_minimum_learning_rate=matrix.minimum_learning_rate,
        matrix_std=matrix.std,
    )


def is_power_of_two(multiplier: float) -> bool:
    """Return True if multiplying by it rounds nothing."""
    return math.frexp(multiplier)[0] == 0.5
