"""What a compiled step sends, read from its text: bytes that one device sends over each mesh axis, weighted by the loops' trip counts."""

import collections
import math
import re
from collections.abc import Mapping

import jax
import numpy as np

BYTES = {"bf16": 2, "f32": 4, "s32": 4, "u32": 4, "pred": 1}
COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all)(?:-start)?\(")


def sent(text: str, mesh: jax.sharding.Mesh, turns: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """(mesh axes, kind of collective) -> bytes.

    Args:
        text: of the compiled module; devices are numbered in the order of the mesh.
        mesh: the mesh it was compiled for.
        turns: for a loop whose count is known at run time only, or a branch: its mean turns by the named scope that it stands in.
    """
    lines_of, name = collections.defaultdict(list), None
    for line in text.splitlines():
        opens = re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
        if opens:
            name = opens[1]
        elif name:
            lines_of[name].append(line)
    caller, runs = {}, {}
    for computation, lines in lines_of.items():
        for line in lines:
            body = re.search(r"\bbody=%?([\w.\-]+)", line)
            if body:
                known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
                caller[body[1]], runs[body[1]] = computation, float(known[1]) if known else None
            branches = re.search(r"(?:branch_computations=\{|true_computation=)(.*)", line)
            for branch in re.findall(r"%([\w.\-]+)", branches[1]) if branches else ():
                caller[branch], runs[branch] = computation, None
            for called in re.findall(r"(?:calls=|to_apply=|async_computation=)%?([\w.\-]+)", line):
                caller.setdefault(called, computation)
    total = collections.Counter()
    for computation, lines in lines_of.items():
        for line in lines:
            found = COLLECTIVE.search(line)
            if found:
                scopes = [scope for scope in turns if re.search(rf"[/(]{scope}[/)]", line)]
                times, place = 1.0, computation
                while place in caller:
                    count = runs.get(place, 1.0)
                    times, place = times * (turns[scopes[0]] if count is None else count), caller[place]
                axes, size = _axes(line, mesh)
                total[axes, found[2]] += times * _cost(found[2], result_bytes(found[1]), size)
    return dict(total)


def result_bytes(shapes: str) -> int:
    """Bytes of an instruction's result, from its type."""
    return sum(
        BYTES[t] * math.prod(int(n) for n in s.split(",") if n) for t, s in re.findall(r"(bf16|f32|s32|u32|pred)\[([\d,]*)\]", shapes)
    )


def _cost(kind: str, result: int, size: int) -> float:
    """Bytes that one device of a ring of `size` sends, from the bytes of its result."""
    if size == 1:
        return 0.0
    share = (size - 1) / size
    return {"all-gather": share, "all-reduce": 2 * share, "reduce-scatter": share * size, "collective-permute": 1.0, "all-to-all": share}[
        kind
    ] * result


def _axes(line: str, mesh: jax.sharding.Mesh) -> tuple[str, int]:
    """Which mesh axes the groups of a collective run along, and how many devices are in one."""
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", line)
    explicit = re.search(r"replica_groups=\{(\{.*?\})\}", line)
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    named = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line)  # JAX 0.12 and later: mesh['data'=2,'tensor'=4] {'tensor'}
    if named:
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        numbers = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
        inside = re.findall(r"'(\w+)'", named[2])
        group = numbers[tuple(slice(None) if name in inside else 0 for name in sizes)].reshape(-1).tolist()
    elif pairs or explicit:
        group = [int(n) for n in re.findall(r"\d+", re.search(r"\{([\d,]+)", (pairs or explicit)[0])[1])]
    else:
        numbers = np.arange(math.prod(int(n) for n in iota[2].split(","))).reshape([int(n) for n in iota[2].split(",")])
        numbers = numbers.transpose([int(n) for n in iota[3].split(",")]) if iota[3] else numbers
        group = numbers.reshape([int(n) for n in iota[1].split(",")])[0].tolist()
    places = np.array([np.unravel_index(n, mesh.devices.shape) for n in group])
    return "+".join(axis for axis, at in zip(mesh.axis_names, places.T, strict=True) if len(set(at)) > 1), len(group)
