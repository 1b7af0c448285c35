"""What a fuzzer calls with bytes that stand for a file of a stranger's model; anything raised is a fault."""

import pathlib
import tempfile

from teleflm_jax.errors import UserError
from teleflm_jax.huggingface import config, tensors
from teleflm_jax.tokenizer import load, pieces, specials

TEXTS = ("a", "the <s> time </s> [x] 你好 <0x41>\n\n  ", "a" * 3_000, " " * 3_000 + "b", "ａ＜ｓ＞" * 100)
"""Plain text; runs of one character are what expressions go back and forth over."""


def tokenizer(content: bytes) -> None:
    """Take a tokenizer.json: it is refused, or encodes texts without special ids."""
    try:
        made = load.parse(content.decode())
        made.encode_special_tokens = True
        pieces.piece_bytes(made)
    except (ValueError, UserError):
        return
    for text in TEXTS:
        try:
            ids = specials.encode(made, text)
        except UserError:
            continue
        assert not specials.controls(made) & set(ids)


def safetensors(content: bytes) -> None:
    """Take a file of weights: it is refused, or its tensors lie in it."""
    _in_a_folder(tensors.SINGLE, content, lambda folder: [each.shape for each in tensors.read_folder(folder).values()])


def configuration(content: bytes) -> None:
    """Take a config.json: it is refused, or describes a model."""
    _in_a_folder(config.FILE, content, config.read)


def _in_a_folder(name: str, content: bytes, read) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, name).write_bytes(content)
        try:
            read(pathlib.Path(folder))
        except UserError:
            return


TARGETS = {"tokenizer": tokenizer, "safetensors": safetensors, "configuration": configuration}
SEEDS = {
    "tokenizer": (
        b'{"added_tokens":[{"id":2,"content":"<s>","special":true,"normalized":true,"single_word":false,"lstrip":false,"rstrip":false}],'
        b'"normalizer":{"type":"Sequence","normalizers":[{"type":"Replace","pattern":{"String":"[x]"},"content":"<s>"},{"type":"NFKC"}]},'
        b'"pre_tokenizer":{"type":"Split","pattern":{"Regex":"a+|\\\\s+(?!\\\\S)|\\\\s+"},"behavior":"Isolated","invert":false},'
        b'"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":'
        b'0}}],"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[2],"tokens":["<s>"]}}},"decoder":{"type":"ByteLevel","add_prefix_space":'
        b'true,"trim_offsets":true,"use_regex":true},"model":{"type":"BPE","vocab":{"a":0,"aa":1},"merges":[["a","a"]]}}',
        b'{"model":{"type":"Unigram","unk_id":0,"vocab":[["a",0.0],["<0x41>",-1.0],["aa",-0.5]],"byte_fallback":true}}',
    ),
    "safetensors": (b'\x3b\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}   \0\0\0\0',),
    "configuration": (
        b'{"architectures":["LlamaForCausalLM"],"hidden_size":8,"num_attention_heads":2,"num_hidden_layers":1,"intermediate_size":8,'
        b'"vocab_size":9,"max_position_embeddings":9,"eos_token_id":[1,2],"rope_scaling":null,"dtype":"float32"}',
    ),
}
"""Of each a few whole files."""
