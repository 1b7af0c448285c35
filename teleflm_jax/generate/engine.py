"""Texts continued together as they come: a text takes a free row, and leaves it when it ends, while the others go on.

The host looks after every chunk of tokens, for stop strings, for texts that ended and for new ones. Not safe for threads; in a run of
several processes, all make the same calls.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np
import tokenizers

from teleflm_jax.errors import UserError
from teleflm_jax.generate import rows as device
from teleflm_jax.generate.decoder import Decoder
from teleflm_jax.generate.request import MAX_LOGPROBS, Piece, Request, Token
from teleflm_jax.generate.text import Transcript
from teleflm_jax.tokenizer.pieces import piece_bytes

CHUNK = 16
"""Tokens between two visits of the host: enough that its visit costs nothing, few enough that text seems to flow."""
PREFILL_TOKENS = 16_384
"""Of the prompts that are read at one time, padding included, unless one alone has more; bounds the memory that reading takes."""


@dataclasses.dataclass(kw_only=True)
class _Text:
    """A request in its row."""

    ticket: int
    request: Request
    limit: int
    """Tokens that it may have in all."""
    written: Transcript
    count: int = 0
    """New tokens."""


class Engine:
    """Continues the texts of requests."""

    def __init__(self, decoder: Decoder, tokenizer: tokenizers.Tokenizer, *, slots: int, chunk: int = CHUNK):
        """Make one.

        Args:
            decoder: the model.
            tokenizer: of its ids.
            slots: texts that are continued at one time; more wait.
            chunk: new tokens of each between two visits of the host.
        """
        if slots < 1:
            raise UserError(f"got {slots} slots; allowed: 1 or more; change slots")
        self.decoder, self.slots, self.chunk = decoder, slots, chunk
        self.context_length = decoder.context_length
        self._pieces = piece_bytes(tokenizer)
        self._tickets = itertools.count()
        self._waiting: dict[int, Request] = {}
        self._texts: list[_Text | None] = []
        self._left: set[int] = set()
        """Rows whose text was dropped or met a stop string, which the device does not know yet."""
        self._rows: device.Rows | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._waiting and not any(self._texts)

    @property
    def waiting(self) -> int:
        """Requests without a row."""
        return len(self._waiting)

    def refuse(self, request: Request) -> None:
        """Raise a `UserError` for what can never be served."""
        request.refuse(context_length=self.context_length, vocab_size=self.decoder.vocab_size)

    def add(self, request: Request) -> int:
        """Take a request on; returns its ticket."""
        self.refuse(request)
        ticket = next(self._tickets)
        self._waiting[ticket] = request
        return ticket

    def drop(self, ticket: int) -> None:
        """Forget a request; its row is free from the next step on. One that has ended is no error."""
        self._waiting.pop(ticket, None)
        for row, text in enumerate(self._texts):
            if text and text.ticket == ticket:
                self._leave(row)

    def step(self) -> dict[int, Piece]:
        """Begin waiting texts if rows are free, else write a chunk; blocks. Returns what is new, by ticket."""
        if self._waiting and sum(map(bool, self._texts)) < self.slots:
            return self._begin()
        return self._go_on() if any(self._texts) else {}

    def _begin(self) -> dict[int, Piece]:
        taken = self._take()
        limits = [min(len(request.prompt) + request.max_tokens, self.context_length) for request in taken.values()]
        free = self._make_room(len(taken), max(limits))
        texts = [
            _Text(ticket=ticket, request=request, limit=limit, written=Transcript(pieces=self._pieces, stop=request.stop))
            for (ticket, request), limit in zip(taken.items(), limits, strict=True)
        ]
        prompts = list(dict.fromkeys(text.request.prompt for text in texts))  # several continuations of one prompt read it once
        longest = device.bucket(max(map(len, prompts)), self.context_length)
        tokens_UT = np.zeros((device.bucket(len(prompts), self.slots, 1), longest), np.int32)
        lengths_U = np.ones(len(tokens_UT), np.int32)
        for number, prompt in enumerate(prompts):
            tokens_UT[number, : len(prompt)], lengths_U[number] = prompt, len(prompt)
        count = device.bucket(len(texts), self.slots, 1)
        slots_R, source_R = np.full(count, len(self._texts), np.int32), np.zeros(count, np.int32)
        for number, (row, text) in enumerate(zip(free, texts, strict=False)):
            slots_R[number], source_R[number] = row, prompts.index(text.request.prompt)
            self._texts[row] = text
        self._left -= set(free)
        new = device.settings([text.request for text in texts], limits, count)
        told_too = {"alternatives": self._alternatives(texts), "tell_prompts": any(text.request.tell_prompt for text in texts)}
        self._rows, told = device.begin(self.decoder, self._rows, tokens_UT, lengths_U, source_R, slots_R, new, **told_too)
        return self._told(jax.device_get(told), list(zip(slots_R.tolist(), texts, strict=False)))

    def _go_on(self) -> dict[int, Piece]:
        dropped_B = np.zeros(len(self._texts), bool)
        dropped_B[list(self._left)] = True
        self._left = set()
        under_way = [(row, text) for row, text in enumerate(self._texts) if text]
        alternatives = self._alternatives([text for _, text in under_way])
        self._rows, told = device.extend(self.decoder, self._rows, dropped_B, chunk=self.chunk, alternatives=alternatives)
        told = jax.device_get(told)
        return self._told({name: x[[row for row, _ in under_way]] for name, x in told.items()}, under_way)

    def _take(self) -> dict[int, Request]:
        """The waiting requests that are read next, first come, first served."""
        taken, longest = {}, 0
        for ticket, request in self._waiting.items():
            longest = max(longest, device.bucket(len(request.prompt), self.context_length))
            if taken and (len(taken) + 1) * longest > PREFILL_TOKENS or len(taken) + sum(map(bool, self._texts)) == self.slots:
                break
            taken[ticket] = request
        for ticket in taken:
            del self._waiting[ticket]
        return taken

    def _make_room(self, more: int, limit: int) -> list[int]:
        """Free rows for so many more texts of so many tokens; what is there grows, and is made anew when no text is under way."""
        used = [row for row, text in enumerate(self._texts) if text]
        slots = device.bucket(limit, self.context_length)
        if not used:
            count = device.bucket(more, self.slots, 1)
            if self._rows is None or (len(self._texts), self._rows.cache.length) != (count, slots):
                self._rows = device.empty(self.decoder, count=count, slots=slots)
            self._texts, self._left = [None] * count, set()
        else:
            count = max(len(self._texts), device.bucket(len(used) + more, self.slots, 1))
            slots = max(slots, self._rows.cache.length)
            if (count, slots) != (len(self._texts), self._rows.cache.length):
                self._rows = device.grow(self.decoder, self._rows, count=count, slots=slots)
                self._texts += [None] * (count - len(self._texts))
        return [row for row, text in enumerate(self._texts) if not text]

    def _told(self, told: dict[str, np.ndarray], texts: Sequence[tuple[int, _Text]]) -> dict[int, Piece]:
        """What the device says of texts, in their order, as pieces; texts that ended leave their rows."""
        pieces = {}
        for number, (row, text) in enumerate(texts):
            piece = self._piece(text, {name: x[number] for name, x in told.items()})
            pieces[text.ticket] = piece
            if piece.finish:
                self._leave(row)
        return pieces

    def _piece(self, text: _Text, told: dict[str, np.ndarray]) -> Piece:
        tokens, parts, finish = [], [], None
        prompt = _prompt(text.request, told) if text.request.tell_prompt and not text.count else ()
        for place, index in enumerate(told["token"].tolist()):
            if index == device.NOTHING or not text.request.max_tokens:
                break
            tokens.append(_token(text.request, index, told, place))
            text.count += 1
            ends = index in text.request.stop_ids
            parts.append("" if ends else text.written.add(index))
            if ends or text.written.stopped:
                finish = "stop"
                break
        if not finish and len(text.request.prompt) + text.count >= text.limit:
            finish = "length"
        if finish and not text.written.stopped:
            parts.append(text.written.end())
            finish = "stop" if text.written.stopped else finish
        return Piece(text="".join(parts), tokens=tuple(tokens), finish=finish, prompt=prompt)

    def _leave(self, row: int) -> None:
        self._texts[row] = None
        self._left.add(row)

    def _alternatives(self, texts: Sequence[_Text]) -> int | None:
        """What the rows ask for, in steps, since each number is a program."""
        asked = [text.request.logprobs for text in texts if text.request.logprobs is not None]
        return next(step for step in (0, 5, MAX_LOGPROBS) if step >= max(asked)) if asked else None


def _token(request: Request, index: int, told: dict[str, np.ndarray], place: int) -> Token:
    if request.logprobs is None:
        return Token(id=index)
    ids, logprobs = (told[name][place, : request.logprobs].tolist() for name in ("ids", "logprobs"))
    return Token(id=index, logprob=float(told["logprob"][place]), alternatives=tuple(zip(ids, logprobs, strict=True)))


def _prompt(request: Request, told: dict[str, np.ndarray]) -> tuple[Token, ...]:
    """The prompt's tokens; nothing stands before the first, so it has no log-probability."""
    first, *others = request.prompt
    after = {name.removeprefix("prompt_"): x for name, x in told.items() if name.startswith("prompt_")}
    return Token(id=first), *(_token(request, index, after, place) for place, index in enumerate(others))


