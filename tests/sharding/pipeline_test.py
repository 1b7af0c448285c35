"""The schedule as the paper draws it: every unit once, in an order that works, with no more alive than there are slots."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from sharding import pipeline, rules
from sharding.config import MeshConfig

SCHEDULES = [(1, 1, 3), (2, 1, 1), (2, 1, 5), (4, 1, 2), (4, 1, 8), (2, 3, 4), (4, 2, 8)]


def table(stages: int, chunks: int, microbatches: int) -> tuple[pipeline.PipelineSchedule, dict]:
    """What each stage does at each tick: two dicts (tick, stage) -> unit."""
    schedule = pipeline.PipelineSchedule(stages=stages, chunks=chunks, microbatches=microbatches)
    layout = rules.layout(MeshConfig(pipe=stages), 8, jax.devices()[:stages])

    def units(tick):
        found = [vars(schedule.forward(tick)), vars(schedule.backward(tick))]
        return jax.tree.map(lambda x: np.int32(1) * x + jax.numpy.zeros(1, np.int32), found)

    each_stage = jax.jit(jax.shard_map(units, mesh=layout.mesh, in_specs=P(), out_specs=P("pipe"), check_vma=False))
    ticks = jax.device_get([each_stage(tick) for tick in range(schedule.ticks)])
    return schedule, [
        {(t, i): {name: int(x[i]) for name, x in both[way].items()} for t, both in enumerate(ticks) for i in range(stages)}
        for way in (0, 1)
    ]


@pytest.mark.parametrize("stages, chunks, microbatches", SCHEDULES)
def test_every_unit_runs_once_after_what_it_needs_within_its_slots(stages, chunks, microbatches):
    schedule, (forward, backward) = table(stages, chunks, microbatches)
    when = [{(i, unit["chunk"], unit["microbatch"]): t for (t, i), unit in ways.items() if unit["on"]} for ways in (forward, backward)]
    wanted = {(i, c, m) for i in range(stages) for c in range(chunks) for m in range(microbatches)}
    for ways, known in zip((forward, backward), when, strict=True):
        assert known.keys() == wanted
        assert sum(unit["on"] for unit in ways.values()) == len(wanted)
    for i, c, m in wanted:
        place = c * stages + i
        if place:  # outputs arrive one tick after they were made, when they are needed
            before = ((place - 1) % stages, (place - 1) // stages, m)
            assert when[0][i, c, m] == when[0][before] + 1
            assert when[1][before] == when[1][i, c, m] + 1
        unit = forward[when[0][i, c, m], i]
        assert unit["first"] == (place == 0) and unit["last"] == (place == stages * chunks - 1)
        assert backward[when[1][i, c, m], i]["slot"] == unit["slot"]
    last = stages * chunks - 1
    for m in range(microbatches):  # the head's gradient is made from what the same tick computed
        assert when[0][last % stages, chunks - 1, m] == when[1][last % stages, chunks - 1, m]
    for i in range(stages):
        alive = {}
        for t in range(schedule.ticks):
            made, used = forward[t, i], backward[t, i]
            if made["on"]:
                assert made["slot"] not in alive and made["slot"] < schedule.slots
                alive[made["slot"]] = (made["chunk"], made["microbatch"])
            if used["on"]:
                assert alive.pop(used["slot"]) == (used["chunk"], used["microbatch"])
        assert not alive


@pytest.mark.parametrize("stages, chunks, microbatches", SCHEDULES)
def test_the_bubble_is_what_is_promised(stages, chunks, microbatches):
    _, (forward, backward) = table(stages, chunks, microbatches)
    ticks = sorted({t for t, _ in forward})
    # a tick lasts as long as its busiest stage; forward and backward of a unit are 1 and 2
    length = sum(max(forward[t, i]["on"] for i in range(stages)) + 2 * max(backward[t, i]["on"] for i in range(stages)) for t in ticks)
    work = 3 * chunks * microbatches
    assert length >= work
    if microbatches >= stages:
        assert 1 - work / length == pytest.approx((stages - 1) / (chunks * microbatches + stages - 1))
