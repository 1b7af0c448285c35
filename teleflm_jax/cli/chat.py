"""`chat`: a conversation with a trained model, in the terminal or through pipes."""

import argparse
import codecs
import contextlib
import dataclasses
import io
import itertools
import signal
import sys
from collections.abc import Callable, Iterator

from teleflm_jax import foreign
from teleflm_jax.cli import generate, options
from teleflm_jax.errors import UserError
from teleflm_jax.generate import chat, text
from teleflm_jax.generate.chat import Format, Message
from teleflm_jax.generate.engine import Engine
from teleflm_jax.generate.request import Request
from teleflm_jax.runs.load import choose_step, load_decoder, load_tokenizer

HELP = "talk with a trained model; it remembers what was said as far as its context reaches"
PROMPT = "> "
COMMANDS = {"/clear": "forget what was said", "/exit": "leave"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speaker:
    """The model's side."""

    engine: Engine
    format: Format
    request: Request
    """As every answer is asked for; the prompt and the number are the answer's own."""

    @property
    def room(self) -> int:
        """Tokens that a conversation may have."""
        return _room(self.engine.context_length, self.request.max_tokens)


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    options.add_arguments(parser)
    parser.epilog = f"example: {parser.prog} --workdir runs/quickstart --system 'Answer in one sentence.'"
    parser.add_argument("--step", type=int, help="of the checkpoint; default: the newest")
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    parser.add_argument("--template_kwargs", metavar="JSON", help="variables for the chat template, such as '{\"enable_thinking\": false}'")
    parser.add_argument("--max_tokens", type=int, default=512, help="of an answer (%(default)s)")
    generate.add_sampling(parser)


def main(args: argparse.Namespace) -> int:
    """Read lines and answer them until the input ends. Returns the exit code."""
    generate.refuse_no_tokens(args)
    choosing, variables = generate.sampling(args), _variables(args.template_kwargs)
    run, folder = options.load_trained(args)
    step = choose_step(folder, args.step)
    tokenizer = load_tokenizer(folder, run.model.vocab_size)
    format = chat.given(chat.load(folder, tokenizer), variables, name="--template_kwargs")
    # every answer has a prompt of its own
    request = Request(prompt=(0,), max_tokens=args.max_tokens, sampling=choosing, seed=args.seed, stop_ids=chat.stop_ids(format))
    request.refuse(context_length=run.model.context_length, vocab_size=run.model.vocab_size)
    before = () if args.system is None else (Message(role="system", content=args.system),)
    if before:
        room = _room(run.model.context_length, args.max_tokens)
        chat.fit(format, (*before, Message(role="user", content="")), room)  # a mistake in it before the weights, which may take minutes
    engine = Engine(load_decoder(folder, run, step), tokenizer, slots=1)
    talk(Speaker(engine=engine, format=format, request=request), before, here=sys.stdin.isatty())
    return 0


def _variables(text: str | None) -> object:
    try:
        return {} if text is None else foreign.parse_json(text)
    except ValueError as error:
        raise UserError(f"got --template_kwargs that is no JSON ({error}); allowed: a JSON object; change it") from error


def talk(speaker: Speaker, before: tuple[Message, ...], *, here: bool) -> None:
    """The conversation: each line of stdin is a message, answers go to stdout, all else to stderr.

    Args:
        speaker: who answers.
        before: what the history begins with.
        here: whether somebody sits at the terminal, to be prompted.
    """
    is_ascii = codecs.lookup(sys.stdin.encoding).name == "ascii"  # what was typed is more than that
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8" if is_ascii else sys.stdin.encoding, errors="replace")
    if here:
        _say("Ctrl-C stops an answer; " + "; ".join(f"{name}: {what}" for name, what in COMMANDS.items()))
    history, numbers = before, itertools.count()
    for line in _lines(here):
        if line == "/exit":
            return
        if line == "/clear":
            history = before
        elif line.startswith("/"):
            _say(f"error: got {line.split()[0]}; allowed: {', '.join(COMMANDS)}; begin a message with another character")
        elif line.strip():
            try:
                history = _turn(speaker, (*history, Message(role="user", content=line)), next(numbers))
            except UserError as error:
                _say(f"error: {error}")


def _room(context: int, max_tokens: int) -> int:
    """What leaves an answer its `max_tokens`, or half of the context."""
    return max(1, context - min(max_tokens, context // 2))


def _turn(speaker: Speaker, history: tuple[Message, ...], number: int) -> tuple[Message, ...]:
    """Answer the last message; returns the history with the answer, as far as it was written."""
    kept, left_out = chat.fit(speaker.format, history, speaker.room)
    if left_out:
        _say(f"the context is full: the oldest {left_out} turn(s) are forgotten")
    request = dataclasses.replace(speaker.request, prompt=chat.encode(speaker.format, kept), number=number)
    parts = []
    with _interruptible() as stopped:
        for part in _answer(speaker.engine, request, stopped):
            print(text.printable(part), end="", flush=True)
            parts.append(part)
    print(flush=True)
    return (*kept, Message(role="assistant", content="".join(parts)))


def _answer(engine: Engine, request: Request, stopped: Callable[[], bool]) -> Iterator[str]:
    ticket = engine.add(request)
    try:
        while not engine.idle and not stopped():
            yield from (piece.text for piece in engine.step().values())
    finally:
        engine.drop(ticket)


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C into a question, so that it never falls into the middle of a step."""
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def _lines(here: bool) -> Iterator[str]:
    """What is said, without the ends of lines, until the input ends."""
    if not here:
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # gives `input` a line editor
    while True:
        try:
            yield input(PROMPT)
        except KeyboardInterrupt:
            _say("\n/exit or Ctrl-D leaves")
        except EOFError:
            print()
            return


def _say(line: str) -> None:
    print(text.printable(line), file=sys.stderr, flush=True)
