"""Conversations to token ids by a model's own template, in which what people wrote never yields a special id.

A template is a program that came with the weights: it runs in jinja's sandbox, with bounds on its steps and on what it writes. The memory
of a single operation is not bounded, products and powers apart.
"""

import dataclasses
import datetime
import json
import operator
import pathlib
import re
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence

import jinja2
import jinja2.ext
import jinja2.sandbox
import tokenizers

from teleflm_jax.errors import UserError
from teleflm_jax.generate.request import MAX_STOP_IDS
from teleflm_jax.tokenizer import specials

TEMPLATE = "chat_template.jinja"
"""In the folder of a run whose model came with one."""
OURS = pathlib.Path(__file__).parents[1] / "tokenizer" / TEMPLATE
"""Where the tokenizer is ours: `<s>`, then turns of `<_user>Q<_bot>A</s><_end>`, after an optional `<_system>`. Source: TeleChat's."""
ROLES = ("system", "user", "assistant")
MAX_CHARACTERS = 8 << 20
"""That a template may write."""
MAX_STEPS = 2_000_000
"""Lines of Python that a template may run: some seconds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Message:
    """What one side said."""

    role: str
    """One of ROLES."""
    content: str
    name: str | None = None
    """Of who said it; None: the template gets no name."""


PROBE = (Message(role="user", content="question"), Message(role="assistant", content="answer"))
"""What every template must be able to write."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """How a model's conversations are written; from `load`."""

    source: str
    """The template as it was written."""
    template: jinja2.Template
    plain: tokenizers.Tokenizer
    """Takes the text of a special token as the text it is."""
    parsing: tokenizers.Tokenizer
    """Takes it as the token."""
    specials: Mapping[str, int]
    """Text of a special token -> id."""
    names: Mapping[str, str]
    """`bos_token` and the like, for the template."""
    ends: tuple[int, ...]
    """Ids that end a text."""

    @property
    def pattern(self) -> re.Pattern:
        """Finds special tokens in a text, the longest at each place."""
        return re.compile("|".join(map(re.escape, sorted(self.specials, key=len, reverse=True))) or "(?!)")

    def ids(self, text: str) -> list[int]:
        """Of the special tokens in a text."""
        return [self.specials[found[0]] for found in self.pattern.finditer(text)]


