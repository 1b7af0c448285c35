"""Conversations as token ids by a model's own template, in which the text of messages never yields a special id.

A template is a program that came with the weights: it runs in a separate process within limits of time and memory (`template.py`).
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
"""File in the folder of a run whose model has its own template."""
OWN_TEMPLATE = pathlib.Path(__file__).parents[1] / "tokenizer" / TEMPLATE
"""Template for our own tokenizer: `<s>`, an optional `<_system>S`, then turns of `<_user>Q<_bot>A</s><_end>`. Source: TeleChat's."""
ROLES = ("system", "user", "assistant")
MAX_TEMPLATE_BYTES = 1 << 20
"""Largest template file; known models have tens of kB at most."""
MAX_VARIABLES = 16_384
"""Most characters of the variables of `with_variables`, as JSON."""
NAME = re.compile("[A-Za-z_][A-Za-z0-9_]{0,63}")
"""Allowed name of such a variable."""
MAX_REASON_CHARACTERS = 300
"""Most characters of a template's message that an error shows."""
RESERVED_VARIABLES = ("messages", "add_generation_prompt", "tools", "documents", "strftime_now", "raise_exception", *specials.NAMES)
"""Variables of a template that a user may not set."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Message:
    """One message of a conversation."""

    role: str
    """One of ROLES."""
    content: str
    name: str | None = None
    """Name of the author; None: the template gets no name."""


PROBE = (Message(role="user", content="question"), Message(role="assistant", content="answer"))
"""Conversation that every template must be able to render."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """A model's chat template and tokenizer; from `load`."""

    template: Template
    plain: tokenizers.Tokenizer
    """Tokenizer that encodes the text of a special token as ordinary text."""
    parsing: tokenizers.Tokenizer
    """Tokenizer that encodes it as the token."""
    specials: Mapping[str, int]
    """Id of each special token, by its text."""
    names: Mapping[str, str]
    """Variables `bos_token` and the like of the template."""
    ends: tuple[int, ...]
    """Ids that end a text."""
    probe: str = ""
    """Rendered text of PROBE."""
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further variables of the template; from `with_variables`."""

    @functools.cached_property
    def forbidden(self) -> frozenset[int]:
        """Ids that no message may yield."""
        return frozenset(self.specials.values())

    @functools.cached_property
    def pattern(self) -> re.Pattern:
        """Pattern of special tokens, the longest at each position."""
        return re.compile("|".join(map(re.escape, sorted(self.specials, key=len, reverse=True))) or "(?!)")

    def special_ids(self, text: str) -> list[int]:
        """Return the ids of the special tokens in a text."""
        return [self.specials[found[0]] for found in self.pattern.finditer(text)]


def read_template(folder: pathlib.Path, name: str = TEMPLATE) -> str | None:
    """Return the text of a template in a model's folder, or None if it has none.

    Raises:
        UserError: it is not a plain file inside the folder, is too large, or is not UTF-8.
    """
    if not os.path.lexists(folder / name):
        return None
    return foreign.read_text(foreign.inside(folder, name), MAX_TEMPLATE_BYTES)


def load(folder: pathlib.Path, tokenizer: tokenizers.Tokenizer) -> ChatFormat:
    """Return the chat format of the model in a run's folder: its `chat_template.jinja`, or our own template for our own tokenizer.

    Args:
        folder: the run's folder.
        tokenizer: encodes special tokens in texts as ordinary text.

    Raises:
        UserError: there is no template, or it cannot render a question and an answer.
    """
    special = {token.content: index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    path, text = folder / TEMPLATE, read_template(folder)
    if text is None:
        if not {"<_user>", "<_bot>", "<_end>", "<_system>"} <= special.keys():
            raise UserError(
                f"got {folder} without {TEMPLATE}; allowed: a model with its own, or with our tokenizer; put its {TEMPLATE} there"
            )
        path, text = OWN_TEMPLATE, OWN_TEMPLATE.read_text(encoding="utf-8")
    ids = specials.of(tokenizer)
    format = ChatFormat(
        template=Template(text),
        plain=tokenizer,
        parsing=tokenizers.Tokenizer.from_str(tokenizer.to_str()),
        specials=special,
        names=ids.names(tokenizer),
        ends=ids.ends,
    )
    try:
        question, probe = _render(format, [PROBE[:1]])[0], _render(format, [PROBE], answer=False)[0]
    except (Refused, Failed) as error:
        reason = foreign.printable(str(error), MAX_REASON_CHARACTERS)
        raise UserError(
            f"got {path}, which is not a template ({reason}); allowed: a Jinja chat template; put the model's own there"
        ) from error
    if "question" not in question or "answer" not in probe:
        raise UserError(f"got {path}, which drops messages; allowed: a Jinja chat template; put the model's own there")
    return dataclasses.replace(format, probe=probe)


def with_variables(format: ChatFormat, variables: Any, *, name: str = "chat_template_kwargs") -> ChatFormat:
    """Return the format with further variables for its template, such as `{"enable_thinking": False}`.

    Args:
        format: the model's chat format.
        variables: a value from the user.
        name: the user's field or option, for errors.

    Raises:
        UserError: they are not a JSON object whose names are variables, name a reserved variable, are too large, or contain the text of a
            special token.
    """
    try:
        content = json.dumps(variables)
        variables = foreign.parse_json(content)
    except (ValueError, RecursionError) as error:
        raise _refused(name, f"that are not JSON ({error})") from error
    if not isinstance(variables, dict):
        raise _refused(name, "that are not an object")
    if len(content) > MAX_VARIABLES:
        raise _refused(name, f"of {len(content):,} characters of JSON")
    for variable in variables:
        if variable in RESERVED_VARIABLES or not NAME.fullmatch(variable):
            raise _refused(name, f"with the name {foreign.printable(variable, 99)!r}")
    if any(map(format.pattern.search, _strings(variables))):
        raise _refused(name, "with the text of a special token")
    return dataclasses.replace(format, variables=variables)


def encode(format: ChatFormat, messages: Sequence[Message], *, check: Callable[[str], None] | None = None) -> tuple[int, ...]:
    """Return the ids of a conversation up to the model's answer: those of the rendered text, without a further `<s>`.

    Args:
        format: the model's chat format.
        messages: the conversation.
        check: called with the rendered text before it is encoded, which takes time; may raise.

    Raises:
        UserError: the template refuses the conversation, or a message would yield a special token.
    """
    if not messages:
        raise UserError("got no message; allowed: one or more; add one")
    for message in messages:
        _refuse(message)
    return tuple(_encode(format, messages, check))


def stop_ids(format: ChatFormat) -> tuple[int, ...]:
    """Return the ids that end an answer: those that end a text, and all special tokens that the template writes between turns."""
    return tuple(dict.fromkeys((*format.ends, *format.special_ids(format.probe))))[:MAX_STOP_IDS]


def fit(format: ChatFormat, messages: Sequence[Message], limit: int) -> tuple[tuple[Message, ...], int]:
    """Remove the oldest turns until the conversation has at most `limit` tokens; system messages and the last message stay.

    Returns:
        The remaining messages, and the number of removed turns: a turn is a user's message and all up to the next one.

    Raises:
        UserError: the last turn alone is longer.
    """
    kept, removed = list(messages), 0
    while (length := len(encode(format, kept))) > limit:
        starts = [index for index, message in enumerate(kept) if message.role == "user"]
        if len(starts) < 2:
            raise UserError(f"got a message with which a conversation has {length:,} tokens; allowed: at most {limit:,}; shorten it")
        kept[starts[0] : starts[1]] = [message for message in kept[starts[0] : starts[1]] if message.role == "system"]
        removed += 1
    return tuple(kept), removed


def _encode(format: ChatFormat, messages: Sequence[Message], check: Callable[[str], None] | None) -> list[int]:
    mark = f"message{secrets.token_hex(16)}x"
    text, marked = _render_checked(format, [messages, [_marked(message, f"{mark}{number}") for number, message in enumerate(messages)]])
    if check is not None:
        check(text)
    pieces = re.split(f"({mark}[0-9]+[cn])x", marked)
    originals = {f"{mark}{number}c": message.content for number, message in enumerate(messages)}
    originals |= {f"{mark}{number}n": message.name for number, message in enumerate(messages) if message.name is not None}
    parts, order = pieces[::2], pieces[1::2]
    for change in (str, str.strip):  # templates often strip messages
        contents = [change(originals[each]) for each in order]
        if text == "".join(a + b for a, b in zip(parts, [*contents, ""], strict=True)):
            return _encode_parts(format, text, parts, contents)
    if any(map(format.pattern.search, originals.values())) or format.special_ids(text) != format.special_ids(marked):
        raise UserError(
            "got a message with the text of a special token, which the model's template changes; "
            "allowed: messages without such text; change the message"
        )
    ids = _parsed(format, text, _found(format, text))
    if ids is None:
        raise UserError("got a message in which the tokenizer finds a special token; allowed: messages without one; change the message")
    return ids


def _found(format: ChatFormat, text: str, start: int = 0) -> list[tuple[int, int, int]]:
    """Return (id, start, end) of the special tokens spelled out in a text, offset by `start`."""
    return [(format.specials[found[0]], start + found.start(), start + found.end()) for found in format.pattern.finditer(text)]


def _parsed(format: ChatFormat, text: str, allowed: Sequence[tuple[int, int, int]]) -> list[int] | None:
    """Return the ids of a text whose special tokens are some of those allowed; None if its tokenizer finds others.

    A tokenizer looks for some special tokens only after its normalizer, which may itself produce one.
    """
    encoded, left, forbidden = specials.encoding(format.parsing, text), iter(allowed), format.forbidden
    for index, (begin, end) in zip(encoded.ids, encoded.offsets, strict=True):
        if index in forbidden and not any(index == one and begin <= start and stop <= end for one, start, stop in left):
            return None
    return encoded.ids


def _marked(message: Message, mark: str) -> Message:
    """Return the message with marks in place of its text."""
    return dataclasses.replace(message, content=f"{mark}cx", name=None if message.name is None else f"{mark}nx")


def _encode_parts(format: ChatFormat, text: str, parts: Sequence[str], contents: Sequence[str]) -> list[int]:
    """Encode a text of a template's parts with contents between them; only the parts yield special tokens."""
    if format.special_ids(text) == [index for part in parts for index in format.special_ids(part)]:
        starts = itertools.accumulate((len(part) + len(content) for part, content in zip(parts, contents, strict=False)), initial=0)
        ids = _parsed(format, text, [found for part, start in zip(parts, starts, strict=True) for found in _found(format, part, start)])
        if ids is not None:
            return ids
    ids, pending = [], ""
    for part, content in zip(parts, [*contents, ""], strict=True):
        start = 0
        for found in format.pattern.finditer(part):
            ids += specials.encode(format.plain, pending + part[start : found.start()])
            ids.append(format.specials[found[0]])
            pending, start = "", found.end()
        pending += part[start:] + content
    return ids + specials.encode(format.plain, pending)


