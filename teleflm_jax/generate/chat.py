"""Conversations to token ids by a model's own template, in which what people wrote never yields a special id.

A template is a program that came with the weights: it runs in a process of its own, in bounds of time and memory (`template.py`).
"""

import dataclasses
import functools
import itertools
import json
import os
import pathlib
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tokenizers

from teleflm_jax import foreign
from teleflm_jax.errors import UserError
from teleflm_jax.generate.request import MAX_STOP_IDS
from teleflm_jax.generate.template import Failed, Refused, Template
from teleflm_jax.tokenizer import specials

TEMPLATE = "chat_template.jinja"
"""In the folder of a run whose model came with one."""
OURS = pathlib.Path(__file__).parents[1] / "tokenizer" / TEMPLATE
"""Where the tokenizer is ours: `<s>`, then turns of `<_user>Q<_bot>A</s><_end>`, after an optional `<_system>`. Source: TeleChat's."""
ROLES = ("system", "user", "assistant")
MAX_TEMPLATE_BYTES = 1 << 20
"""Largest file of a template; those of the models that we know have tens of kB at most."""
MAX_VARIABLES = 16_384
"""Characters of `given`'s variables as JSON."""
NAME = re.compile("[A-Za-z_][A-Za-z0-9_]{0,63}")
"""The name that such a variable may have."""
LONGEST_REASON = 300
"""Characters of what a template says that an error shows."""
SET_HERE = ("messages", "add_generation_prompt", "tools", "documents", "strftime_now", "raise_exception", *specials.NAMES)
"""Variables of a template that nobody else may give."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Message:
    """What one side said."""

    role: str
    """One of ROLES."""
    content: str
    name: str | None = None
    """Name of who said it; None: the template gets no name."""


PROBE = (Message(role="user", content="question"), Message(role="assistant", content="answer"))
"""What every template must be able to write."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """How a model's conversations are written; from `load`."""

    template: Template
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
    probe: str = ""
    """The template's text for PROBE."""
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further ones for the template; from `given`."""

    @functools.cached_property
    def forbidden(self) -> frozenset[int]:
        """Ids that no message may yield."""
        return frozenset(self.specials.values())

    @functools.cached_property
    def pattern(self) -> re.Pattern:
        """Finds special tokens in a text, the longest at each place."""
        return re.compile("|".join(map(re.escape, sorted(self.specials, key=len, reverse=True))) or "(?!)")

    def ids(self, text: str) -> list[int]:
        """Of the special tokens in a text."""
        return [self.specials[found[0]] for found in self.pattern.finditer(text)]


def source(folder: pathlib.Path, name: str = TEMPLATE) -> str | None:
    """The text of a template in a model's folder; None where it has none.

    Raises:
        UserError: it is no plain file that lies in the folder, too large, or not UTF-8.
    """
    if not os.path.lexists(folder / name):
        return None
    return foreign.read_text(foreign.inside(folder, name), MAX_TEMPLATE_BYTES)


def load(folder: pathlib.Path, tokenizer: tokenizers.Tokenizer) -> Format:
    """The format of the model in a run's folder: its `chat_template.jinja`, else ours where the tokenizer is ours.

    Args:
        folder: the run's.
        tokenizer: takes special tokens in texts as the texts they are.

    Raises:
        UserError: there is none, or it is no template that can write a question and an answer.
    """
    special = {token.content: index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    path, text = folder / TEMPLATE, source(folder)
    if text is None:
        if not {"<_user>", "<_bot>", "<_end>", "<_system>"} <= special.keys():
            raise UserError(
                f"got {folder} without {TEMPLATE}; allowed: a model that came with one, or with our tokenizer; put its {TEMPLATE} there"
            )
        path, text = OURS, OURS.read_text(encoding="utf-8")
    ids = specials.of(tokenizer)
    found = Format(
        template=Template(text),
        plain=tokenizer,
        parsing=tokenizers.Tokenizer.from_str(tokenizer.to_str()),
        specials=special,
        names=ids.names(tokenizer),
        ends=ids.ends,
    )
    try:
        asked, probe = _render(found, [PROBE[:1]])[0], _render(found, [PROBE], answer=False)[0]
    except (Refused, Failed) as error:
        why = foreign.printable(str(error), LONGEST_REASON)
        raise UserError(f"got {path}, which is no template ({why}); allowed: a Jinja chat template; put the model's own there") from error
    if "question" not in asked or "answer" not in probe:
        raise UserError(f"got {path}, which leaves out what it is given; allowed: a Jinja chat template; put the model's own there")
    return dataclasses.replace(found, probe=probe)


def given(format: Format, variables: Any, *, name: str = "chat_template_kwargs") -> Format:
    """Return the format with further variables for its template, such as `{"enable_thinking": False}`.

    Args:
        format: the model's.
        variables: what the user gave.
        name: field or option that the user gave them with, for errors.

    Raises:
        UserError: they are no object of JSON with names of variables, have names that are set here, are large, or have the text of a
            special token.
    """
    try:
        content = json.dumps(variables)
        variables = foreign.parse_json(content)
    except (ValueError, RecursionError) as error:
        raise _refused(name, f"that are no JSON ({error})") from error
    if not isinstance(variables, dict):
        raise _refused(name, "that are no object")
    if len(content) > MAX_VARIABLES:
        raise _refused(name, f"of {len(content):,} characters of JSON")
    for variable in variables:
        if variable in SET_HERE or not NAME.fullmatch(variable):
            raise _refused(name, f"with the name {foreign.printable(variable, 99)!r}")
    if any(map(format.pattern.search, _strings(variables))):
        raise _refused(name, "with the text of a special token")
    return dataclasses.replace(format, variables=variables)


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
    return tuple(dict.fromkeys((*format.ends, *format.ids(format.probe))))[:MAX_STOP_IDS]


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
    mark = f"message{secrets.token_hex(16)}x"
    text, marked = _write(format, [messages, [_marked(message, f"{mark}{number}") for number, message in enumerate(messages)]])
    if check is not None:
        check(text)
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
    ids = _parsed(format, text, _found(format, text))
    if ids is None:
        raise UserError("got a message in which the tokenizer finds a special token; allowed: messages without one; change the message")
    return ids


def _found(format: Format, text: str, start: int = 0) -> list[tuple[int, int, int]]:
    """Id, begin and end of the special tokens that are written out in a text, which begins at `start`."""
    return [(format.specials[found[0]], start + found.start(), start + found.end()) for found in format.pattern.finditer(text)]


def _parsed(format: Format, text: str, allowed: Sequence[tuple[int, int, int]]) -> list[int] | None:
    """Ids of a text whose special tokens are some of those allowed; None where its tokenizer finds others.

    It looks for some of them only when its normalizer has changed the text, and that may write one.
    """
    encoded, left, forbidden = specials.encoding(format.parsing, text), iter(allowed), format.forbidden
    for index, (begin, end) in zip(encoded.ids, encoded.offsets, strict=True):
        if index in forbidden and not any(index == one and begin <= start and stop <= end for one, start, stop in left):
            return None
    return encoded.ids


def _marked(message: Message, mark: str) -> Message:
    """The message with marks in place of what people wrote."""
    return dataclasses.replace(message, content=f"{mark}cx", name=None if message.name is None else f"{mark}nx")


def _encode_parts(format: Format, text: str, parts: Sequence[str], contents: Sequence[str]) -> list[int]:
    """A text made of a template's parts and, between them, contents; special tokens are those that lie in the parts."""
    if format.ids(text) == [index for part in parts for index in format.ids(part)]:
        starts = itertools.accumulate((len(part) + len(content) for part, content in zip(parts, contents, strict=False)), initial=0)
        ids = _parsed(format, text, [found for part, start in zip(parts, starts, strict=True) for found in _found(format, part, start)])
        if ids is not None:
            return ids
    ids, run = [], ""
    for part, content in zip(parts, [*contents, ""], strict=True):
        start = 0
        for found in format.pattern.finditer(part):
            ids += specials.encode(format.plain, run + part[start : found.start()])
            ids.append(format.specials[found[0]])
            run, start = "", found.end()
        run += part[start:] + content
    return ids + specials.encode(format.plain, run)


