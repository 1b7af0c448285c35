"""Inputs of the comparisons with transformers' Llama: shapes, the same weights on both sides, and text that every machine has."""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import sys

import tokenizers

from teleflm_jax import mup
from teleflm_jax.cli import main as commands
from teleflm_jax.cli import options
from teleflm_jax.huggingface.config import LLAMA, exported
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.runs.config import RunConfig, saved_config
from teleflm_jax.runs.load import load_tokenizer
from teleflm_jax.tokenizer import train

os.environ.setdefault("TQDM_DISABLE", "1")
try:
    import lm_eval  # noqa: F401  (importers of this module measure it)
    import torch
    import transformers
except ImportError:
    sys.exit("error: got no PyTorch; allowed: Python 3.11 with requirements-parity.txt; in a fresh clone: make PYTHON=python3.11 setup-dev")

TINY = ModelConfig(
    num_layers=4,
    d_model=256,
    num_heads=4,
    num_kv_heads=4,
    d_ff=640,
    vocab_size=8192,
    context_length=512,
    compute_dtype="float32",
    loss_chunk_tokens=64,
)
SMALL = dataclasses.replace(TINY, num_layers=8, d_model=512, num_heads=8, num_kv_heads=8, d_ff=1344, vocab_size=16_000)
MEDIUM = dataclasses.replace(SMALL, num_layers=16, d_model=1024, num_heads=16, num_kv_heads=16, d_ff=2816, vocab_size=32_000)


def describe(shape: ModelConfig) -> str:
    """Describe a shape in words."""
    return f"{shape.num_layers} layers, width {shape.d_model}, vocabulary {shape.vocab_size:,}"


def llama(shape: ModelConfig) -> transformers.LlamaForCausalLM:
    """Return transformers' Llama of that shape with random weights, float32."""
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    said = exported(shape, mup.MupConfig(), LLAMA, "float32", ids)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(said, attn_implementation="sdpa")).eval()


def texts(count: int) -> list[str]:
    """Return modules of Python's own library, in order of name."""
    files = sorted(pathlib.Path(os.__file__).parent.glob("*.py"))
    return [file.read_text(encoding="utf-8") for file in itertools.islice(files, count)]


def folders(shape: ModelConfig, root: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Make one model twice, with one tokenizer: a folder as transformers saves it, and a run's folder that `import` made from it."""
    theirs, ours = root / "theirs", root / "ours"
    torch.manual_seed(0)
    llama(shape).save_pretrained(theirs)
    (theirs / "tokenizer.json").write_text(train.train(iter(texts(200)), shape.vocab_size), encoding="utf-8")
    command("import", "--from", theirs, "--workdir", ours)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(ours / "tokenizer.json"), bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.save_pretrained(theirs)
    return theirs, ours


def command(*arguments: object) -> None:
    """Run a command of `python -m teleflm_jax`, or exit with its exit code; its output goes to stderr, apart from the figures."""
    with contextlib.redirect_stdout(sys.stderr):
        code = options.run_command(lambda: commands.main([*map(str, arguments)]))
    if code:
        sys.exit(code)


def opened(folder: pathlib.Path) -> tuple[RunConfig, tokenizers.Tokenizer]:
    """Return the configuration and the tokenizer of a run's folder."""
    run = saved_config(folder)
    return run, load_tokenizer(folder, run.model.vocab_size)
