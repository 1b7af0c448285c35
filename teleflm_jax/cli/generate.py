"""`generate`: continue prompts with a trained model."""

import argparse
import json
import pathlib
import signal
import sys
from collections.abc import Iterable, Iterator

import jax
import tokenizers

from teleflm_jax.cli import options, run_folder
from teleflm_jax.errors import UserError
from teleflm_jax.generate import decode, text
from teleflm_jax.generate.sampling import Sampling
from teleflm_jax.tokenizer import specials
from teleflm_jax.tokenizer.pieces import piece_bytes

INTERRUPTED = 128 + signal.SIGINT
"""Exit code, as a shell reports it."""

HELP = "continue prompts with a trained model; the text streams to the terminal"


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    options.add_arguments(parser)
    parser.epilog = f"example: {parser.prog} --workdir runs/quickstart --prompt 'Once upon a time'"
    parser.add_argument("--step", type=int, help="of the checkpoint; default: the newest")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="text to continue; repeatable")
    parser.add_argument("--prompt_file", action="append", default=[], metavar="FILE", help="a UTF-8 file, all of it one prompt; repeatable")
    parser.add_argument("--max_tokens", type=int, default=128, help="new tokens per prompt (%(default)s)")
    parser.add_argument("--temperature", type=float, default=Sampling.temperature, help="0: always the likeliest token (%(default)s)")
    parser.add_argument("--top_k", type=int, default=Sampling.top_k, help="choose from so many likeliest tokens; 0: all (%(default)s)")
    parser.add_argument(
        "--top_p", type=float, default=Sampling.top_p, help="choose from the likeliest tokens of this probability (%(default)s)"
    )
    parser.add_argument("--repetition_penalty", type=float, default=Sampling.repetition_penalty, help="1: none (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object when all is done")


def main(args: argparse.Namespace) -> int:
    """Continue the prompts; one streams, several are printed in turn. Returns the exit code."""
    settings = {
        "sampling": Sampling(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p, repetition_penalty=args.repetition_penalty),
        "max_tokens": args.max_tokens,
        "seed": args.seed,
    }
    prompts = [_argument(prompt) for prompt in args.prompt] + [_file(path) for path in args.prompt_file]
    run = options.load(args, optional=("data", "train"))
    folder = options.workdir(args)
    step = run_folder.choose_step(folder, args.step)
    tokenizer = run_folder.load_tokenizer(folder, run.model.vocab_size)
    texts = [encode(tokenizer, prompt) for prompt in prompts]
    decode.check(run.model.context_length, texts, args.max_tokens, args.seed)  # before the weights, which may take minutes
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    place = lambda model: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), model)  # noqa: E731
    model = run_folder.load_model(folder, run, step, place)
    stop = specials.of(tokenizer).eos
    chunks = decode.stream(model, texts, stop=stop, **settings)
    sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows what it can
    if len(prompts) == 1 and not args.json:
        return _print_stream(prompts[0], (row for (row,) in chunks), piece_bytes(tokenizer))
    completions = _complete(prompts, chunks, piece_bytes(tokenizer), stop)
    if args.json:
        print(json.dumps({"step": step, "completions": completions}))
        return 0
    for completion in completions:
        print(text.printable(completion["prompt"] + completion["text"]), end="\n\n")
    return 0


def encode(tokenizer: tokenizers.Tokenizer, prompt: str) -> list[int]:
    """A prompt as the model saw the beginning of a document: `<s>`, then the text, which never yields a special id."""
    return [specials.of(tokenizer).bos, *tokenizer.encode(prompt, add_special_tokens=False).ids]


def _print_stream(prompt: str, chunks: Iterable[list[int]], pieces: list[bytes]) -> int:
    print(text.printable(prompt), end="", flush=True)
    try:
        for new in text.decode(chunks, pieces):
            print(text.printable(new), end="", flush=True)
    except KeyboardInterrupt:  # the reader has seen enough
        return INTERRUPTED
    finally:
        print()
    return 0


def _complete(prompts: list[str], chunks: Iterator[list[list[int]]], pieces: list[bytes], stop: int) -> list[dict]:
    rows = [[] for _ in prompts]
    for new in chunks:
        for row, ids in zip(rows, new, strict=True):
            row += ids
    return [
        {
            "prompt": prompt,
            "text": "".join(text.decode([row], pieces)),
            "tokens": len(row),
            "finish": "stop" if row[-1] == stop else "length",
        }
        for prompt, row in zip(prompts, rows, strict=True)
    ]


def _argument(prompt: str) -> str:
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UserError("got a --prompt that is not UTF-8; allowed: Unicode text; change the terminal's encoding or the prompt") from error
    return prompt


def _file(path: str) -> str:
    try:
        return pathlib.Path(path).read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"got {path}, which is not UTF-8 (byte {error.start:,}); allowed: UTF-8 text; change --prompt_file") from error
