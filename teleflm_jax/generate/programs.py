"""Programs that continue sequences, compiled for their sizes before they are called: at once, or in the background while others run.

A call never compiles: each program that is called was requested with `Programs.choose`.
"""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from teleflm_jax.generate import rows
from teleflm_jax.generate.decoder import Decoder
from teleflm_jax.model import cache as kv

Program = tuple
"""Name of a function in `rows` and its sizes: a method of `_Lowered` and its arguments."""
WAIT_SECONDS = 0.05
"""Seconds that an engine with nothing else to do waits for a program before it looks for new requests."""


def decode(count: int, length: int, alternatives: int | None) -> Program:
    """Return the program that decodes a batch with this number of rows and this length."""
    return ("decode", count, length, alternatives)


def prefill(prompts: int, length: int) -> Program:
    """Return the program that reads prompts."""
    return ("prefill", prompts, length)


def admit(count: int, length: int, prompts: int, prompt_length: int, new: int, alternatives: int | None) -> tuple[Program, ...]:
    """Return the programs that read prompts, and put `new` sequences into a batch of `count` rows.

    Args:
        count: rows of the batch.
        length: their length.
        prompts: distinct prompts.
        prompt_length: their length, padding included.
        new: sequences.
        alternatives: likeliest tokens that are returned with each token of the prompts; None: no log-probabilities.
    """
    read = prefill(prompts, prompt_length)
    read = read if alternatives is None else ("prefill_with_logprobs", prompts, prompt_length, alternatives)
    return (read, ("insert_cache", count, length, prompts, prompt_length, new), ("insert_state", count, prompts, prompt_length, new))


def resize(old: tuple[int, int] | None, new: tuple[int, int]) -> tuple[Program, ...]:
    """Return the programs that make a batch of another (rows, length), from an old one or from none."""
    if old is None:
        return (("empty", *new),)
    return () if old == new else (("resize_cache", *old, *new), ("resize_state", old[0], new[0]))


