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
from teleflm_jax.generate.chat import ChatFormat, Message
from teleflm_jax.generate.engine import Engine
from teleflm_jax.generate.request import Request
from teleflm_jax.runs.load import choose_step, load_decoder, load_tokenizer

HELP = "chat with a trained model, which reads the conversation as far back as its context allows"
PROMPT = "> "
COMMANDS = {"/clear": "forget the conversation", "/exit": "leave"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assistant:
    """The model's side of a conversation."""

    engine: Engine
    format: ChatFormat
    request: Request
    """Settings of every answer; each has its own prompt and choice."""

    @property
    def max_conversation(self) -> int:
        """Most tokens of a conversation."""
        return _max_conversation(self.engine.context_length, self.request.max_tokens)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_arguments(parser)
    parser.epilog = f"example: {parser.prog} --workdir runs/quickstart --system 'Answer in one sentence.'"
    parser.add_argument("--step", type=int, help="step of the checkpoint; default: the newest")
    parser.add_argument("--system", metavar="TEXT", help="system message before the conversation")
    parser.add_argument("--template_kwargs", metavar="JSON", help="variables for the chat template, such as '{\"enable_thinking\": false}'")
    parser.add_argument("--max_tokens", type=int, default=512, help="maximum tokens of an answer (%(default)s)")
    generate.add_sampling_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Read lines and answer them until the input ends; return the exit code."""
    generate.check_max_tokens(args)
    settings, variables = generate.sampling(args), _variables(args.template_kwargs)
    run, folder = options.load_trained(args)
    step = choose_step(folder, args.step)
    tokenizer = load_tokenizer(folder, run.model.vocab_size)
    format = chat.with_variables(chat.load(folder, tokenizer), variables, name="--template_kwargs")
    # every answer gets its own prompt
    request = Request(prompt=(0,), max_tokens=args.max_tokens, sampling=settings, seed=args.seed, stop_ids=chat.stop_ids(format))
    request.validate(context_length=run.model.context_length, vocab_size=run.model.vocab_size)
    before = () if args.system is None else (Message(role="system", content=args.system),)
    if before:
        limit = _max_conversation(run.model.context_length, args.max_tokens)
        # refuses a wrong system message before the weights are loaded, which may take minutes
        chat.fit(format, (*before, Message(role="user", content="")), limit)
    engine = Engine(load_decoder(folder, run, step), tokenizer, slots=1)
    talk(Assistant(engine=engine, format=format, request=request), before, interactive=sys.stdin.isatty())
    return 0


def _variables(text: str | None) -> object:
    try:
        return {} if text is None else foreign.parse_json(text)
    except ValueError as error:
        raise UserError(f"got --template_kwargs that is no JSON ({error}); allowed: a JSON object; change it") from error


def talk(assistant: Assistant, before: tuple[Message, ...], *, interactive: bool) -> None:
    """Answer each line of stdin on stdout; everything else goes to stderr.

    Args:
        assistant: the model.
        before: messages before the conversation.
        interactive: whether stdin is a terminal, so that a prompt is shown.
    """
    is_ascii = codecs.lookup(sys.stdin.encoding).name == "ascii"  # typed text may not be ASCII
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8" if is_ascii else sys.stdin.encoding, errors="replace")
    if interactive:
        _log("Ctrl-C stops an answer; " + "; ".join(f"{name}: {action}" for name, action in COMMANDS.items()))
    history, numbers = before, itertools.count()
    for line in _lines(interactive):
        if line == "/exit":
            return
        if line == "/clear":
            history = before
        elif line.startswith("/"):
            _log(f"error: got {line.split()[0]}; allowed: {', '.join(COMMANDS)}; begin a message with another character")
        elif line.strip():
            try:
                history = _answer_turn(assistant, (*history, Message(role="user", content=line)), next(numbers))
            except UserError as error:
                _log(f"error: {error}")


def _max_conversation(context: int, max_tokens: int) -> int:
    """Return the tokens that leave an answer its `max_tokens`, or half of the context."""
    return max(1, context - min(max_tokens, context // 2))


def _answer_turn(assistant: Assistant, history: tuple[Message, ...], choice: int) -> tuple[Message, ...]:
    """Answer the last message, and return the history with the answer, even if it was interrupted."""
    kept, removed = chat.fit(assistant.format, history, assistant.max_conversation)
    if removed:
        _log(f"the context is full: the oldest {removed} turn(s) are forgotten")
    request = dataclasses.replace(assistant.request, prompt=chat.encode(assistant.format, kept), choice=choice)
    parts = []
    with _interruptible() as stopped:
        for part in _answer(assistant.engine, request, stopped):
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
    """Yield a function that says whether Ctrl-C was pressed, so that it never interrupts a step."""
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def _lines(interactive: bool) -> Iterator[str]:
    """Yield lines without their ends until the input ends."""
    if not interactive:
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # gives `input` a line editor
    while True:
        try:
            yield input(PROMPT)
        except KeyboardInterrupt:
            _log("\n/exit or Ctrl-D leaves")
        except EOFError:
            print()
            return


def _log(line: str) -> None:
    print(text.printable(line), file=sys.stderr, flush=True)