def _refuse(message: Message) -> None:
    if message.role not in ROLES:
        raise UserError(f"got a message of {message.role!r}; allowed: {', '.join(ROLES)}; change its role")
    try:
        f"{message.content}{message.name}".encode()
    except UnicodeEncodeError as error:
        raise UserError("got a message with a lone surrogate; allowed: Unicode text; change the message") from error


def write(format: Format, messages: Sequence[Message], *, answer: bool = True) -> str:
    """The template's text, or a `UserError`; with `answer`, up to where the model's answer begins."""
    return _write(format, [messages], answer=answer)[0]


def _write(format: Format, conversations: Sequence[Sequence[Message]], *, answer: bool = True) -> list[str]:
    try:
        return _render(format, conversations, answer=answer)
    except (Refused, Failed) as error:
        what = "refuses" if isinstance(error, Refused) else "does not write"
        raise UserError(
            f"got a conversation that the model's template {what} ({foreign.printable(str(error), LONGEST_REASON)}); "
            "allowed: what it was made for, most often turns of user and assistant; change the messages"
        ) from error


def _render(format: Format, conversations: Sequence[Sequence[Message]], *, answer: bool = True) -> list[str]:
    said = [[_variables(message) for message in messages] for messages in conversations]
    set_here = {"add_generation_prompt": answer, "tools": None, "documents": None}
    return format.template.render(said, {**format.variables, **set_here, **format.names})


def _variables(message: Message) -> dict[str, str]:
    said = {"role": message.role, "content": message.content}
    return said if message.name is None else said | {"name": message.name}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _strings(each)


def _refused(name: str, reason: str) -> UserError:
    return UserError(
        f"got {name} {reason}; allowed: an object of at most {MAX_VARIABLES:,} characters whose names are variables of the "
        f"template other than {', '.join(SET_HERE)}, without text of special tokens; change it"
    )
