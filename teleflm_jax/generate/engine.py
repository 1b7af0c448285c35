"""Continuous batching: a sequence takes a free row of the batch and releases it when it ends, while the others continue.

The host acts after every chunk of tokens: it looks for stop strings, for sequences that ended and for new ones. Rows are as long as the
longest running sequence needs for its next chunk, not as long as it may become. If memory does not allow the next length, the youngest
sequence is preempted: it gives up its row and waits until its tokens can be read again. The engine is not thread-safe; in a run of several
processes, all of them make the same calls.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np
import tokenizers

from teleflm_jax.errors import UserError
from teleflm_jax.generate import cache_budget, programs, sequence_state
from teleflm_jax.generate import rows as device
from teleflm_jax.generate.cache_budget import CacheBudget
from teleflm_jax.generate.decoder import Decoder
from teleflm_jax.generate.programs import Program, Programs
from teleflm_jax.generate.request import Request, TextDelta
from teleflm_jax.generate.sequence_state import SequenceState
from teleflm_jax.generate.text import Detokenizer
from teleflm_jax.tokenizer.pieces import piece_bytes

CHUNK = 16
"""Tokens between two visits of the host: enough that a visit costs nothing, few enough that text seems to flow."""
PREFILL_TOKENS = 16_384
"""Most prompt tokens that are read at one time, padding included, unless one prompt alone has more; bounds the memory of reading."""
SHRINK_FACTOR = 4
"""The batch gets fewer or shorter rows when a size this many times smaller suffices; with 2 it would soon grow again."""


class Engine:
    """Continues the texts of requests."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: tokenizers.Tokenizer,
        *,
        slots: int,
        chunk: int = CHUNK,
        budget: CacheBudget | None = None,
        compiled: Programs | None = None,
    ):
        """Create an engine with no sequences.

        Args:
            decoder: the model.
            tokenizer: the model's tokenizer.
            slots: sequences that are continued at one time; more of them wait.
            chunk: new tokens of each sequence between two visits of the host.
            budget: bound on the memory of sequences; by default there is none.
            compiled: programs of an earlier engine; by default each is compiled when it is needed.
        """
        if slots < 1:
            raise UserError(f"got {slots} slots; allowed: 1 or more; change slots")
        self.decoder, self.slots, self.chunk = decoder, slots, chunk
        self._budget = budget or CacheBudget(decoder=decoder)
        self.context_length = self._budget.context_length
        self._compiled = compiled or Programs(decoder, chunk=chunk)
        self._pieces = piece_bytes(tokenizer)
        self._next_ticket = 0
        self._waiting: dict[int, SequenceState] = {}
        """Waiting sequences by ticket, in ascending order."""
        self._batch: list[SequenceState | None] = []
        """The sequence of each row; None: the row is free."""
        self._released: set[int] = set()
        """Rows that were released since the last decoding step."""
        self._rows: device.Rows | None = None
        self._alternatives: int | None = None
        """Alternatives that the program in use returns with each token, at least as many as the requests ask for."""

    @property
    def idle(self) -> bool:
        """True if no sequence waits or runs."""
        return not self._waiting and not any(self._batch)

    @property
    def waiting(self) -> int:
        """Number of sequences without a row."""
        return len(self._waiting)

    @property
    def sequences(self) -> list[SequenceState]:
        """All sequences that run or wait, oldest first; another engine can continue them."""
        return sorted([*self._running.values(), *self._waiting.values()], key=lambda sequence: sequence.ticket)

    def validate(self, request: Request) -> None:
        """Raise a `UserError` if a request can never be served."""
        request.validate(context_length=self.context_length, vocab_size=self.decoder.vocab_size)

    def add(self, request: Request) -> int:
        """Accept a request and return its ticket."""
        self.validate(request)
        limit = min(len(request.prompt) + request.max_tokens, self.context_length)
        ticket = self._next_ticket
        detokenizer = Detokenizer(pieces=self._pieces, stop=request.stop)
        self.resume([SequenceState(ticket=ticket, request=request, limit=limit, detokenizer=detokenizer)])
        return ticket

    def resume(self, sequences: Iterable[SequenceState]) -> None:
        """Continue the sequences of a failed engine with the same model and budget, under their tickets."""
        for sequence in sequences:
            self._waiting[sequence.ticket] = sequence
            self._next_ticket = max(self._next_ticket, sequence.ticket + 1)

    def drop(self, ticket: int) -> None:
        """Abandon a request; its row is free from the next step on. A request that has already ended is ignored."""
        self._waiting.pop(ticket, None)
        for row, sequence in self._running.items():
            if sequence.ticket == ticket:
                self._release(row)

    def step(self) -> dict[int, TextDelta]:
        """Admit waiting sequences if there is room, then decode: one token if some were admitted, else a chunk. Blocks.

        Returns:
            New text and tokens by ticket; empty if all sequences wait for a program.
        """
        admitted = self._admit()
        self._resize()
        held = [row for row, sequence in self._running.items() if self._next_length(sequence) > self._rows.cache.length]
        if len(held) < len(self._running):
            return self._decode(held, 1 if admitted else self.chunk)
        self._compiled.wait()
        return {}

    @property
    def _running(self) -> dict[int, SequenceState]:
        """Sequences that have a row, by row."""
        return {row: sequence for row, sequence in enumerate(self._batch) if sequence}

    @property
    def _size(self) -> tuple[int, int] | None:
        """Number and length of the rows; None before the first sequence."""
        return (len(self._batch), self._rows.cache.length) if self._rows else None

    def _admit(self) -> bool:
        """Read waiting sequences that fit, if their programs are compiled; return whether any was admitted."""
        admitted = self._admissible()
        while admitted and not (size := self._admission_size(admitted)):
            admitted = admitted[: len(admitted) // 2]
        if not admitted:
            return False
        self._move(size, list(self._running))
        for sequence in admitted:
            del self._waiting[sequence.ticket]
        self._alternatives = sequence_state.requested_logprobs([*self._running.values(), *admitted])
        self._prefill(admitted)
        return True

    def _admissible(self) -> list[SequenceState]:
        """Return the waiting sequences that may be read next, first come, first served."""
        admitted = []
        for sequence in itertools.islice(self._waiting.values(), self.slots - len(self._running)):
            new = [*admitted, sequence]
            prompts, (count, length) = (len(new), self._longest(new)), self._size_with(new)
            soon = count, max(length, self._length([*self._running.values(), *new]))  # running sequences may be about to grow
            if (admitted and prompts[0] * prompts[1] > PREFILL_TOKENS) or not self._budget.fits(soon, prompts):
                break
            admitted = new
        return admitted

    def _size_with(self, new: Sequence[SequenceState]) -> tuple[int, int]:
        """Return the smallest size of the batch with new sequences."""
        used = len(self._running)
        count, length = device.bucket(used + len(new), self.slots, 1), self._length(new)
        return (max(count, self._size[0]), max(length, self._size[1])) if used else (count, length)

    def _longest(self, sequences: Sequence[SequenceState]) -> int:
        """Return the length, padding included, at which these sequences are read."""
        return device.bucket(max(sequence.length for sequence in sequences), self.context_length)

    def _admission_size(self, new: Sequence[SequenceState]) -> tuple[int, int] | None:
        """Return a size at which sequences can be admitted, or None while its programs are being compiled.

        If sequences will outgrow the smallest size, programs are compiled for the next length: it is needed soon, perhaps before they are
        ready.
        """
        count, length = self._size_with(new)
        prompts = len(new), self._longest(new)
        sizes = [(count, length), *(size for size in self._sizes(count, length * 2) if self._budget.fits(size, prompts))]
        grows = any(sequence.limit > length for sequence in (*self._running.values(), *new))
        found = self._compiled.choose(*(self._admission_programs(size, new) for size in sizes), preferred=-1 if grows else 0)
        return None if found is None else sizes[found]

    def _sizes(self, count: int, length: int) -> list[tuple[int, int]]:
        """Return the sizes within the budget of this length, or the context's: with `count` rows, and with rows for all that wait."""
        everyone = device.bucket(min(self.slots, len(self._running) + self.waiting), self.slots, 1)
        sizes = dict.fromkeys((rows, min(length, self.context_length)) for rows in (count, max(count, everyone)))
        return [size for size in sizes if self._budget.fits(size)]

    def _admission_programs(self, size: tuple[int, int], new: Sequence[SequenceState]) -> list[Program]:
        """Return the programs that admit sequences to a batch of this size and decode it."""
        alternatives = sequence_state.requested_logprobs([*self._running.values(), *new])
        old = self._size if self._running or self._size == size else None
        return [*programs.admit(*size, *self._prefill_shape(new)), *programs.resize(old, size), programs.decode(*size, alternatives)]

    def _growth_programs(self, size: tuple[int, int]) -> list[Program]:
        """Return the programs that give the batch another size and decode it."""
        alternatives = sequence_state.requested_logprobs(self._running.values())
        return [*programs.resize(self._size, size), programs.decode(*size, alternatives)]

    def _prefill_shape(self, new: Sequence[SequenceState]) -> tuple[int, int, int, int | None]:
        """Return the arguments of the programs that read sequences: distinct prompts, their length, sequences, alternatives of prompts."""
        prompts, count = (device.bucket(n, self.slots, 1) for n in (len({sequence.tokens for sequence in new}), len(new)))
        alternatives = sequence_state.requested_logprobs(sequence_state.with_prompt_logprobs(new))
        return prompts, self._longest(new), count, alternatives

    def _prefill(self, new: Sequence[SequenceState]) -> None:
        """Read the tokens of sequences into free rows."""
        prompts = list(dict.fromkeys(sequence.tokens for sequence in new))  # a prompt with several continuations is read once
        u, t, count, alternatives = shape = self._prefill_shape(new)
        tokens_UT, lengths_U = np.zeros((u, t), np.int32), np.ones(u, np.int32)
        for index, prompt in enumerate(prompts):
            tokens_UT[index, : len(prompt)], lengths_U[index] = prompt, len(prompt)
        rows_R, source_R = np.full(count, len(self._batch), np.int32), np.zeros(count, np.int32)
        free = [row for row, sequence in enumerate(self._batch) if not sequence]
        for index, (row, sequence) in enumerate(zip(free, new, strict=False)):
            rows_R[index], source_R[index] = row, prompts.index(sequence.tokens)
            self._batch[row] = sequence
            self._released.discard(row)
        prefill, insert_cache, insert_state = (self._compiled[program] for program in programs.admit(*self._size, *shape))
        read = prefill(self.decoder, tokens_UT)
        if alternatives is not None:
            read, logprobs = read[0], jax.device_get(read[1])
            for sequence in sequence_state.with_prompt_logprobs(new):
                index = prompts.index(sequence.tokens)
                sequence.prompt = sequence_state.prompt_tokens(sequence.request, {name: x[index] for name, x in logprobs.items()})
        cache = jax.tree.map(lambda old, part: insert_cache(old, part, source_R, rows_R), self._rows.cache, read)
        initial = device.initial_state([sequence.request for sequence in new], [sequence.limit for sequence in new], count)
        state = insert_state(self._rows.state, tokens_UT, lengths_U, source_R, rows_R, initial)
        self._rows = device.Rows(cache=cache, state=state)

    def _resize(self) -> None:
        """Give the batch the size that it needs, if the programs are compiled; preempt the youngest sequences if memory is short."""
        running = self._running
        if not running:
            return
        (count, length), keep = self._size, sorted(running, key=lambda row: running[row].ticket)
        needed = self._length(running.values())
        few = device.bucket(len(keep), self.slots, 1)
        size = (
            few if few * SHRINK_FACTOR <= count else count,
            needed if needed > length or needed * SHRINK_FACTOR <= length else length,
        )
        while needed > length and not self._budget.fits(size):
            keep = keep[:-1]
            size = (device.bucket(len(keep), self.slots, 1), max(length, self._length(running[row] for row in keep)))
        grows = needed > length
        sizes = self._sizes(*size) if grows else [size]
        found = self._compiled.choose(*map(self._growth_programs, sizes), preferred=-1, optional=not grows, urgent=grows)
        if found is not None:
            self._alternatives = sequence_state.requested_logprobs(running.values())
            for row in running.keys() - set(keep):
                self._preempt(row)
            self._move(sizes[found], keep)
        self._compile_ahead()

    def _compile_ahead(self) -> None:
        """Have programs of the next length compiled in the background if a sequence may outgrow the present one."""
        count, length = self._size
        if any(sequence.limit > length for sequence in self._running.values()) and (sizes := self._sizes(count, length * 2)):
            self._compiled.choose(*map(self._growth_programs, sizes), preferred=-1, optional=True, urgent=True)

    def _move(self, size: tuple[int, int], keep: Sequence[int]) -> None:
        """Give the batch a size, with the sequences of rows `keep` first; only one array of the cache exists twice at a time."""
        if self._size == size:
            return
        sequences = [self._batch[row] for row in keep]
        if sequences:
            source_R = np.array([*keep, *[device.ABSENT] * (size[0] - len(keep))], np.int32)
            resize_cache, resize_state = (self._compiled[program] for program in programs.resize(self._size, size))
            structure = jax.tree.structure(self._rows.cache)
            arrays, state = jax.tree.leaves(self._rows.cache), resize_state(self._rows.state, source_R)
            self._rows = None
            for index, old in enumerate(arrays):
                arrays[index] = jax.block_until_ready(resize_cache(old, source_R))
                old.delete()
            self._rows = device.Rows(cache=jax.tree.unflatten(structure, arrays), state=state)
        else:
            self._rows = None  # frees the old arrays before the new ones are allocated
            (program,) = programs.resize(None, size)
            self._rows = self._compiled[program](self.decoder)
        self._batch, self._released = [*sequences, *[None] * (size[0] - len(sequences))], set()

    def _preempt(self, row: int) -> None:
        """Return a sequence to its place among the waiting ones until its tokens are read again."""
        sequence = self._batch[row]
        self._release(row)
        self._waiting = {each.ticket: each for each in sorted([sequence, *self._waiting.values()], key=lambda each: each.ticket)}

    def _decode(self, held: Sequence[int], steps: int) -> dict[int, TextDelta]:
        """Decode tokens in all rows that are not held."""
        dropped_B, held_B = np.zeros((2, len(self._batch)), bool)
        dropped_B[list(self._released)], held_B[held] = True, True
        self._released = set()
        decode = self._compiled[programs.decode(*self._size, self._alternatives)]
        rows, self._rows = self._rows, None
        self._rows, outputs = decode(self.decoder, rows, dropped_B, held_B, np.int32(steps))
        outputs, pieces = jax.device_get(outputs), {}
        for row, sequence in self._running.items():
            if row not in held:
                piece = sequence_state.next_piece(sequence, {name: x[row] for name, x in outputs.items()})
                pieces[sequence.ticket] = piece
                if piece.finish_reason:
                    self._release(row)
        return pieces

    def _next_length(self, sequence: SequenceState) -> int:
        """Return the row length for a sequence's next chunk; a short sequence gets its final length at once."""
        return min(max(sequence.length + self.chunk, cache_budget.MIN_SLOTS), sequence.limit)

    def _length(self, sequences: Iterable[SequenceState]) -> int:
        return device.bucket(max(map(self._next_length, sequences)), self.context_length)

    def _release(self, row: int) -> None:
        self._batch[row] = None
        self._released.add(row)


def warmup_programs(budget: CacheBudget, slots: int) -> list[Program]:
    """Return the programs of every size that take long to compile, for requests without log-probabilities."""
    context = budget.context_length
    powers = lambda largest, smallest: sorted({device.bucket(2**n, largest, smallest) for n in range(largest.bit_length() + 1)})  # noqa: E731
    counts, lengths = powers(slots, 1), powers(context, device.MIN_PROMPT)
    prefills = [(n, length) for length in lengths for n in counts if n == 1 or n * length <= PREFILL_TOKENS]
    decodes = [(n, length) for length in lengths for n in counts]
    warm = [programs.prefill(*size) for size in prefills if budget.fits((1, size[1]), size)]
    return warm + [programs.decode(*size, None) for size in decodes if budget.fits(size)]


def complete(
    decoder: Decoder,
    tokenizer: tokenizers.Tokenizer,
    requests: Sequence[Request],
    *,
    slots: int,
    pause: Callable[[], None] = lambda: None,
) -> list[TextDelta]:
    """Return the whole continuation of each request, in order, with at most `slots` decoded at a time; raises as `run` does."""
    return run(Engine(decoder, tokenizer, slots=slots), requests, pause)


def run(engine: Engine, requests: Sequence[Request], pause: Callable[[], None] = lambda: None) -> list[TextDelta]:
    """Return the whole continuation of each request from an idle engine; `pause` is called before each of its steps.

    Raises:
        UserError: a request can never be served; none has begun then.
    """
    for request in requests:
        engine.validate(request)
    by_length = sorted(range(len(requests)), key=lambda index: -len(requests[index].prompt))  # neighbours of a length pad the least
    index_of = {engine.add(requests[index]): index for index in by_length}
    parts: list[list[TextDelta]] = [[] for _ in requests]
    while not engine.idle:
        pause()
        for ticket, piece in engine.step().items():
            parts[index_of[ticket]].append(piece)
    return [
        TextDelta(
            text="".join(piece.text for piece in pieces),
            tokens=tuple(token for piece in pieces for token in piece.tokens),
            finish_reason=pieces[-1].finish_reason,
            prompt=pieces[0].prompt,
        )
        for pieces in parts
    ]
