"""Texts continued together as they come: a text takes a free row, and leaves it when it ends, while the others go on.

The host looks after every chunk of tokens, for stop strings, for texts that ended and for new ones. Rows are as long as the longest text
under way needs for its next chunk, not as it may become. Where the memory does not allow the next length, the youngest text leaves its row
and waits until its tokens can be read again. Not safe for threads; in a run of several processes, all make the same calls.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np
import tokenizers

from teleflm_jax.errors import UserError
from teleflm_jax.generate import programs as compiled
from teleflm_jax.generate import room as memory
from teleflm_jax.generate import rows as device
from teleflm_jax.generate import under_way as host
from teleflm_jax.generate.decoder import Decoder
from teleflm_jax.generate.programs import Program, Programs
from teleflm_jax.generate.request import Piece, Request
from teleflm_jax.generate.room import Room
from teleflm_jax.generate.text import Transcript
from teleflm_jax.generate.under_way import Text
from teleflm_jax.tokenizer.pieces import piece_bytes

CHUNK = 16
"""Tokens between two visits of the host: enough that its visit costs nothing, few enough that text seems to flow."""
PREFILL_TOKENS = 16_384
"""Of the prompts that are read at one time, padding included, unless one alone has more; bounds the memory that reading takes."""
SHRINKS = 4
"""Rows become fewer or shorter when so many times less would do; at 2 they would grow again soon."""


class Engine:
    """Continues the texts of requests."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: tokenizers.Tokenizer,
        *,
        slots: int,
        chunk: int = CHUNK,
        room: Room | None = None,
        programs: Programs | None = None,
    ):
        """Make one.

        Args:
            decoder: the model.
            tokenizer: of its ids.
            slots: texts that are continued at one time; more wait.
            chunk: new tokens of each between two visits of the host.
            room: what the memory allows; default: whatever is asked for.
            programs: of an engine before this one; by default they are compiled when they are needed.
        """
        if slots < 1:
            raise UserError(f"got {slots} slots; allowed: 1 or more; change slots")
        self.decoder, self.slots, self.chunk = decoder, slots, chunk
        self._room = room or Room(decoder=decoder)
        self.context_length = self._room.context_length
        self._programs = programs or Programs(decoder, chunk=chunk)
        self._pieces = piece_bytes(tokenizer)
        self._next_ticket = 0
        self._waiting: dict[int, Text] = {}
        """Texts that wait, by ticket, in its order."""
        self._texts: list[Text | None] = []
        self._left: set[int] = set()
        """Rows whose text was dropped, put back or met a stop string, which the device does not know yet."""
        self._rows: device.Rows | None = None
        self._alternatives: int | None = None
        """Alternatives that the program in use tells with each token, at least as many as the rows ask for."""

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._waiting and not any(self._texts)

    @property
    def waiting(self) -> int:
        """Requests without a row."""
        return len(self._waiting)

    @property
    def texts(self) -> list[Text]:
        """All that are under way or wait, oldest first, for an engine that goes on with them."""
        return sorted([*self._under_way.values(), *self._waiting.values()], key=lambda text: text.ticket)

    def refuse(self, request: Request) -> None:
        """Raise a `UserError` for what can never be served."""
        request.refuse(context_length=self.context_length, vocab_size=self.decoder.vocab_size)

    def add(self, request: Request) -> int:
        """Take a request on; returns its ticket."""
        self.refuse(request)
        limit = min(len(request.prompt) + request.max_tokens, self.context_length)
        ticket = self._next_ticket
        self.resume([Text(ticket=ticket, request=request, limit=limit, written=Transcript(pieces=self._pieces, stop=request.stop))])
        return ticket

    def resume(self, texts: Iterable[Text]) -> None:
        """Go on with the texts of an engine of the same model and room that failed, under their tickets."""
        for text in texts:
            self._waiting[text.ticket] = text
            self._next_ticket = max(self._next_ticket, text.ticket + 1)

    def drop(self, ticket: int) -> None:
        """Forget a request; its row is free from the next step on. One that has ended is no error."""
        self._waiting.pop(ticket, None)
        for row, text in self._under_way.items():
            if text.ticket == ticket:
                self._leave(row)

    def step(self) -> dict[int, Piece]:
        """Begin waiting texts if there is room, and write: a token if some were begun, else a chunk; blocks.

        Returns:
            What is new, by ticket; nothing where all wait for a program.
        """
        begun = self._begin()
        self._resize()
        held = [row for row, text in self._under_way.items() if self._need(text) > self._rows.cache.length]
        if len(held) < len(self._under_way):
            return self._go_on(held, 1 if begun else self.chunk)
        self._programs.wait()
        return {}

    @property
    def _under_way(self) -> dict[int, Text]:
        """The texts that have a row, by row."""
        return {row: text for row, text in enumerate(self._texts) if text}

    @property
    def _sizes(self) -> tuple[int, int] | None:
        """Rows and slots that there are."""
        return (len(self._texts), self._rows.cache.length) if self._rows else None

    def _begin(self) -> bool:
        """Read what waits and has room, if the programs for it are ready; returns whether texts were begun."""
        taken = self._take()
        while taken and not (sizes := self._beginning(taken)):
            taken = taken[: len(taken) // 2]
        if not taken:
            return False
        self._move(sizes, list(self._under_way))
        for text in taken:
            del self._waiting[text.ticket]
        self._alternatives = host.asked([*self._under_way.values(), *taken])
        self._read(taken)
        return True

    def _take(self) -> list[Text]:
        """The waiting texts that may be read next, first come, first served."""
        taken = []
        for text in itertools.islice(self._waiting.values(), self.slots - len(self._under_way)):
            more = [*taken, text]
            prompts, (count, slots) = (len(more), self._longest(more)), self._with(more)
            soon = count, max(slots, self._slots([*self._under_way.values(), *more]))  # what is there may be about to grow
            if (taken and prompts[0] * prompts[1] > PREFILL_TOKENS) or not self._room.fits(soon, prompts):
                break
            taken = more
        return taken

    def _with(self, more: Sequence[Text]) -> tuple[int, int]:
        """Rows and slots that there are with more texts."""
        used = len(self._under_way)
        count, slots = device.bucket(used + len(more), self.slots, 1), self._slots(more)
        return (max(count, self._sizes[0]), max(slots, self._sizes[1])) if used else (count, slots)

    def _longest(self, texts: Sequence[Text]) -> int:
        """Tokens of each prompt when these texts are read, padding included."""
        return device.bucket(max(text.length for text in texts), self.context_length)

    def _beginning(self, more: Sequence[Text]) -> tuple[int, int] | None:
        """Return sizes at which texts can begin, or None while the programs are compiled.

        If texts will become longer, the programs are compiled for the next length, which is needed soon, perhaps before they are ready.
        """
        count, slots = self._with(more)
        prompts = len(more), self._longest(more)
        sizes = [(count, slots), *(each for each in self._wider(count, slots * 2) if self._room.fits(each, prompts))]
        grows = any(text.limit > slots for text in (*self._under_way.values(), *more))
        found = self._programs.ready(*(self._needed(each, more) for each in sizes), preferred=-1 if grows else 0)
        return None if found is None else sizes[found]

    def _wider(self, count: int, slots: int) -> list[tuple[int, int]]:
        """Return sizes with so many slots, for the texts under way and for all that wait beside them, that fit; at most the context."""
        everyone = device.bucket(min(self.slots, len(self._under_way) + self.waiting), self.slots, 1)
        sizes = dict.fromkeys((rows, min(slots, self.context_length)) for rows in (count, max(count, everyone)))
        return [each for each in sizes if self._room.fits(each)]

    def _needed(self, sizes: tuple[int, int], more: Sequence[Text]) -> list[Program]:
        """Programs to begin texts and go on with them."""
        asked = host.asked([*self._under_way.values(), *more])
        old = self._sizes if self._under_way or self._sizes == sizes else None
        return [*compiled.begin(*sizes, *self._reading(more)), *compiled.move(old, sizes), compiled.extend(*sizes, asked)]

    def _reading(self, texts: Sequence[Text]) -> tuple[int, int, int, int | None]:
        """Sizes of the programs that read texts: different prompts, tokens of each, texts, and alternatives told of the prompts."""
        prompts, count = (device.bucket(number, self.slots, 1) for number in (len({text.tokens for text in texts}), len(texts)))
        return prompts, self._longest(texts), count, host.asked(host.telling(texts))

    def _read(self, texts: Sequence[Text]) -> None:
        """Read the tokens of texts into free rows."""
        prompts = list(dict.fromkeys(text.tokens for text in texts))  # several continuations of one prompt read it once
        u, t, count, told = sizes = self._reading(texts)
        tokens_UT, lengths_U = np.zeros((u, t), np.int32), np.ones(u, np.int32)
        for number, prompt in enumerate(prompts):
            tokens_UT[number, : len(prompt)], lengths_U[number] = prompt, len(prompt)
        rows_R, source_R = np.full(count, len(self._texts), np.int32), np.zeros(count, np.int32)
        free = [row for row, text in enumerate(self._texts) if not text]
        for number, (row, text) in enumerate(zip(free, texts, strict=False)):
            rows_R[number], source_R[number] = row, prompts.index(text.tokens)
            self._texts[row] = text
            self._left.discard(row)
        read, written, begun = (self._programs[program] for program in compiled.begin(*self._sizes, *sizes))
        found = read(self.decoder, tokens_UT)
        if told is not None:
            found, figures = found[0], jax.device_get(found[1])
            for text in host.telling(texts):
                number = prompts.index(text.tokens)
                text.prompt = host.prompt(text.request, {name: x[number] for name, x in figures.items()})
        cache = jax.tree.map(lambda old, new: written(old, new, source_R, rows_R), self._rows.cache, found)
        new = device.settings([text.request for text in texts], [text.limit for text in texts], count)
        self._rows = device.Rows(cache=cache, of=begun(self._rows.of, tokens_UT, lengths_U, source_R, rows_R, new))

    def _resize(self) -> None:
        """Give the texts under way the slots that they need, if the programs are ready; the youngest leave where memory is short."""
        under_way = self._under_way
        if not under_way:
            return
        (count, slots), keep = self._sizes, sorted(under_way, key=lambda row: under_way[row].ticket)
        needed = self._slots(under_way.values())
        few = device.bucket(len(keep), self.slots, 1)
        sizes = (few if few * SHRINKS <= count else count, needed if needed > slots or needed * SHRINKS <= slots else slots)
        while needed > slots and not self._room.fits(sizes):
            keep = keep[:-1]
            sizes = (device.bucket(len(keep), self.slots, 1), max(slots, self._slots(under_way[row] for row in keep)))
        asked = host.asked(under_way.values())
        choices = self._wider(*sizes) if needed > slots else [sizes]
        programs = ([*compiled.move(self._sizes, each), compiled.extend(*each, asked)] for each in choices)
        if (found := self._programs.ready(*programs, preferred=-1, optional=needed <= slots, urgent=needed > slots)) is not None:
            sizes = choices[found]
            for row in under_way.keys() - set(keep):
                self._put_back(row)
            self._move(sizes, keep)
            self._alternatives = asked
        self._foresee()

    def _foresee(self) -> None:
        """Have the next length compiled beside, when a text may become longer than what there is."""
        (count, slots), under_way = self._sizes, self._under_way.values()
        if any(text.limit > slots for text in under_way) and (choices := self._wider(count, slots * 2)):
            asked = host.asked(under_way)
            programs = ([*compiled.move(self._sizes, each), compiled.extend(*each, asked)] for each in choices)
            self._programs.ready(*programs, preferred=-1, optional=True, urgent=True)

    def _move(self, sizes: tuple[int, int], keep: Sequence[int]) -> None:
        """Make rows of these sizes, with the texts of the rows `keep` in the first ones; one array of the cache exists twice at a time."""
        if self._sizes == sizes:
            return
        texts = [self._texts[row] for row in keep]
        if texts:
            source_R = np.array([*keep, *[device.NOTHING] * (sizes[0] - len(keep))], np.int32)
            moved, moved_of = (self._programs[program] for program in compiled.move(self._sizes, sizes))
            forms = jax.tree.structure(self._rows.cache)
            arrays, of = jax.tree.leaves(self._rows.cache), moved_of(self._rows.of, source_R)
            self._rows = None
            for number, old in enumerate(arrays):
                arrays[number] = jax.block_until_ready(moved(old, source_R))
                old.delete()
            self._rows = device.Rows(cache=jax.tree.unflatten(forms, arrays), of=of)
        else:
            self._rows = None  # before there is another
            (program,) = compiled.move(None, sizes)
            self._rows = self._programs[program](self.decoder)
        self._texts, self._left = [*texts, *[None] * (sizes[0] - len(texts))], set()

    def _put_back(self, row: int) -> None:
        """Let a text wait, in its place, until its tokens are read again."""
        text = self._texts[row]
        self._leave(row)
        self._waiting = {one.ticket: one for one in sorted([text, *self._waiting.values()], key=lambda one: one.ticket)}

    def _go_on(self, held: Sequence[int], steps: int) -> dict[int, Piece]:
        """Write tokens in all rows but those that are held."""
        dropped_B, held_B = np.zeros((2, len(self._texts)), bool)
        dropped_B[list(self._left)], held_B[held] = True, True
        self._left = set()
        extend = self._programs[compiled.extend(*self._sizes, self._alternatives)]
        rows, self._rows = self._rows, None
        self._rows, told = extend(self.decoder, rows, dropped_B, held_B, np.int32(steps))
        told, pieces = jax.device_get(told), {}
        for row, text in self._under_way.items():
            if row not in held:
                pieces[text.ticket] = piece = host.piece(text, {name: x[row] for name, x in told.items()})
                if piece.finish:
                    self._leave(row)
        return pieces

    def _need(self, text: Text) -> int:
        """Slots for its next chunk, and from the beginning all of a text that stays short."""
        return min(max(text.length + self.chunk, memory.SHORTEST), text.limit)

    def _slots(self, texts: Iterable[Text]) -> int:
        return device.bucket(max(map(self._need, texts)), self.context_length)

    def _leave(self, row: int) -> None:
        self._texts[row] = None
        self._left.add(row)


def sizes(room: Room, slots: int) -> list[Program]:
    """Programs of every size that texts without log-probabilities may need and that take long to compile."""
    context = room.context_length
    powers = lambda most, least: sorted({device.bucket(2**n, most, least) for n in range(most.bit_length() + 1)})  # noqa: E731
    counts, lengths = powers(slots, 1), powers(context, device.SHORTEST)
    reading = [(n, length) for length in lengths for n in counts if n == 1 or n * length <= PREFILL_TOKENS]
    going_on = [(n, length) for length in lengths for n in counts]
    found = [compiled.read(*size) for size in reading if room.fits((1, size[1]), size)]
    return found + [compiled.extend(*size, None) for size in going_on if room.fits(size)]


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
