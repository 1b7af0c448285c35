"""Parser of a compiled step's HLO text: trip counts, bytes sent over each mesh axis, matrix products, arrays that loops carry."""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

import jax
import numpy as np

BYTES = {"pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4}
BYTES |= {"s64": 8, "u64": 8, "f64": 8}
ARRAY = re.compile(rf"({'|'.join(BYTES)})\[([\d,]*)\]")
KINDS = "all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all"
COLLECTIVE = re.compile(rf" = (.*?) ({KINDS})(-start)?\(")
PRODUCT = re.compile(r' = (.*?) (?:dot\((.*?)\)|custom-call\((.*?)\), custom_call_target="__(?:cublas|onednn)[^"]*")')
STARTED = re.compile(rf"\s*%([\w.\-]+) = .*? (?:{KINDS})-start\(")
DONE = re.compile(rf"\s*(?:ROOT )?%[\w.\-]+ = .*? (?:{KINDS})-done\(%([\w.\-]+)")
FLASH = re.compile(r'custom_call_target="__cudnn\$fmhaSoftmax(Backward)?"')
LOOP = re.compile(r" = (\(.*?\)) while\(")
CONTRACTED = re.compile(r'lhs_contracting_dim(?:ension)?s"?[=:][\[{]"?([\d",]*)[\]}]')
Shape = tuple[str, tuple[int, ...]]
"""dtype and dimensions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overlap:
    """A collective, and the work scheduled between its start and its end."""

    axes: str
    bytes_: float
    """Bytes that one device of a ring sends each time."""
    runs: float
    product_flops: float
    attention_flops: float


@dataclasses.dataclass(frozen=True)
class Program:
    """HLO text of a compiled module whose devices are numbered in the order of `mesh`."""

    text: str
    mesh: jax.sharding.Mesh
    turns: Mapping[str, float]
    """Named scope -> mean iterations of a loop whose trip count is known only at run time, or of a branch, that contains it."""

    @functools.cached_property
    def computations(self) -> dict[str, list[str]]:
        """Computation -> its lines."""
        lines_of, name = collections.defaultdict(list), None
        for line in self.text.splitlines():
            opens = re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
            if opens:
                name = opens[1]
            elif name:
                lines_of[name].append(line)
        return dict(lines_of)

    @functools.cached_property
    def _callers(self) -> dict[str, list[tuple[str, float | None]]]:
        """Computation -> (caller, number of calls); None where the number is known only at run time."""
        found: dict[str, list[tuple[str, float | None]]] = collections.defaultdict(list)
        for computation, lines in self.computations.items():
            for line in lines:
                if body := re.search(r"\bbody=%?([\w.\-]+)", line):
                    known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
                    found[body[1]].append((computation, float(known[1]) if known else None))
                if branches := re.search(r"(?:branch_computations=\{|true_computation=)(.*)", line):
                    for branch in re.findall(r"%([\w.\-]+)", branches[1]):
                        found[branch].append((computation, None))
                for called in re.findall(r"(?:calls=|to_apply=|async_computation=)%?([\w.\-]+)", line):
                    found[called].append((computation, 1.0))
        return dict(found)

    def runs(self, computation: str, line: str = "") -> float:
        """Return the number of runs of a computation in one step; the named scope of `line`, an instruction in it, is looked up first."""
        callers = self._callers.get(computation)
        if callers is None:
            return 1.0
        return sum((self._turns(computation, line) if count is None else count) * self.runs(outer, line) for outer, count in callers)

    def _turns(self, computation: str, line: str) -> float:
        for candidate in (line, *self.computations[computation]):
            for scope, turns in self.turns.items():
                if re.search(rf"[/(]{scope}[/)]", candidate):
                    return turns
        return 1.0

    def _instructions(self) -> Iterator[tuple[str, str]]:
        for computation, lines in self.computations.items():
            for line in lines:
                yield computation, line

    def sent(self) -> dict[tuple[str, str], float]:
        """Return (mesh axes, kind of collective) -> bytes that one device of a ring sends in one step."""
        total: dict[tuple[str, str], float] = collections.defaultdict(float)
        for computation, line in self._instructions():
            if COLLECTIVE.search(line):
                axes, kind, bytes_ = self._message(line)
                total[axes, kind] += self.runs(computation, line) * bytes_
        return dict(total)

    def _message(self, line: str) -> tuple[str, str, float]:
        """Return a collective's mesh axes, kind, and the bytes that one device of a ring sends each time."""
        found = COLLECTIVE.search(line)
        assert found is not None  # callers have looked
        axes, size = _axes(line, self.mesh)
        return axes, found[2], _cost(found[2], message_bytes(found), size)

    def product_flops(self) -> float:
        """Return the FLOPs of all matrix products of one device in one step, without attention kernels."""
        return sum(flops * self.runs(at, line) for at, line in self._instructions() if (flops := self._product(at, line)))

    def _product(self, computation: str, line: str) -> float:
        """Return the FLOPs of one instruction; 0 unless it is a matrix product."""
        found = PRODUCT.search(line)
        if not found:
            return 0.0
        left = self._shapes[computation][re.findall(r"%([\w.\-]+)", found[2] or found[3])[0]]
        dimensions = CONTRACTED.search(line)
        contracted = math.prod(left[1][int(n)] for n in re.findall(r"\d+", dimensions[1])) if dimensions else 1
        return 2.0 * math.prod(arrays(found[1])[0][1]) * contracted

    def beside(self) -> list[Overlap]:
        """Return every asynchronous collective with the work scheduled between its start and its end."""
        found = []
        for computation, lines in self.computations.items():
            begun = {}
            for number, line in enumerate(lines):
                if started := STARTED.match(line):
                    begun[started[1]] = number
                if (done := DONE.match(line)) and done[1] in begun:
                    start = lines[begun[done[1]]]
                    axes, _, bytes_ = self._message(start)
                    between = lines[begun[done[1]] + 1 : number]
                    found.append(
                        Overlap(
                            axes=axes,
                            bytes_=bytes_,
                            runs=self.runs(computation, start),
                            product_flops=sum(self._product(computation, other) for other in between),
                            attention_flops=sum(map(_attention, between)),
                        )
                    )
        return found

    def kernel_runs(self, name: str) -> float:
        """Return the number of custom calls of this name in one step."""
        return sum(self.runs(at, line) for at, line in self._instructions() if f'custom_call_target="{name}"' in line)

    @functools.cached_property
    def _shapes(self) -> dict[str, dict[str, Shape]]:
        """Computation -> instruction -> first array of its result."""
        return {name: _defined(lines) for name, lines in self.computations.items()}

    def loops(self) -> list[collections.Counter[Shape]]:
        """Return the arrays that each loop carries, with their number; the loop that carries most bytes comes first."""
        found = [collections.Counter(arrays(loop[1])) for _, line in self._instructions() if (loop := LOOP.search(line))]
        return sorted(found, key=lambda loop: -sum(nbytes(shape) * count for shape, count in loop.items()))


def _attention(line: str) -> float:
    """Return the FLOPs of a causal flash attention call; the backward pass has 2.5 times those of the forward pass.

    Its first result is [batch, heads, positions, head size].
    """
    kernel = FLASH.search(line)
    if not kernel:
        return 0.0
    batch, heads, positions, size = arrays(line)[0][1]
    return 2.0 * batch * heads * positions**2 * size * (2.5 if kernel[1] else 1.0)


def _defined(lines: list[str]) -> dict[str, Shape]:
    found = {}
    for line in lines:
        named = re.match(r"\s*(?:ROOT )?%([\w.\-]+) = (.*)", line)
        if named and (first := ARRAY.search(named[2])):
            found[named[1]] = first[1], _dimensions(first[2])
    return found


def arrays(types: str) -> list[Shape]:
    """Return the arrays of an instruction's type."""
    return [(dtype, _dimensions(dims)) for dtype, dims in ARRAY.findall(types)]


def nbytes(shape: Shape) -> int:
    """Return the size of an array in bytes."""
    return BYTES[shape[0]] * math.prod(shape[1])


def _dimensions(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n)


def message_bytes(collective: re.Match) -> int:
    """Return the bytes of a collective's result. An asynchronous one lists its operands first, except an all-reduce."""
    types, kind, started = collective.groups()
    flags = [("u32", ())] if kind == "collective-permute" else []
    found = [nbytes(shape) for shape in arrays(types) if shape not in flags]
    if started and kind != "all-reduce":
        found = found[len(found) // 2 :]
    return sum(found)


def _cost(kind: str, result: int, size: int) -> float:
    """Return the bytes that one device of a ring of `size` sends, from the bytes of the result."""
    if size == 1:
        return 0.0
    share = (size - 1) / size
    return {"all-gather": share, "all-reduce": 2 * share, "reduce-scatter": share * size, "collective-permute": 1.0, "all-to-all": share}[
        kind
    ] * result


def _axes(line: str, mesh: jax.sharding.Mesh) -> tuple[str, int]:
    """Return the mesh axes that the groups of a collective run along, and the size of a group."""
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", line)
    explicit = re.search(r"replica_groups=\{(\{.*?\})\}", line)
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    named = re.search(r"replica_groups=mesh\[(.*?)\](?: \{(.*?)\})?", line)  # mesh['data'=2,'tensor'=4] {'tensor'}; all without names
    if named:
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        numbers = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
        inside = re.findall(r"'(\w+)'", named[2] or named[1])
        group = numbers[tuple(slice(None) if name in inside else 0 for name in sizes)].reshape(-1).tolist()
    elif groups := pairs or explicit:
        group = [int(n) for n in re.findall(r"\{([\d,]+)", groups[0])[0].split(",")]
    elif "replica_groups={}" in line:
        group = list(range(mesh.size))
    elif not iota:
        raise ValueError(f"unknown form of device groups: {line.strip()[:200]}")
    else:
        numbers = np.arange(math.prod(int(n) for n in iota[2].split(","))).reshape([int(n) for n in iota[2].split(",")])
        numbers = numbers.transpose([int(n) for n in iota[3].split(",")]) if iota[3] else numbers
        group = numbers.reshape([int(n) for n in iota[1].split(",")])[0].tolist()
    places = np.array([np.unravel_index(n, mesh.devices.shape) for n in group])
    return "+".join(axis for axis, at in zip(mesh.axis_names, places.T, strict=True) if len(set(at)) > 1), len(group)
