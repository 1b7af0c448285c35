"""Benchmark items and a model to ask, for tests of the suite: small, made up here, and read from files as a user's are."""

import json
import pathlib

from sharding import decoding
from teleflm_jax.evaluate.model import Model
from teleflm_jax.generate import decoder
from teleflm_jax.tokenizer import load, train
from tests import tiny

VOCABULARY, CONTEXT = 400, 64
WORDS = ("time", "house", "page", "river", "stone", "light", "paper", "garden")
TASKS = {
    "choice": """
dataset_path: ours/choice
output_type: multiple_choice
validation_split: val
fewshot_split: train
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
    "ending": """
dataset_path: ours/choice
output_type: loglikelihood
validation_split: val
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
""",
    "whole": """
dataset_path: ours/text
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
""",
    "write": """
dataset_path: ours/choice
output_type: generate_until
validation_split: val
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: [" the", "\\n"], max_gen_toks: 12, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
}
"""One of each type of request."""


def sentence(number: int, words: int) -> str:
    """Words in an order that the number decides."""
    return " ".join(WORDS[(number * (i + 3) + i * i) % len(WORDS)] for i in range(words))


def write(folder: pathlib.Path) -> pathlib.Path:
    """The tasks' files in FOLDER/tasks and their data in FOLDER/data; returns FOLDER."""
    for name, text in TASKS.items():
        put(folder / "tasks" / f"{name}.yaml", f"task: {name}\n{text.strip()}\n")
    items = [{"question": sentence(i, 4), "choices": [sentence(i + k, 2) for k in range(4)], "answer": i % 3} for i in range(12)]
    put(folder / "data/ours/choice/val.jsonl", "".join(json.dumps(item) + "\n" for item in items[:8]))
    put(folder / "data/ours/choice/train.jsonl", "".join(json.dumps(item) + "\n" for item in items[8:]))
    texts = [{"text": sentence(i, 10 * i)} for i in range(1, 5)]
    put(folder / "data/ours/text/test.json", json.dumps(texts))
    return folder


def put(path: pathlib.Path, text: str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def tokenizer(folder: pathlib.Path):
    """One trained on the same words, in FOLDER/tokenizer.json."""
    put(folder / "tokenizer.json", train.train(iter([sentence(i, 9) + " 你好" for i in range(40)]), VOCABULARY))
    return load.load(folder / "tokenizer.json")


def model(folder: pathlib.Path, **settings) -> Model:
    """Random weights, ready to be asked."""
    shape = tiny.config(vocab_size=VOCABULARY, context_length=CONTEXT)
    laid_out = decoder.decoder(tiny.model(shape), decoding.layout(shape.d_model, shape.num_kv_heads))
    return Model(name="tiny", decoder=laid_out, tokenizer=tokenizer(folder), **settings)
