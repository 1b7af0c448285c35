"""The table of weight names for export and import: which of our weights is which Hugging Face tensor, and how their layouts differ.

Dimensions are the letters of `model/transformer.py`. Our axes are as declared in the model. A Hugging Face projection is [out, in] with
all heads in one dimension, so converting is a transpose and a reshape and changes no number. Rotary positions need no reordering: both
sides split a head into halves.

Sources: transformers' Llama; TeleChat's `modeling_telechat.py`, whose `key_value` holds a head's key and value next to each other.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from teleflm_jax.model.config import ModelConfig

STACKED = "blocks/"
"""Prefix of the paths of weights that are stacked along a leading layer dimension."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One Hugging Face tensor, or a part of one."""

    ours: str | None
    """Path in the model's part of a checkpoint; None: the tensor is zeros, and we have no such weight."""
    axes: str
    """Our dimensions, without the layer dimension."""
    theirs: str
    """Name of the tensor; {} is replaced by the layer's number."""
    form: tuple[str, ...]
    """Dimensions of the tensor; P counts weights that are fused in it."""
    part: int = 0
    """Index of our weight along P."""

    @property
    def stacked(self) -> bool:
        """True if each layer has such a tensor."""
        return "{}" in self.theirs

    def name(self, layer: int) -> str:
        """Return the tensor's name in a layer."""
        return self.theirs.format(layer)


def _layer(prefix: str, attention: str) -> dict[str, str]:
    return {"norm": f"{prefix}.{{}}.", "attention": f"{prefix}.{{}}.{attention}.", "mlp": f"{prefix}.{{}}.mlp."}


def _shared(prefix: str, attention: str, out: str) -> tuple[Row, ...]:
    """Rows that the layers of all layouts share: all but keys and values."""
    at = _layer(prefix, attention)
    return (
        Row("blocks/attention_norm/gain", "D", at["norm"] + "input_layernorm.weight", ("D",)),
        Row("blocks/attention/out", "NHD", at["attention"] + f"{out}.weight", ("D", "NH")),
        Row("blocks/feed_forward_norm/gain", "D", at["norm"] + "post_attention_layernorm.weight", ("D",)),
        Row("blocks/feed_forward/gate", "DF", at["mlp"] + "gate_proj.weight", ("F", "D")),
        Row("blocks/feed_forward/up", "DF", at["mlp"] + "up_proj.weight", ("F", "D")),
        Row("blocks/feed_forward/down", "FD", at["mlp"] + "down_proj.weight", ("D", "F")),
    )


def _biases(prefix: str, attention: str, out: str) -> tuple[Row, ...]:
    at = _layer(prefix, attention)
    return (
        Row("blocks/attention_bias", "D", at["attention"] + f"{out}.bias", ("D",)),
        Row("blocks/feed_forward_bias", "D", at["mlp"] + "down_proj.bias", ("D",)),
    )


def _ends(embedding: str, norm: str) -> tuple[Row, ...]:
    return (
        Row("embedding", "VD", embedding, ("V", "D")),
        Row("final_norm/gain", "D", norm, ("D",)),
        Row("head", "DV", HEAD, ("V", "D")),
    )


HEAD = "lm_head.weight"
_ATTENTION = "model.layers.{}.self_attn."
LLAMA = (
    *_ends("model.embed_tokens.weight", "model.norm.weight"),
    Row("blocks/attention/query", "DNH", _ATTENTION + "q_proj.weight", ("NH", "D")),
    Row("blocks/attention/key", "DKH", _ATTENTION + "k_proj.weight", ("KH", "D")),
    Row("blocks/attention/value", "DKH", _ATTENTION + "v_proj.weight", ("KH", "D")),
    *_shared("model.layers", "self_attn", "o_proj"),
)
"""The layout of Llama, and of TeleFLM."""
LLAMA_BIASES = (
    *_biases("model.layers", "self_attn", "o_proj"),
    Row(None, "NH", _ATTENTION + "q_proj.bias", ("NH",)),
    Row(None, "KH", _ATTENTION + "k_proj.bias", ("KH",)),
    Row(None, "KH", _ATTENTION + "v_proj.bias", ("KH",)),
    Row(None, "F", "model.layers.{}.mlp.gate_proj.bias", ("F",)),
    Row(None, "F", "model.layers.{}.mlp.up_proj.bias", ("F",)),
)
"""Further rows of a model with output biases: in a Llama every projection has a bias or none has."""
TELECHAT = (
    *_ends("word_embeddings.weight", "ln_f.weight"),
    Row("blocks/attention/query", "DNH", "h.{}.self_attention.query.weight", ("NH", "D")),
    Row("blocks/attention/key", "DKH", "h.{}.self_attention.key_value.weight", ("KPH", "D"), part=0),
    Row("blocks/attention/value", "DKH", "h.{}.self_attention.key_value.weight", ("KPH", "D"), part=1),
    *_shared("h", "self_attention", "dense"),
    *_biases("h", "self_attention", "dense"),
)
"""The layout of TeleChat, without the prefix `transformer.` that some files have on all names but the head's."""


def sizes(config: ModelConfig) -> dict[str, int]:
    """Return letter -> size."""
    return {
        "D": config.d_model,
        "N": config.num_heads,
        "K": config.num_kv_heads,
        "H": config.head_size,
        "F": config.d_ff,
        "V": config.vocab_size,
        "P": 2,
    }


def shape(row: Row, size: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of a row's tensor."""
    return tuple(math.prod(size[letter] for letter in dimension) for dimension in row.form)


def to_ours(array: np.ndarray, row: Row, size: Mapping[str, int]) -> np.ndarray:
    """Return a view of a Hugging Face tensor with our dimensions; nothing is copied."""
    letters = "".join(row.form)
    split = array.reshape([size[letter] for letter in letters])
    if "P" in letters:
        split = np.moveaxis(split, letters.index("P"), 0)[row.part]
        letters = letters.replace("P", "")
    return split.transpose([letters.index(letter) for letter in row.axes])


def to_theirs(array: np.ndarray, row: Row, size: Mapping[str, int]) -> np.ndarray:
    """Return our weight of one layer in the layout of its Hugging Face tensor; a view where that is possible."""
    letters = "".join(row.form)
    return array.transpose([row.axes.index(letter) for letter in letters]).reshape(shape(row, size))


def in_order(rows: Sequence[Row], num_layers: int) -> Iterator[tuple[Row, int]]:
    """Yield every tensor of a model as (row, layer): embedding, layers from first to last, final norm, head."""
    embedding, *ends = [row for row in rows if not row.stacked]
    yield embedding, 0
    for layer in range(num_layers):
        yield from ((row, layer) for row in rows if row.stacked)
    yield from ((row, 0) for row in ends)
