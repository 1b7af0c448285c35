"""The pipeline's schedule: which microbatch each stage runs at each tick, and the loop that runs them.

1F1B in lockstep: at every tick each stage runs one forward and one backward unit, then sends its results to its neighbours. A unit is one
chunk of layers on one microbatch. With p stages, v chunks a stage and m microbatches (v > 1 needs p to divide m), stage i at tick t runs

    forward unit  u = t - i                      chunk (u mod pv) div p,          microbatch p (u div pv) + u mod p
    backward unit u = t - (pv - 1) - (p - 1 - i) chunk v - 1 - (u mod pv) div p,  microbatch the same

so that an output reaches the next stage at the tick that needs it, and nothing is queued. A tick in which both units run costs as much as
the busiest stage; the bubble is (p - 1) / (vm + p - 1) of the step. Source: interleaved 1F1B of Narayanan et al. 2021, in lockstep.

The caller gives the backward pass; JAX does not differentiate the loop. The residuals of a unit live at most 2pv - 2 ticks, hence `slots`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sharding.axes import PIPE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """A unit that a stage runs at a tick; plain values without a pipeline, traced ones with it."""

    on: Any
    """True if there is a unit to run."""
    chunk: Any
    next_chunk: Any
    """Chunk of the unit after it."""
    microbatch: Any
    slot: Any
    """Index of its residuals."""
    first: Any
    """True if its input comes from the embedding."""
    last: Any
    """True if its output goes to the head."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineSchedule:
    """1F1B over `stages` with `chunks` of layers each and `microbatches`."""

    stages: int
    chunks: int
    microbatches: int

    @property
    def ticks(self) -> int:
        """Ticks of forward and backward passes together."""
        return self.microbatches * self.chunks + self.chunks * self.stages + self.stages - 2

    @property
    def forward_ticks(self) -> int:
        """Ticks of forward passes alone."""
        return self.microbatches * self.chunks + self.stages - 1

    @property
    def slots(self) -> int:
        """Largest number of units whose residuals exist at the same time."""
        return min(2 * self.chunks * self.stages - 1, self.microbatches * self.chunks)

    def forward(self, tick: Any) -> Unit:
        """Return this stage's forward unit."""
        if self.stages == 1:
            return Unit(on=True, chunk=0, next_chunk=0, microbatch=tick, slot=0, first=True, last=True)
        return self._unit(tick - jax.lax.axis_index(PIPE), forward=True)

    def backward(self, tick: Any) -> Unit:
        """Return this stage's backward unit."""
        if self.stages == 1:
            return self.forward(tick)
        behind = self.stages * self.chunks - 1 + self.stages - 1 - jax.lax.axis_index(PIPE)
        return self._unit(tick - behind, forward=False)

    def _unit(self, number: jax.Array, *, forward: bool) -> Unit:
        on = (number >= 0) & (number < self.microbatches * self.chunks)
        number = jnp.where(on, number, 0)
        group, offset = number // (self.stages * self.chunks), number % self.stages
        chunk, next_chunk = (self._chunk(u, forward=forward) for u in (number, number + 1))
        ran_forward = number if forward else (group * self.chunks + chunk) * self.stages + offset
        stage = jax.lax.axis_index(PIPE)
        return Unit(
            on=on,
            chunk=chunk,
            next_chunk=next_chunk,
            microbatch=group * self.stages + offset,
            slot=ran_forward % self.slots,
            first=on & (stage == 0) & (chunk == 0),
            last=on & (stage == self.stages - 1) & (chunk == self.chunks - 1),
        )

    def _chunk(self, number: jax.Array, *, forward: bool) -> jax.Array:
        chunk = number % (self.stages * self.chunks) // self.stages
        return chunk if forward else self.chunks - 1 - chunk


Forward = Callable[[Any, Unit, jax.Array], tuple[Any, jax.Array]]
"""(carry, unit, input) -> (carry, output)."""
Backward = Callable[[Any, Unit, jax.Array, jax.Array], tuple[Any, jax.Array]]
"""(carry, unit, output of the forward unit, gradient of the unit's output) -> (carry, gradient of its input)."""


def run(schedule: PipelineSchedule, forward: Forward, backward: Backward, carry: Any, x: jax.Array) -> Any:
    """Run all units.

    Args:
        schedule: the order of units.
        forward: (carry, unit, input) -> (carry, output); its loops should run zero times where `unit.on` is false.
        backward: (carry, unit, output of this tick's forward unit, gradient of its own output) -> (carry, gradient of its input). At
            `unit.last` the two units are the same, and `backward` computes the gradient from the output.
        carry: arrays that are updated in place, such as residuals and gradients.
        x: zeros of the shape and dtype that stages send to each other.
    """

    def tick(t, state):
        carry, x, dy = state
        carry, y = forward(carry, schedule.forward(t), x)
        carry, dx = backward(carry, schedule.backward(t), y, dy)
        return carry, _hand_over(schedule, y, 1), _hand_over(schedule, dx, -1)

    return jax.lax.fori_loop(0, schedule.ticks, tick, (carry, x, x))[0]


def run_forward(schedule: PipelineSchedule, forward: Forward, carry: Any, x: jax.Array) -> Any:
    """Run all forward units, without a backward pass."""

    def tick(t, state):
        carry, x = state
        carry, y = forward(carry, schedule.forward(t), x)
        return carry, _hand_over(schedule, y, 1)

    return jax.lax.fori_loop(0, schedule.forward_ticks, tick, (carry, x))[0]


def run_if(on: Any, function: Callable[[Any], Any], carry: Any) -> Any:
    """Return `function(carry)` if `on`, else `carry`: a loop of one or zero iterations, since `cond` would copy arrays it leaves alone."""
    if on is True:
        return function(carry)
    return jax.lax.fori_loop(0, on.astype(jnp.int32), lambda _, held: function(held), carry)


def trip_count(on: Any, count: int) -> Any:
    """Return `count` if `on`, else 0: the bound of a loop that an idle unit skips."""
    return count if on is True else jnp.where(on, count, 0)


def _hand_over(schedule: PipelineSchedule, x: jax.Array, by: int) -> jax.Array:
    """Send to the next (1) or previous (-1) stage; with several chunks, also from the last stage to the first."""
    p = schedule.stages
    if p == 1:
        return x
    pairs = [(i, (i + by) % p) for i in range(p) if schedule.chunks > 1 or 0 <= i + by < p]
    return jax.lax.ppermute(x, PIPE, pairs)
