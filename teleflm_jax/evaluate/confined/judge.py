"""Process that runs a problem's tests on a function of another process.

The tests and the prompt are part of the problem and run here; from the program this process receives only values of builtin types.
"""

import builtins
import json
import os
from typing import Any, NoReturn

import values

PASSED = "passed"
LONGEST = 800
"""Largest verdict in bytes."""


class Broken(BaseException):
    """The candidate exited or sent an invalid answer; no test can recover from it."""


class RemoteFunction:
    """The candidate's function, called like a local one."""

    def __init__(self, ask: int, answered: int):
        self._ask, self._answered = ask, answered
        self.broken: str | None = None

    def __call__(self, *arguments, **named):
        """Call it in the other process. Changed arguments are not sent back, since no test of HumanEval reads them."""
        self._say(values.pack((arguments, named)))
        return self._listen()

    def run(self, program: str, entry_point: str) -> None:
        """Run the program that defines the function."""
        self._say([program, entry_point])
        self._listen()

    def _say(self, message: object) -> None:
        try:
            values.send(self._ask, message)
        except OSError as error:
            self._break("it has ended", error)

    def _listen(self) -> Any:
        try:
            kind, *said = values.receive(self._answered)
            if kind == "returned":
                (result,) = said
                return values.unpack(result)
            names, text = said
            error = next(filter(_is_exception, map(vars(builtins).get, names)), None)
        except Exception as error:
            self._break(f"an answer that is none ({type(error).__name__}: {error})", error)
        if error is None:  # for example SystemExit, which ends a program unless it is caught
            self._break(f"{names[0]}: {text}", None)
        raise error(text)

    def _break(self, why: str, error: Exception | None) -> NoReturn:
        self.broken = why
        raise Broken(why) from error


def work(ask: int, answered: int, tell: int) -> None:
    """Read a problem from stdin, run its tests, and send the verdict; never raises."""
    try:
        with os.fdopen(0, "rb") as stdin:  # closed before the tests run
            problem = json.load(stdin)
        why = verdict(problem, RemoteFunction(ask, answered))
        os.write(tell, why.encode(errors="replace")[:LONGEST])
    finally:
        os._exit(0)


def verdict(problem: dict[str, str], candidate: RemoteFunction) -> str:
    """Return `PASSED`, or the failure."""
    entry_point = problem["entry_point"]
    try:
        candidate.run(problem["program"], entry_point)
        namespace: dict[str, Any] = {"__name__": "judge"}
        exec(_complete(problem["prompt"]), namespace)  # its imports and helpers, which tests call
        namespace[entry_point] = candidate
        exec(compile(problem["test"], "test", "exec"), namespace)
        namespace["check"](candidate)
    except BaseException as error:
        return " ".join(f"failed: {type(error).__name__}: {error}".split())
    return PASSED if candidate.broken is None else f"failed: {candidate.broken}"


def _complete(prompt: str):
    """Compile a prompt, whose last function may lack a body."""
    try:
        return compile(prompt, "prompt", "exec")
    except SyntaxError:
        return compile(f"{prompt}\n    pass\n", "prompt", "exec")


def _is_exception(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)
