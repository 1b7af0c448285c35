"""Small tokenizers in the styles of many models, with the files that stand beside them."""

import json
import pathlib

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = ["the time of the house, a time of times 12\n"] * 9 + ["你好 the house é"] * 3
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set before = '<<SYS>>\\n' + messages[0]['content'] "
    "+ '\\n<</SYS>>\\n\\n' %}{% else %}{% set loop_messages = messages %}{% set before = '' %}{% endif %}{% for message in loop_messages %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + (before if loop.index0 == 0 else '') + message['content'].strip() "
    "+ ' [/INST]' }}{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{{- bos_token }}{%- for message in messages %}{{- '<|start|>' + message['role'] + '<|stop|>\\n\\n' + message['content'] | trim "
    "+ eos_token }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|start|>assistant<|stop|>\\n\\n' }}{%- endif %}"
)
CHAT_ML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TELECHAT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<_user>' + message['content'] }}{% else %}"
    "{{ '<_bot>' + message['content'] + '<_end>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<_bot>' }}{% endif %}"
)


QWEN_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Where the class Qwen2Tokenizer cuts a text, whatever its tokenizer.json says."""


def byte_level(*special: str, normalizer=None, words: str | None = None) -> tokenizers.Tokenizer:
    """Byte-level BPE, its special tokens behind the pieces."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    if words is not None:
        cut = pre_tokenizers.Split(tokenizers.Regex(words), behavior="isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    if normalizer is not None:
        made.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    made.train_from_iterator(TEXTS, trainer)
    made.add_special_tokens([tokenizers.AddedToken(name, normalized=False, special=True) for name in special])
    return made


def with_fallback(*special: str, old: bool = False) -> tokenizers.Tokenizer:
    """SentencePiece's BPE with bytes to fall back on, as Llama 2 has it; spaces are written by a normalizer in older files."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trained.train_from_iterator(TEXTS[:9], trainers.BpeTrainer(vocab_size=60, show_progress=False))
    content = json.loads(trained.to_str())["model"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(content["vocab"], key=content["vocab"].get)]
    vocabulary, merges = {piece: index for index, piece in enumerate(pieces)}, [tuple(pair) for pair in content["merges"]]
    made = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if old:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.add_special_tokens([tokenizers.AddedToken(name, normalized=False, special=True) for name in special])
    return made


def wrapping(made: tokenizers.Tokenizer, pattern: str, *names: str) -> tokenizers.Tokenizer:
    """The tokenizer with a template around texts."""
    ids = [(name, made.token_to_id(name)) for name in names]
    made.post_processor = processors.TemplateProcessing(single=pattern, special_tokens=ids)
    return made


def _llama_2(old):
    made = wrapping(with_fallback("<unk>", "<s>", "</s>", old=old), "<s> $A", "<s>")
    # of the class LlamaTokenizer, transformers 5 replaces the normalizer of an older file by its own
    kind = "PreTrainedTokenizerFast" if old else "LlamaTokenizer"
    settings = {"tokenizer_class": kind, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": False}
    return made, settings | {"add_bos_token": True, "chat_template": LLAMA_2}, {"bos_token_id": 1, "eos_token_id": 2}, {}


def _llama_3():
    names = ("<|begin|>", "<|text_end|>", "<|eom|>", "<|eot|>", "<|start|>", "<|stop|>")
    made = wrapping(byte_level(*names), "<|begin|> $A", "<|begin|>")
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), made.post_processor])
    begin, *ends = map(made.token_to_id, names[:4])
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin|>", "eos_token": "<|eot|>", "chat_template": LLAMA_3}
    return made, settings, {"bos_token_id": begin, "eos_token_id": ends}, {"bos_token_id": begin, "eos_token_id": ends}


def _qwen_2():
    made = byte_level("<|text_end|>", "<|im_start|>", "<|im_end|>", normalizer=normalizers.NFC(), words=QWEN_WORDS)
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    text_end, end = made.token_to_id("<|text_end|>"), made.token_to_id("<|im_end|>")
    templates = [{"name": "tool_use", "template": "{{ tools }}"}, {"name": "default", "template": CHAT_ML}]
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|text_end|>",
        "unk_token": None,
    }
    settings |= {"add_bos_token": False, "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "chat_template": templates}
    generation = {"bos_token_id": text_end, "pad_token_id": text_end, "eos_token_id": [end, text_end]}
    return made, settings, {"bos_token_id": text_end, "eos_token_id": end}, generation


def _telechat():
    made = byte_level("<_start>", "<_end>", "<_pad>", "<_user>", "<_bot>")
    start, end, pad = map(made.token_to_id, ("<_start>", "<_end>", "<_pad>"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<_start>", "eos_token": "<_end>", "pad_token": "<_pad>"}
    ids = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": pad}
    return made, settings | {"chat_template": TELECHAT}, ids, ids


def _tele_flm():
    made = with_fallback("<unk>", "<s>", "</s>", "<pad>", "<_user>", "<_bot>", "<_end>")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "chat_template": TELECHAT}
    settings |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return made, settings, {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}, {"eos_token_id": [2, 6]}


def _both_ends():
    made = wrapping(byte_level("[gMASK]", "<sop>", "</s>"), "[gMASK] <sop> $A </s>", "[gMASK]", "<sop>", "</s>")
    return made, {"eos_token": {"__type": "AddedToken", "content": "</s>"}}, {"eos_token_id": made.token_to_id("</s>")}, {}


MAKES = {
    "Llama 2": lambda: _llama_2(False),
    "Llama 2, older file": lambda: _llama_2(True),
    "Llama 3": _llama_3,
    "Qwen 2": _qwen_2,
    "TeleChat": _telechat,
    "Tele-FLM": _tele_flm,
    "ids on both sides": _both_ends,
}


def write(folder: pathlib.Path, make: str, **config: object) -> tokenizers.Tokenizer:
    """Write the tokenizer's files and the ids into a folder, with further keys of config.json."""
    made, settings, ids, generation = MAKES[make]()
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]} | config | ids))
    if generation:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return made