def complete(
    decoder: Decoder,
    tokenizer: tokenizers.Tokenizer,
    requests: Sequence[Request],
    *,
    slots: int,
    pause: Callable[[], None] = lambda: None,
) -> list[Piece]:
    """All of each request's text, in the order of the requests, at most `slots` at a time; errors as of `run`."""
    return run(Engine(decoder, tokenizer, slots=slots), requests, pause)


def run(engine: Engine, requests: Sequence[Request], pause: Callable[[], None] = lambda: None) -> list[Piece]:
    """The same with an engine that is idle; `pause` is called before each of its steps.

    Raises:
        UserError: one can never be served; none is begun then.
    """
    for request in requests:
        engine.refuse(request)
    by_length = sorted(range(len(requests)), key=lambda number: -len(requests[number].prompt))  # neighbours of a length pad the least
    number_of = {engine.add(requests[number]): number for number in by_length}
    parts: list[list[Piece]] = [[] for _ in requests]
    while not engine.idle:
        pause()
        for ticket, piece in engine.step().items():
            parts[number_of[ticket]].append(piece)
    return [
        Piece(
            text="".join(p.text for p in found),
            tokens=tuple(t for p in found for t in p.tokens),
            finish=found[-1].finish,
            prompt=found[0].prompt,
        )
        for found in parts
    ]