def _refuse(message: Message) -> None:
    if message.role not in ROLES:
        raise UserError(f"got a message of {message.role!r}; allowed: {', '.join(ROLES)}; change its role")
    try:
        f"{message.content}{message.name}".encode()
    except UnicodeEncodeError as error:
        raise UserError("got a message with a lone surrogate; allowed: Unicode text; change the message") from error


def render(format: ChatFormat, messages: Sequence[Message], *, answer: bool = True) -> str:
    """Return the template's text, with `answer` up to where the model's answer begins; raise a `UserError` if it fails."""
    return _render_checked(format, [messages], answer=answer)[0]


def _render_checked(format: ChatFormat, conversations: Sequence[Sequence[Message]], *, answer: bool = True) -> list[str]:
    try:
        return _render(format, conversations, answer=answer)
    except (Refused, Failed) as error:
        verb = "refuses" if isinstance(error, Refused) else "fails to render"
        raise UserError(
            f"got a conversation that the model's template {verb} ({foreign.printable(str(error), MAX_REASON_CHARACTERS)}); "
            "allowed: the conversations it supports, most often turns of user and assistant; change the messages"
        ) from error


def _render(format: ChatFormat, conversations: Sequence[Sequence[Message]], *, answer: bool = True) -> list[str]:
    rendered = [[_variables(message) for message in messages] for messages in conversations]
    reserved = {"add_generation_prompt": answer, "tools": None, "documents": None}
    return format.template.render(rendered, {**format.variables, **reserved, **format.names})


def _variables(message: Message) -> dict[str, str]:
    variables = {"role": message.role, "content": message.content}
    return variables if message.name is None else variables | {"name": message.name}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _strings(each)


def _refused(name: str, reason: str) -> UserError:
    return UserError(
        f"got {name} {reason}; allowed: an object of at most {MAX_VARIABLES:,} characters whose names are variables of the "
        f"template other than {', '.join(RESERVED_VARIABLES)}, without text of special tokens; change it"
    )
