"""GGUF files in llama.cpp itself: ids, logits, greedy continuations and conversations are ours. `make test-gguf`."""

import ctypes
import inspect
import json
import pydoc_data.topics
import subprocess
import unicodedata

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from teleflm_jax.generate import chat
from teleflm_jax.huggingface import gguf_vocabulary, tokenizer
from teleflm_jax.tokenizer import load, patterns, specials, train
from tests import tiny
from tests.huggingface import folders

pytestmark = pytest.mark.llama_cpp
llama_cpp = pytest.importorskip("llama_cpp", reason="requirements-llama-cpp.txt is not installed")

VOCABULARY = 1500
SHAPE = folders.shape(num_kv_heads=2, vocab_size=VOCABULARY + 4, output_biases=True)
FLOAT32 = 0
CHINESE = """春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。
这个函数返回列表中的最大值；如果列表为空（长度为0），就引发 ValueError 异常。
第3章介绍了 Python 3.11 的新功能：错误信息更清楚，速度提高了约25%。
　　他说：“我们明天去北京吗？”她回答道：“好啊！”于是他们买了两张火车票……天气很冷，但是大家都很高兴。
繁體中文與簡體中文的標點「」『』不同，数字〇一二三，日本語のかなとカナも、한국어도 있다。
"""
PIECES = ["'s", "'S", "'re", "'VE", "'ll", "'", "’s", " ", "  ", "\t", "\n", "\r\n", "\r", "\u3000", "\x85", "\u00a0", "\x1c", "\x00"]
PIECES += [
    "a",
    "the",
    "Z",
    "é",
    "e\u0301",
    "中",
    "中文",
    "か",
    "〇",
    "7",
    "42",
    "²",
    "Ⅷ",
    "٣",
    ".",
    "...",
    "_",
    "-",
    "$",
    "😀",
    "\u200d",
    "\ufe0f",
]
PIECES += ["<s>", "</s>", "<_user>", "<|begin|>", "[PAD1]", "Ġ", "\u2028", "\ufeff", "\U0010ffff", "\ue000", "    ", "\n\n", "):\n        "]
BOTH_KNOW = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i)) not in ("Cn", "Cs")]
"""Characters of Unicode 15 or earlier, as Python 3.11 and 3.12 have them; llama.cpp knows no later ones."""
TEXTS = st.lists(st.sampled_from(PIECES) | st.sampled_from(BOTH_KNOW), max_size=40).map("".join)
KNOWN = {f"{known.name}{', and the long s' * known.long_s}": known for known in gguf_vocabulary.KNOWN}


@pytest.fixture(scope="module")
def real_texts() -> list[str]:
    """English prose, code, and Chinese."""
    code = [inspect.getsource(module) for module in (inspect, json.decoder, subprocess)]
    return [*pydoc_data.topics.topics.values(), *code, *CHINESE.splitlines(), CHINESE]


def foreign(known: gguf_vocabulary.Known, texts: list[str]) -> str:
    """A tokenizer.json as another model brings it."""
    cut = json.dumps(known.cut).replace('"ByteLevel"', '"ByteLevel", "trim_offsets": true')
    blank = tokenizers.Tokenizer(models.BPE(ignore_merges=known.whole_words))
    blank.decoder = decoders.ByteLevel()
    made = tokenizers.Tokenizer.from_str(json.dumps(json.loads(blank.to_str()) | {"pre_tokenizer": json.loads(cut)}))
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), ["<|begin|>", "<|end|>"]
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, special_tokens=special))
    if known.whole_words:  # Llama 3's puts its beginning in front of a text; the others do not
        made.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    return made.to_str()


@pytest.fixture(scope="module", params=["ours", *KNOWN])
def run(request, real_texts, tmp_path_factory):
    """A run of which each tokenizer is one that can be exported."""
    folder = tmp_path_factory.mktemp("llama")
    if request.param == "ours":
        content = train.train(iter(real_texts), VOCABULARY, pattern=patterns.QWEN2)
    else:
        (folder / "theirs.json").write_text(foreign(KNOWN[request.param], real_texts), encoding="utf-8")
        ids = {"config.bos_token_id": (0,), "config.eos_token_id": (1, 2)}
        content, _ = tokenizer.imported(folder / "theirs.json", tokenizer.settings(folder), ids)
    return folders.write(folder / "run", SHAPE, folders.RATES, content, tiny.model(SHAPE))


@pytest.fixture(scope="module")
def opened(run):
    """The run's file in llama.cpp, by dtype; the cache of keys and values in float32, so that only weights are rounded."""
    found = {}

    def call(dtype: str):
        if dtype not in found:
            path = run.parent / f"{dtype}.gguf"
            assert folders.call("export", "--format", "gguf", "--workdir", run, "--dtype", dtype, "--out", path) == 0
            given = {"n_ctx": 32, "n_batch": 32, "n_threads": 1, "type_k": FLOAT32, "type_v": FLOAT32, "flash_attn": False}
            found[dtype] = llama_cpp.Llama(str(path), logits_all=True, verbose=False, **given)
        return found[dtype]

    yield call
    for model in found.values():
        model.close()


