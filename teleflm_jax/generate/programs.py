"""The programs that continue texts, compiled for their sizes before they are called: at once, or beside the texts that go on.

A call never compiles: what is called has been asked for with `ready`.
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
"""(Name of a function in `rows`, its sizes): a method of `_Lowered`, and its arguments."""
WAIT_SECONDS = 0.05
"""Seconds that an engine with nothing else to do waits for a program, before it looks for other orders."""


def extend(count: int, slots: int, alternatives: int | None) -> Program:
    """Continues texts."""
    return ("extend", count, slots, alternatives)


def read(prompts: int, length: int) -> Program:
    """Reads prompts."""
    return ("read", prompts, length)


def begin(count: int, slots: int, prompts: int, length: int, new: int, told: int | None) -> tuple[Program, ...]:
    """Read prompts, telling so many alternatives to their tokens, and put new texts among `count` rows."""
    reading = read(prompts, length) if told is None else ("told", prompts, length, told)
    return (reading, ("written", count, slots, prompts, length, new), ("begun", count, prompts, length, new))


def move(old: tuple[int, int] | None, new: tuple[int, int]) -> tuple[Program, ...]:
    """Make rows of another number and length, from none or from old ones."""
    if old is None:
        return (("empty", *new),)
    return () if old == new else (("moved", *old, *new), ("moved_of", old[0], new[0]))


class Programs:
    """Compiled programs by sizes; one caller."""

    def __init__(self, decoder: Decoder, *, chunk: int, beside: bool = False):
        """Make the collection, with nothing in it.

        Args:
            decoder: whose programs they are.
            chunk: of `rows.extend`.
            beside: compile in a thread of its own, while the caller goes on with what it has; what the caller sees then depends on the
                time, so that it is not for runs of several processes.
        """
        self._lowered = _Lowered(decoder=decoder, chunk=chunk)
        self._compiled: dict[Program, jax.stages.Compiled] = {}
        self._under_way: dict[Program, concurrent.futures.Future] = {}
        self._patient: set[Program] = set()
        """The last set that was not urgent."""
        self._urgent: set[Program] = set()
        """Those under way that are."""
        self._pools = {urgent: concurrent.futures.ThreadPoolExecutor(1, "compile") for urgent in (False, True)} if beside else {}
        """One thread for new texts and one for those under way, so that these never wait behind the programs of a new one."""

    @property
    def beside(self) -> bool:
        """Whether programs are compiled in the background."""
        return bool(self._pools)

    @property
    def compiling(self) -> bool:
        """Whether a program is being compiled beside; may be called from any thread."""
        return any(not future.done() for future in list(self._under_way.values()))

    def ready(self, *sets: Sequence[Program], preferred: int = 0, optional: bool = False, urgent: bool = False) -> int | None:
        """Return the index of the first set all of whose programs can be called, or None.

        If there is none, one set is compiled: in the foreground the first, at once; in the background the preferred one, unless another is
        already being compiled. In the background one set for new texts is compiled at a time, so that one that is no longer needed does
        not delay others.

        Args:
            sets: any of them serves the caller.
            preferred: index of the set that is compiled in the background.
            optional: the caller can do without them, so they are only compiled in the background.
            urgent: texts under way need them or soon will.

        Raises:
            Exception: of the compiler.
        """
        self._collect()
        missing = [[program for program in programs if program not in self._compiled] for programs in sets]
        if [] in missing:
            return missing.index([])
        if not self.beside:
            if optional:
                return None
            self._compiled |= {program: self._compile(program) for program in missing[0]}
            return 0
        begun = self._urgent if urgent else self._under_way.keys()
        if (urgent or not self._patient & begun) and not any(begun >= set(programs) for programs in missing):
            self._submit([program for program in missing[preferred] if program not in begun], urgent)
        return None

    def _submit(self, programs: Sequence[Program], urgent: bool) -> None:
        """Have programs compiled in the background; urgent ones do not stay in the queue of those that are not."""
        for program in programs:
            if program not in self._under_way or self._under_way[program].cancel():
                self._under_way[program] = self._pools[urgent].submit(self._compile, program)
        if urgent:
            self._urgent |= set(programs)
        else:
            self._patient = set(programs)

    def compile(self, program: Program) -> None:
        """Compile one now, before texts come."""
        self._compiled[program] = self._compile(program)

    def wait(self) -> None:
        """Pass a moment, at most until what is compiled beside is ready."""
        concurrent.futures.wait(self._under_way.values(), timeout=WAIT_SECONDS)

    def end(self) -> None:
        """Compile no more; what is under way goes on."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    def __getitem__(self, program: Program) -> Callable[..., Any]:
        """One that is ready."""
        return self._compiled[program]

    def _compile(self, program: Program) -> jax.stages.Compiled:
        name, *sizes = program
        return getattr(self._lowered, name)(*sizes).compile()

    def _collect(self) -> None:
        for program, future in list(self._under_way.items()):
            if future.done():
                del self._under_way[program]
                self._urgent.discard(program)
                self._compiled[program] = future.result()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Lowered:
    """Programs as JAX hands them to the compiler, by the shapes and places of what they will be called with."""

    decoder: Decoder
    chunk: int

    def extend(self, count: int, slots: int, alternatives: int | None) -> jax.stages.Lowered:
        mask = jax.ShapeDtypeStruct((count,), bool)
        found = self._rows(count, slots)
        return rows.extend.lower(self.decoder, found, mask, mask, _ints(), chunk=self.chunk, alternatives=alternatives)

    def empty(self, count: int, slots: int) -> jax.stages.Lowered:
        return rows.empty.lower(self.decoder, count=count, slots=slots)

    def read(self, prompts: int, length: int) -> jax.stages.Lowered:
        return rows.read.lower(self.decoder, _ints(prompts, length))

    def told(self, prompts: int, length: int, alternatives: int) -> jax.stages.Lowered:
        return rows.told.lower(self.decoder, _ints(prompts, length), alternatives=alternatives)

    def written(self, count: int, slots: int, prompts: int, length: int, new: int) -> jax.stages.Lowered:
        old, read = rows.cached(self.decoder, count, slots), rows.cached(self.decoder, prompts, length)
        return rows.written.lower(old, read, _ints(new), _ints(new), layout=self.decoder.layout)

    def begun(self, count: int, prompts: int, length: int, new: int) -> jax.stages.Lowered:
        settings = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in rows.settings([rows.NOBODY], [0], new).items()}
        sizes = _ints(prompts, length), _ints(prompts), _ints(new), _ints(new)
        return rows.begun.lower(self._of(count), *sizes, settings, layout=self.decoder.layout)

    def moved(self, count: int, slots: int, new_count: int, new_slots: int) -> jax.stages.Lowered:
        return rows.moved.lower(rows.cached(self.decoder, count, slots), _ints(new_count), slots=new_slots, layout=self.decoder.layout)

    def moved_of(self, count: int, new_count: int) -> jax.stages.Lowered:
        return rows.moved_of.lower(self._of(count), _ints(new_count), layout=self.decoder.layout)

    def _of(self, count: int) -> dict[str, jax.ShapeDtypeStruct]:
        where = self.decoder.layout.replicated()
        found = rows.state(self.decoder.vocab_size, count)
        return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where) for name, x in found.items()}

    def _rows(self, count: int, slots: int) -> rows.Rows:
        layers = (rows.cached(self.decoder, count, slots),) * self.decoder.model.config.num_layers
        return rows.Rows(cache=kv.Cache(keys=layers, values=layers), of=self._of(count))


def _ints(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.int32)
