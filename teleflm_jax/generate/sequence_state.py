"""The host's state of a running or waiting sequence, and its update from a program's outputs."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from teleflm_jax.generate import rows
from teleflm_jax.generate.request import MAX_LOGPROBS, Request, TextDelta, Token
from teleflm_jax.generate.text import Detokenizer


@dataclasses.dataclass(kw_only=True)
class SequenceState:
    """A running or waiting request: all that is needed to continue it on any device."""

    ticket: int
    request: Request
    limit: int
    """Most tokens in all."""
    detokenizer: Detokenizer
    ids: list[int] = dataclasses.field(default_factory=list)
    """New tokens."""
    prompt: tuple[Token, ...] = ()
    """Tokens of the prompt that the next piece will report."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Ids of the prompt and the continuation."""
        return (*self.request.prompt, *self.ids) if self.ids else self.request.prompt

    @property
    def length(self) -> int:
        """Number of tokens in all."""
        return len(self.request.prompt) + len(self.ids)


def requested_logprobs(sequences: Iterable[SequenceState]) -> int | None:
    """Return the alternatives to compute for some sequences, rounded up since each number needs a program; None: no log-probabilities."""
    numbers = [sequence.request.logprobs for sequence in sequences if sequence.request.logprobs is not None]
    return next(step for step in (0, 5, MAX_LOGPROBS) if step >= max(numbers)) if numbers else None


def with_prompt_logprobs(sequences: Iterable[SequenceState]) -> list[SequenceState]:
    """Return the sequences that still have to report their prompts; a preempted one, which is read again, has done so."""
    return [sequence for sequence in sequences if sequence.request.prompt_logprobs and not sequence.ids]


def next_piece(sequence: SequenceState, outputs: dict[str, np.ndarray]) -> TextDelta:
    """Add a program's outputs to a sequence and return what is new."""
    tokens, parts, finish_reason = [], [], None
    for position, index in enumerate(outputs["token"].tolist()):
        if index == rows.ABSENT or not sequence.request.max_tokens:
            break
        tokens.append(_token(sequence.request, index, outputs, position))
        sequence.ids.append(index)
        ends = index in sequence.request.stop_ids
        parts.append("" if ends else sequence.detokenizer.add(index))
        if ends or sequence.detokenizer.stopped:
            finish_reason = "stop"
            break
    if not finish_reason and sequence.length >= sequence.limit:
        finish_reason = "length"
    if finish_reason and not sequence.detokenizer.stopped:
        parts.append(sequence.detokenizer.finish())
        finish_reason = "stop" if sequence.detokenizer.stopped else finish_reason
    prompt, sequence.prompt = sequence.prompt, ()
    return TextDelta(text="".join(parts), tokens=tuple(tokens), finish_reason=finish_reason, prompt=prompt)


def prompt_tokens(request: Request, outputs: dict[str, np.ndarray]) -> tuple[Token, ...]:
    """Return the prompt's tokens with log-probabilities; the first has none, since nothing precedes it."""
    first, *others = request.prompt
    return Token(id=first), *(_token(request, index, outputs, position) for position, index in enumerate(others))


def _token(request: Request, index: int, outputs: dict[str, np.ndarray], position: int) -> Token:
    if request.logprobs is None:
        return Token(id=index)
    ids, logprobs = (outputs[name][position, : request.logprobs].tolist() for name in ("ids", "logprobs"))
    return Token(id=index, logprob=float(outputs["logprob"][position]), alternatives=tuple(zip(ids, logprobs, strict=True)))
