"""Compare scoring and decoding with transformers on the same CPU: same weights, same texts, float32, alternating in one run.

    python benchmarks/inference.py [--shape tiny|small|medium] [--rounds 3]

Prints JSON: tokens/s of both sides and their ratio (medians), and the results of both, which must agree:

- bits per byte: ten modules of Python's library, at most 6,000 characters of each; ours `bpb.measure`, theirs lm-evaluation-harness's
  rolling log-likelihood.
- log-likelihood: four endings for each of 50 contexts, alternately one and several tokens long; and one ending for each of 100 contexts.
  Tokens are those of the requests: a context counts once for every ending, however often a side reads it.
- decoding: greedy, 1 and 16 prompts, 64 tokens in and 128 out.

Each side is measured at several batch sizes, and its fastest counts.
"""

import argparse
import functools
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping

import beside
import jax
import lm_eval
import numpy as np
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax.evaluate import bpb, harness
from teleflm_jax.evaluate.model import Model
from teleflm_jax.generate import engine
from teleflm_jax.generate.request import Request
from teleflm_jax.generate.sampling import GREEDY
from teleflm_jax.runs import evaluate
from teleflm_jax.runs.load import load_decoder, load_model

SHAPES = {"tiny": beside.TINY, "small": beside.SMALL, "medium": beside.MEDIUM}
BATCH_SIZES = (1, 8)
CHARACTERS = 6_000
"""Characters of each module of the library."""
WORDS = 60
"""Words of a context; an ending has 1 or 6."""


def in_turn(sides: Mapping[str, Callable[[], object]], rounds: int) -> tuple[dict[str, float], dict[str, object]]:
    """Return the median seconds and the result of each side; the first round warms up."""
    seconds, found = {name: [] for name in sides}, {}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            began = time.perf_counter()
            found[name] = side()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(taken) for name, taken in seconds.items()}, found


def row(seconds: Mapping[str, float], tokens: int, **more: object) -> dict:
    """Return tokens/s of each side at its fastest batch size."""
    ours, theirs = (min((one for one in seconds if one.startswith("ours") == own), key=lambda one: seconds[one]) for own in (True, False))
    speeds = {f"{name} tokens/s": round(tokens / seconds[name]) for name in (ours, theirs)}
    return speeds | {"ratio": round(seconds[theirs] / seconds[ours], 2)} | more


def apart(ours: list[float], theirs: list[float]) -> float:
    """Return the largest relative difference."""
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def asked(kind: str, arguments: list[tuple]) -> list[Instance]:
    """Make requests of the harness."""
    return [Instance(request_type=kind, doc={}, arguments=each, idx=i) for i, each in enumerate(arguments)]


def scoring(folder: pathlib.Path, theirs: pathlib.Path, rounds: int) -> dict:
    """Compare bits per byte and log-likelihoods."""
    run, tokenizer = beside.opened(folder)
    peers = {
        f"harness, batches of {size}": HFLM(pretrained=str(theirs), device="cpu", dtype="float32", batch_size=size) for size in BATCH_SIZES
    }
    found = {}

    documents = [text[:CHARACTERS] for text in beside.texts(10)]
    held_out = [evaluate.encode(tokenizer, text) for text in documents]
    layout = rules.layout(MeshConfig(), run.model.d_model)
    model = layout.to_runtime(load_model(folder, run, 0, layout.stored))
    rolling = asked("loglikelihood_rolling", [(text,) for text in documents])
    measure = lambda size: -bpb.measure(model, {"all": held_out}, batch_size=size, layout=layout, bos=1)["all"].nats  # noqa: E731
    own = {f"ours, batches of {size}": functools.partial(measure, size) for size in BATCH_SIZES}
    sides = {name: lambda lm=lm: sum(lm.loglikelihood_rolling(rolling, disable_tqdm=True)) for name, lm in peers.items()}
    seconds, sums = in_turn(own | sides, rounds)
    ours, *others = sums.values()
    tokens = sum(len(one.tokens) for one in held_out)
    found["bits per byte"] = row(seconds, tokens, apart=apart([ours] * len(others), others))

    asking = Model(name="ours", decoder=load_decoder(folder, run, 0), tokenizer=tokenizer, batch_size=8, bos=False)
    everyone = {"ours": harness.Harness(asking)} | peers
    words = " ".join(beside.texts(40)).split()
    for name, endings, contexts in (("four endings of a context", 4, 50), ("one ending of a context", 1, 100)):
        pairs = []
        for start in range(0, contexts * 100, 100):
            context = " ".join(words[start : start + WORDS])
            pairs += [(context, " " + " ".join(words[at : at + (1, 6)[at % 2]])) for at in range(start + 70, start + 70 + endings)]
        requests = asked("loglikelihood", pairs)
        sides = {side: lambda lm=lm, asked=requests: lm.loglikelihood(asked, disable_tqdm=True) for side, lm in everyone.items()}
        seconds, answers = in_turn(sides, rounds)
        ours, *others = [[nats for nats, _ in answer] for answer in answers.values()]
        tokens = sum(len(tokenizer.encode(a + b, add_special_tokens=False).ids) for a, b in pairs)
        found[name] = row(seconds, tokens, apart=max(apart(ours, theirs_) for theirs_ in others))
    return found


def decoding(folder: pathlib.Path, theirs: pathlib.Path, rounds: int, *, prompt: int = 64, new: int = 128) -> dict:
    """Compare greedy continuations of 1 and of 16 prompts."""
    run, tokenizer = beside.opened(folder)
    decoder = load_decoder(folder, run, 0)
    model = transformers.AutoModelForCausalLM.from_pretrained(theirs, dtype=torch.float32).eval()
    found = {}
    for count in (1, 16):
        ids = np.random.default_rng(0).integers(300, tokenizer.get_vocab_size(), (count, prompt))
        requests = [Request(prompt=tuple(row.tolist()), max_tokens=new, sampling=GREEDY) for row in ids]
        running = engine.Engine(decoder, tokenizer, slots=count)

        def ours(running=running, requests=requests):
            return [[token.id for token in piece.tokens] for piece in engine.run(running, requests)]

        @torch.inference_mode()
        def generate(ids=ids):
            given = torch.tensor(ids)
            mask = torch.ones_like(given)
            made = model.generate(given, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False)
            return made[:, prompt:].tolist()

        seconds, made = in_turn({"ours": ours, "transformers": generate}, rounds)
        equal = statistics.mean(a == b for a, b in zip(made["ours"], made["transformers"], strict=True))
        found[f"decoding, {count} at a time"] = row(seconds, count * new, equal_texts=equal)
    return found


def main() -> None:
    """Print the comparison of every shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, action="append", help="repeatable; default: tiny and small")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each side, alternating")
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    versions = {module.__name__: module.__version__ for module in (jax, torch, transformers, lm_eval)}
    print(json.dumps({"versions": versions, "threads": torch.get_num_threads(), "load": os.getloadavg()[0]}), flush=True)
    for name in args.shape or ("tiny", "small"):
        with tempfile.TemporaryDirectory() as root:
            ours, theirs = reversed(beside.folders(SHAPES[name], pathlib.Path(root)))
            found = scoring(ours, theirs, args.rounds) | decoding(ours, theirs, args.rounds)
        print(json.dumps({beside.describe(SHAPES[name]): found}, indent=1), flush=True)


if __name__ == "__main__":
    main()
