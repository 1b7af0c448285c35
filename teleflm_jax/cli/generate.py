"""`generate`: continue prompts with a trained model."""

import argparse
import json
import pathlib
import signal
from collections.abc import Sequence

from teleflm_jax.cli import options
from teleflm_jax.errors import UserError
from teleflm_jax.generate import engine, text
from teleflm_jax.generate.request import Request, TextDelta, number_choices
from teleflm_jax.generate.sampling import Sampling
from teleflm_jax.runs.load import choose_step, load_decoder, load_tokenizer
from teleflm_jax.tokenizer import specials

INTERRUPTED = 128 + signal.SIGINT
"""Exit code, as a shell reports it."""

HELP = "continue prompts with a trained model; one prompt streams to the terminal"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_arguments(parser)
    parser.epilog = f"example: {parser.prog} --workdir runs/quickstart --prompt 'Once upon a time'"
    parser.add_argument("--step", type=int, help="step of the checkpoint; default: the newest")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="text to continue; repeatable")
    parser.add_argument(
        "--prompt_file",
        action="append",
        default=[],
        type=options.path,
        metavar="FILE",
        help="a UTF-8 file that is one prompt; repeatable",
    )
    parser.add_argument("--max_tokens", type=int, default=128, help="new tokens per prompt (%(default)s)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end the text before this; repeatable")
    parser.add_argument("--slots", type=int, default=16, help="prompts that are decoded at one time (%(default)s)")
    parser.add_argument(
        "--logprobs", type=int, help="with --json: log-probabilities, and this many of the likeliest tokens at each position"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    add_sampling_arguments(parser)


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sampling options."""
    parser.add_argument("--temperature", type=float, default=Sampling.temperature, help="0: always the likeliest token (%(default)s)")
    parser.add_argument("--top_k", type=int, default=Sampling.top_k, help="choose from this many likeliest tokens; 0: all (%(default)s)")
    parser.add_argument(
        "--top_p", type=float, default=Sampling.top_p, help="choose from the likeliest tokens with this total probability (%(default)s)"
    )
    parser.add_argument(
        "--min_p",
        type=float,
        default=Sampling.min_p,
        help="choose from tokens with at least this share of the likeliest token's probability (%(default)s)",
    )
    parser.add_argument("--repetition_penalty", type=float, default=Sampling.repetition_penalty, help="1: none (%(default)s)")
    for name, subject in (("presence", "tokens of the new text"), ("frequency", "them for each occurrence")):
        parser.add_argument(
            f"--{name}_penalty",
            type=float,
            default=0.0,
            help=f"subtract this, -2 to 2, from the logits of {subject}; 0: none (%(default)s)",
        )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text (%(default)s)")


def check_max_tokens(args: argparse.Namespace) -> None:
    """Raise a `UserError` if no new token is requested."""
    if args.max_tokens < 1:
        raise UserError(f"got max_tokens {args.max_tokens}; allowed: 1 or more; change --max_tokens")


def sampling(args: argparse.Namespace) -> Sampling:
    """Return the settings of `add_sampling_arguments`'s options; raise a `UserError` for numbers out of range."""
    return Sampling(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        presence_penalty=args.presence_penalty,
        frequency_penalty=args.frequency_penalty,
    )


def main(args: argparse.Namespace) -> int:
    """Continue the prompts, and return the exit code; one prompt streams, several are printed in turn."""
    settings = sampling(args)
    prompts = [_argument(prompt) for prompt in args.prompt] + [_file(path) for path in args.prompt_file]
    if not prompts:
        raise UserError("got no prompt; allowed: one or more; add --prompt TEXT")
    if args.logprobs is not None and not args.json:
        raise UserError("got --logprobs without --json; allowed: both, since plain text cannot show them; add --json or remove --logprobs")
    check_max_tokens(args)
    if args.slots < 1:
        raise UserError(f"got --slots {args.slots}; allowed: 1 or more; change --slots")
    run, folder = options.load_trained(args)
    step = choose_step(folder, args.step)
    tokenizer = load_tokenizer(folder, run.model.vocab_size)
    requests = number_choices(
        Request(
            prompt=tuple(specials.prompt(tokenizer, prompt)),
            max_tokens=args.max_tokens,
            sampling=settings,
            seed=args.seed,
            stop=tuple(args.stop),
            stop_ids=specials.of(tokenizer).ends,
            logprobs=args.logprobs,
        )
        for prompt in prompts
    )
    for request in requests:  # before the weights are loaded, which may take minutes
        request.validate(context_length=run.model.context_length, vocab_size=run.model.vocab_size)
    loaded = engine.Engine(load_decoder(folder, run, step), tokenizer, slots=args.slots)
    if len(prompts) == 1 and not args.json:
        return _print_stream(prompts[0], loaded, requests[0])
    pieces = engine.run(loaded, requests)
    if args.json:
        print(json.dumps({"step": step, "completions": [_description(*both) for both in zip(prompts, pieces, strict=True)]}))
        return 0
    for prompt, piece in zip(prompts, pieces, strict=True):
        print(text.printable(prompt + piece.text), end="\n\n")
    return 0


def _print_stream(prompt: str, loaded: engine.Engine, request: Request) -> int:
    print(text.printable(prompt), end="", flush=True)
    loaded.add(request)
    try:
        while not loaded.idle:
            for piece in loaded.step().values():
                print(text.printable(piece.text), end="", flush=True)
    except KeyboardInterrupt:  # the user stops the text
        return INTERRUPTED
    finally:
        print()
    return 0


def _description(prompt: str, piece: TextDelta) -> dict:
    fields = {"prompt": prompt, "text": piece.text, "tokens": len(piece.tokens), "finish": piece.finish_reason}
    return fields | ({"logprobs": _logprobs(piece.tokens)} if piece.tokens[0].logprob is not None else {})


def _logprobs(tokens: Sequence) -> list[dict]:
    return [{"id": token.id, "logprob": token.logprob, "alternatives": dict(token.alternatives)} for token in tokens]


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
