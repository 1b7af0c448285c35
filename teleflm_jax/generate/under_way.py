"""A text under way or waiting, as the host knows it, and what it learns from the device of each."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from teleflm_jax.generate import rows
from teleflm_jax.generate.request import MAX_LOGPROBS, Piece, Request, Token
from teleflm_jax.generate.text import Transcript


@dataclasses.dataclass(kw_only=True)
class Text:
    """A request under way or waiting, as the host knows it: what is needed to go on with it on any device."""

    ticket: int
    request: Request
    limit: int
    """Tokens that it may have in all."""
    written: Transcript
    ids: list[int] = dataclasses.field(default_factory=list)
    """New tokens."""
    prompt: tuple[Token, ...] = ()
    """What its next piece tells of the prompt."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """All of them."""
        return (*self.request.prompt, *self.ids) if self.ids else self.request.prompt

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.request.prompt) + len(self.ids)


def asked(texts: Iterable[Text]) -> int | None:
    """Alternatives that texts ask for, in steps, since each number is a program."""
    found = [text.request.logprobs for text in texts if text.request.logprobs is not None]
    return next(step for step in (0, 5, MAX_LOGPROBS) if step >= max(found)) if found else None


def telling(texts: Iterable[Text]) -> list[Text]:
    """Return the texts whose prompts are told when they are read, which happens again to a text that was put back."""
    return [text for text in texts if text.request.tell_prompt and not text.ids]


def piece(text: Text, told: dict[str, np.ndarray]) -> Piece:
    """Add what the device says to a text, and return its next piece."""
    tokens, parts, finish = [], [], None
    for place, index in enumerate(told["token"].tolist()):
        if index == rows.NOTHING or not text.request.max_tokens:
            break
        tokens.append(_token(text.request, index, told, place))
        text.ids.append(index)
        ends = index in text.request.stop_ids
        parts.append("" if ends else text.written.add(index))
        if ends or text.written.stopped:
            finish = "stop"
            break
    if not finish and text.length >= text.limit:
        finish = "length"
    if finish and not text.written.stopped:
        parts.append(text.written.end())
        finish = "stop" if text.written.stopped else finish
    prompt, text.prompt = text.prompt, ()
    return Piece(text="".join(parts), tokens=tuple(tokens), finish=finish, prompt=prompt)


def _token(request: Request, index: int, told: dict[str, np.ndarray], place: int) -> Token:
    if request.logprobs is None:
        return Token(id=index)
    ids, logprobs = (told[name][place, : request.logprobs].tolist() for name in ("ids", "logprobs"))
    return Token(id=index, logprob=float(told["logprob"][place]), alternatives=tuple(zip(ids, logprobs, strict=True)))


def prompt(request: Request, told: dict[str, np.ndarray]) -> tuple[Token, ...]:
    """The prompt's tokens; nothing stands before the first, so it has no log-probability."""
    first, *others = request.prompt
    return Token(id=first), *(_token(request, index, told, place) for place, index in enumerate(others))