def text_of(model, ids: list[int]) -> bytes:
    """What llama.cpp says of ids, one by one as its programs do; the binding's own method cuts pieces to 32 bytes."""
    buffer, vocabulary = ctypes.create_string_buffer(200), model._model.vocab
    sizes = (llama_cpp.llama_token_to_piece(vocabulary, index, buffer, len(buffer), 0, True) for index in ids)
    return b"".join(buffer.raw[:size] for size in sizes)


def add_bos(ours: tokenizers.Tokenizer) -> bool:
    """Whether a tokenizer puts a beginning in front of a text."""
    return bool(specials.of(ours).before)


def test_ids_are_ours_for_real_text(run, opened, real_texts):
    ours, theirs = load.load(run / "tokenizer.json"), opened("float32")
    for text in real_texts:
        for part in (text, *text.splitlines(keepends=True)):
            wanted = specials.prompt(ours, part)
            assert theirs.tokenize(part.encode(), add_bos=add_bos(ours), special=False) == wanted
            assert text_of(theirs, wanted[add_bos(ours) :]) == part.encode()


def test_ids_are_ours_for_any_text(run, opened):
    ours, theirs = load.load(run / "tokenizer.json"), opened("float32")

    @settings(max_examples=1_000, deadline=None)
    @given(TEXTS)
    @example("".join(PIECES))
    @example("".join(reversed(PIECES)))
    def check(text):
        assert theirs.tokenize(text.encode(), add_bos=add_bos(ours), special=False) == specials.prompt(ours, text)

    check()


def test_ids_of_ours_do_not_depend_on_the_long_s(run, opened):
    ours, theirs = load.load(run / "tokenizer.json"), opened("float32")
    if load.misplaced(ours) is None:
        for text in ("'ſound", "it'ſ", "'ſ'ſ", " 'ſtatement"):
            assert theirs.tokenize(text.encode(), add_bos=add_bos(ours), special=False) == specials.prompt(ours, text)


def test_ids_that_wrap_and_end_a_text_are_ours(run, opened):
    wrap, theirs = specials.of(load.load(run / "tokenizer.json")), opened("float32")
    assert (theirs.token_bos(), theirs.token_eos()) == (wrap.bos, wrap.eos)
    assert theirs._model.vocab and llama_cpp.llama_vocab_get_add_bos(theirs._model.vocab) == bool(wrap.before)
    assert all(llama_cpp.llama_vocab_is_eog(theirs._model.vocab, end) for end in wrap.ends) and theirs.n_vocab() == VOCABULARY + 4


# float32: both sum in it, in other orders. Else: some ten roundings in a row of weights and of what they are multiplied with, each by one
# part in 256 (bfloat16) or in 2,048 (float16) at most
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 10 / 256), ("float16", 10 / 2048)])
def test_logits_are_ours(run, opened, dtype, tolerance):
    tokens = np.asarray(tiny.tokens(1, 30, vocab_size=VOCABULARY))
    ours, theirs = np.asarray(folders.load(run)(tokens))[0], opened(dtype)
    theirs.reset()
    theirs.eval(tokens[0].tolist())
    np.testing.assert_allclose(theirs.scores[:30], ours, rtol=0, atol=tolerance * np.abs(ours).max())


def test_greedy_continuations_are_ours(run, opened, capsys):
    prompt, theirs = "the time of", opened("float32")
    arguments = ["--prompt", prompt, "--temperature", 0, "--max_tokens", 16, "--logprobs", 0, "--json"]
    capsys.readouterr()
    assert folders.call("generate", "--workdir", run, *arguments) == 0
    [told] = json.loads(capsys.readouterr().out)["completions"]
    theirs.reset()
    running = theirs.generate(theirs.tokenize(prompt.encode(), add_bos=add_bos(load.load(run / "tokenizer.json"))), temp=0)
    assert [next(running) for _ in told["logprobs"]] == [token["id"] for token in told["logprobs"]]


def test_a_conversation_s_ids_are_ours(run, opened, monkeypatch):
    ours, theirs = load.load(run / "tokenizer.json"), opened("float32")
    if load.misplaced(ours) is not None:
        assert "tokenizer.chat_template" not in theirs.metadata
        return

    def seen(prompt, **_):
        raise _Seen(prompt)

    monkeypatch.setattr(theirs, "create_completion", seen)
    said = [("system", "be brief"), ("user", "the time?"), ("assistant", "now"), ("user", "中文 42")]
    with pytest.raises(_Seen) as caught:
        theirs.create_chat_completion([{"role": role, "content": text} for role, text in said])
    [prompt] = caught.value.args
    assert tuple(prompt) == chat.encode(chat.load(run, ours), [chat.Message(role=role, content=text) for role, text in said])


class _Seen(Exception):
    """Ends a completion before it begins."""