def load(folder: pathlib.Path, tokenizer: tokenizers.Tokenizer) -> Format:
    """The format of the model in a run's folder: its `chat_template.jinja`, else ours where the tokenizer is ours.

    Args:
        folder: the run's.
        tokenizer: takes special tokens in texts as the texts they are.

    Raises:
        UserError: there is none, or it is no template that can write a question and an answer.
    """
    path = folder / TEMPLATE
    special = {token.content: index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    if not path.exists():
        if not {"<_user>", "<_bot>", "<_end>", "<_system>"} <= special.keys():
            raise UserError(
                f"got {folder} without {TEMPLATE}; allowed: a model that came with one, or with our tokenizer; put its {TEMPLATE} there"
            )
        path = OURS
    try:
        source = path.read_text(encoding="utf-8")
        template = _environment().from_string(source)
    except (jinja2.TemplateError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"got {path}, which is no template ({error}); allowed: a Jinja chat template; put the model's own there") from error
    ids = specials.of(tokenizer)
    found = Format(
        source=source,
        template=template,
        plain=tokenizer,
        parsing=tokenizers.Tokenizer.from_str(tokenizer.to_str()),
        specials=special,
        names=ids.names(tokenizer),
        ends=ids.ends,
    )
    if "question" not in write(found, PROBE[:1]) or "answer" not in write(found, PROBE, answer=False):
        raise UserError(f"got {path}, which leaves out what it is given; allowed: a Jinja chat template; put the model's own there")
    return found


def encode(format: Format, messages: Sequence[Message], *, check: Callable[[str], None] | None = None) -> tuple[int, ...]:
    """A conversation as the ids after which the model's answer comes: those of the template's text, and no `<s>` that it does not write.

    Args:
        format: the model's.
        messages: the conversation.
        check: called with the template's text, before it takes time to encode; may raise.

    Raises:
        UserError: the template refuses it, or it would turn what a message says into a special token.
    """
    if not messages:
        raise UserError("got no message; allowed: one or more; add one")
    for message in messages:
        _refuse(message)
    return tuple(_encode(format, messages, check))


def stop_ids(format: Format) -> tuple[int, ...]:
    """Ids that end an answer: of the end of a text, and of whatever special token the template writes between turns."""
    return tuple(dict.fromkeys((*format.ends, *format.ids(write(format, PROBE, answer=False)))))[:MAX_STOP_IDS]


def fit(format: Format, messages: Sequence[Message], room: int) -> tuple[tuple[Message, ...], int]:
    """Leave out the oldest turns until the conversation has at most `room` tokens; system messages and the last one stay.

    Returns:
        What is left, and the number of turns left out: a user's message and all up to the next one.

    Raises:
        UserError: the last message alone has more.
    """
    kept, left_out = list(messages), 0
    while (length := len(encode(format, kept))) > room:
        places = [place for place, message in enumerate(kept) if message.role == "user"]
        if len(places) < 2:
            raise UserError(f"got a message with which a conversation has {length:,} tokens; allowed: at most {room:,}; shorten it")
        kept[places[0] : places[1]] = [message for message in kept[places[0] : places[1]] if message.role == "system"]
        left_out += 1
    return tuple(kept), left_out


def _encode(format: Format, messages: Sequence[Message], check: Callable[[str], None] | None) -> list[int]:
    text = write(format, messages)
    if check is not None:
        check(text)
    mark = f"message{secrets.token_hex(16)}x"
    marked = write(format, [_marked(message, f"{mark}{number}") for number, message in enumerate(messages)])
    pieces = re.split(f"({mark}[0-9]+[cn])x", marked)
    said = {f"{mark}{number}c": message.content for number, message in enumerate(messages)}
    said |= {f"{mark}{number}n": message.name for number, message in enumerate(messages) if message.name is not None}
    parts, order = pieces[::2], pieces[1::2]
    for change in (str, str.strip):  # templates often strip what they are given
        contents = [change(said[place]) for place in order]
        if text == "".join(a + b for a, b in zip(parts, [*contents, ""], strict=True)):
            return _encode_parts(format, text, parts, contents)
    if any(map(format.pattern.search, said.values())) or format.ids(text) != format.ids(marked):
        raise UserError(
            "got a message with the text of a special token, which the model's template changes before it writes it; "
            "allowed: messages without such text; change the message"
        )
    return specials.ids(format.parsing, text)


def _marked(message: Message, mark: str) -> Message:
    """The message with marks in place of what people wrote."""
    return dataclasses.replace(message, content=f"{mark}cx", name=None if message.name is None else f"{mark}nx")


def _encode_parts(format: Format, text: str, parts: Sequence[str], contents: Sequence[str]) -> list[int]:
    """A text made of a template's parts and, between them, contents; special tokens are those that lie in the parts."""
    if format.ids(text) == [index for part in parts for index in format.ids(part)]:
        return specials.ids(format.parsing, text)
    ids, run = [], ""
    for part, content in zip(parts, [*contents, ""], strict=True):
        start = 0
        for found in format.pattern.finditer(part):
            ids += specials.ids(format.plain, run + part[start : found.start()])
            ids.append(format.specials[found[0]])
            run, start = "", found.end()
        run += part[start:] + content
    return ids + specials.ids(format.plain, run)


def _refuse(message: Message) -> None:
    if message.role not in ROLES:
        raise UserError(f"got a message of {message.role!r}; allowed: {', '.join(ROLES)}; change its role")
    try:
        f"{message.content}{message.name}".encode()
    except UnicodeEncodeError as error:
        raise UserError("got a message with a lone surrogate; allowed: Unicode text; change the message") from error


class _TooMuch(Exception):
    """A template went on and on."""


def write(format: Format, messages: Sequence[Message], *, answer: bool = True) -> str:
    """The template's text, or a `UserError`; with `answer`, up to where the model's answer begins."""
    variables = {
        "messages": [{key: said for key, said in dataclasses.asdict(message).items() if said is not None} for message in messages],
        "add_generation_prompt": answer,
        "strftime_now": datetime.datetime.now().strftime,
        "tools": None,
        "documents": None,
        **format.names,
    }
    try:
        return _bounded(lambda: format.template.generate(variables))
    except UserError:
        raise
    except Exception as error:  # whatever a template's expressions may raise
        raise UserError(
            f"got a conversation that the model's template does not write ({type(error).__name__}: {error}); "
            "allowed: what it was made for, most often turns of user and assistant; change the messages"
        ) from error


def _bounded(generate: Callable) -> str:
    """Join what a template writes; raises `_TooMuch` after MAX_STEPS lines or MAX_CHARACTERS."""
    steps = 0

    def count(*_):
        nonlocal steps
        steps += 1
        if steps > MAX_STEPS:
            raise _TooMuch(f"more than {MAX_STEPS:,} steps")
        return count

    parts, size, before = [], 0, sys.gettrace()
    sys.settrace(count)  # of this thread: the one way to stop a loop that writes nothing
    try:
        for part in generate():
            parts.append(part)
            size += len(part)
            if size > MAX_CHARACTERS:
                raise _TooMuch(f"more than {MAX_CHARACTERS:,} characters")
    finally:
        sys.settrace(before)
    return "".join(parts)


def _environment() -> jinja2.Environment:
    """As templates of this kind expect it (source: transformers' documentation of chat templates)."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
    )
    environment.globals["raise_exception"] = _raise
    environment.filters["tojson"] = _to_json
    environment.intercepted_binops = frozenset({"*", "**"})
    environment.binop_table.update({"*": _small(operator.mul), "**": _small(operator.pow)})
    return environment


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _small(operation: Callable) -> Callable:
    """A product of two numbers below a million or so; of text it could fill the memory."""

    def bounded(a, b):
        if not all(isinstance(x, int | float) and abs(x) <= 1e6 for x in (a, b)) or (operation is operator.pow and abs(b) > 64):
            raise _TooMuch("a product or power that is too large")
        return operation(a, b)

    return bounded


def _raise(message: str) -> None:
    raise UserError(f"got a conversation that the model's template refuses ({message}); allowed: what it was made for; change the messages")


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`, which marks answers for training; here it is what stands in it."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