class Programs:
    """Compiled programs by size, for one caller."""

    def __init__(self, decoder: Decoder, *, chunk: int, background: bool = False):
        """Create an empty collection.

        Args:
            decoder: the model that the programs run.
            chunk: argument of `rows.decode`.
            background: compile in threads while the caller continues with what it has. Results then depend on time, so this is not for
                runs of several processes.
        """
        self._lowered = _Lowered(decoder=decoder, chunk=chunk)
        self._compiled: dict[Program, jax.stages.Compiled] = {}
        self._futures: dict[Program, concurrent.futures.Future] = {}
        self._admission: set[Program] = set()
        """The last set that was requested without `urgent`."""
        self._urgent: set[Program] = set()
        """Programs being compiled that were requested with it."""
        self._pools = {urgent: concurrent.futures.ThreadPoolExecutor(1, "compile") for urgent in (False, True)} if background else {}
        """One thread for new sequences and one for running ones, so that running ones never wait for the programs of a new one."""

    @property
    def compiling(self) -> bool:
        """True while a program is being compiled in the background; may be read from any thread."""
        return any(not future.done() for future in list(self._futures.values()))

    def choose(self, *sets: Sequence[Program], preferred: int = 0, optional: bool = False, urgent: bool = False) -> int | None:
        """Return the index of the first set whose programs are all compiled, or None.

        In the foreground only the first set counts, and it is compiled at once, so that sizes do not depend on earlier calls. In the
        background, if no set is compiled, the preferred one is, unless another is already being compiled; and one set for new sequences is
        compiled at a time, so that a set that is no longer needed does not delay others.

        Args:
            sets: alternatives, any of which serves the caller.
            preferred: index of the set to compile in the background.
            optional: the caller can do without the programs, so they are only compiled in the background.
            urgent: running sequences need the programs now or soon.

        Raises:
            Exception: the compiler failed.
        """
        self._collect()
        considered = sets if self._pools else sets[:1]
        missing = [[program for program in programs if program not in self._compiled] for programs in considered]
        if [] in missing:
            return missing.index([])
        if not self._pools:
            if optional:
                return None
            self._compiled |= {program: self._compile(program) for program in missing[0]}
            return 0
        requested = self._urgent if urgent else self._futures.keys()
        if (urgent or not self._admission & requested) and not any(requested >= set(programs) for programs in missing):
            self._submit([program for program in missing[preferred] if program not in requested], urgent)
        return None

    def compile(self, program: Program) -> None:
        """Compile a program now, before any request."""
        self._compiled[program] = self._compile(program)

    def wait(self) -> None:
        """Wait for a moment, at most until the programs in the background are compiled."""
        concurrent.futures.wait(self._futures.values(), timeout=WAIT_SECONDS)

    def close(self) -> None:
        """Compile nothing more; a compilation that has begun continues."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    def __getitem__(self, program: Program) -> Callable[..., Any]:
        """Return a compiled program."""
        return self._compiled[program]

    def _submit(self, programs: Sequence[Program], urgent: bool) -> None:
        """Compile programs in the background; urgent ones leave the queue of those that are not."""
        for program in programs:
            if program not in self._futures or self._futures[program].cancel():
                self._futures[program] = self._pools[urgent].submit(self._compile, program)
        if urgent:
            self._urgent |= set(programs)
        else:
            self._admission = set(programs)

    def _compile(self, program: Program) -> jax.stages.Compiled:
        name, *sizes = program
        return getattr(self._lowered, name)(*sizes).compile()

    def _collect(self) -> None:
        for program, future in list(self._futures.items()):
            if future.done():
                del self._futures[program]
                self._urgent.discard(program)
                self._compiled[program] = future.result()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Lowered:
    """Programs lowered for the compiler, from the shapes and shardings of their arguments."""

    decoder: Decoder
    chunk: int

    def decode(self, count: int, length: int, alternatives: int | None) -> jax.stages.Lowered:
        mask = jax.ShapeDtypeStruct((count,), bool)
        batch = self._rows(count, length)
        return rows.decode.lower(self.decoder, batch, mask, mask, _ints(), chunk=self.chunk, alternatives=alternatives)

    def empty(self, count: int, length: int) -> jax.stages.Lowered:
        return rows.empty.lower(self.decoder, count=count, length=length)

    def prefill(self, prompts: int, length: int) -> jax.stages.Lowered:
        return rows.prefill.lower(self.decoder, _ints(prompts, length))

    def prefill_with_logprobs(self, prompts: int, length: int, alternatives: int) -> jax.stages.Lowered:
        return rows.prefill_with_logprobs.lower(self.decoder, _ints(prompts, length), alternatives=alternatives)

    def insert_cache(self, count: int, length: int, prompts: int, prompt_length: int, new: int) -> jax.stages.Lowered:
        old, read = rows.cache_shape(self.decoder, count, length), rows.cache_shape(self.decoder, prompts, prompt_length)
        return rows.insert_cache.lower(old, read, _ints(new), _ints(new), layout=self.decoder.layout)

    def insert_state(self, count: int, prompts: int, prompt_length: int, new: int) -> jax.stages.Lowered:
        initial = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in rows.initial_state([rows.NO_REQUEST], [0], new).items()}
        sizes = _ints(prompts, prompt_length), _ints(prompts), _ints(new), _ints(new)
        return rows.insert_state.lower(self._state(count), *sizes, initial, layout=self.decoder.layout)

    def resize_cache(self, count: int, length: int, new_count: int, new_length: int) -> jax.stages.Lowered:
        old = rows.cache_shape(self.decoder, count, length)
        return rows.resize_cache.lower(old, _ints(new_count), length=new_length, layout=self.decoder.layout)

    def resize_state(self, count: int, new_count: int) -> jax.stages.Lowered:
        return rows.resize_state.lower(self._state(count), _ints(new_count), layout=self.decoder.layout)

    def _state(self, count: int) -> dict[str, Any]:
        sharding = self.decoder.layout.replicated()
        shapes = rows.state_shapes(self.decoder.vocab_size, count)
        return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for name, x in shapes.items()}

    def _rows(self, count: int, length: int) -> rows.Rows:
        """Return rows whose arrays are shapes."""
        layers: Any = (rows.cache_shape(self.decoder, count, length),) * self.decoder.model.config.num_layers
        return rows.Rows(cache=kv.Cache(keys=layers, values=layers), state=self._state(count))


def _ints(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.int32)
