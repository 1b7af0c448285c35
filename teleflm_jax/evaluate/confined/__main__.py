"""Judge a program that nobody has read; `sandbox.py` starts this folder as `python -I -S confined SECONDS BYTES`.

This process watches two others that it makes. One is the candidate (`candidate.py`): it runs the program and answers calls of its function.
The other one is the judge (`judge.py`): it reads the problem from stdin, runs the problem's tests, and says what it found. The candidate is
forked before the tests are read, and has nothing but two pipes to the judge, so neither the tests nor the verdict are within its reach.
All three are confined (`kernel.py`).

On stdout stands one JSON object at the end: `passed`, `why`, and `open`, what could not be shut off.
"""

import contextlib
import json
import os
import signal
import sys

import candidate
import judge
import kernel

STDIN = 0


def main() -> None:
    """Make both, wait for the verdict, and tell it."""
    seconds, memory_bytes = float(sys.argv[1]), int(sys.argv[2])
    del sys.path[0]  # this folder
    nothing = os.open(os.devnull, os.O_RDWR)
    left_open = kernel.confine()
    told, tell = os.pipe()
    asked, ask = os.pipe()
    answered, answer = os.pipe()

    def start(work, ends: tuple[int, ...], more: tuple[int, ...] = ()) -> int:
        child = os.fork()
        if child == 0:
            try:
                kernel.keep_only(nothing, *ends, *more)
                kernel.limit(seconds, memory_bytes)
                work(*ends)
            finally:
                os._exit(1)
        return child

    # the judge comes first: where there is a namespace of processes it is its process 1, which no signal from inside ends
    children = [start(judge.work, (ask, answered, tell), (STDIN,)), start(candidate.work, (asked, answer))]
    late = []

    def end(*_) -> None:
        for child in children:
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, lambda *_: (late.append(True), end()))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    for pipe in (tell, asked, ask, answered, answer, STDIN):
        os.close(pipe)
    with os.fdopen(told, "rb") as verdict:
        why = verdict.read(judge.LONGEST).decode(errors="replace")
    signal.setitimer(signal.ITIMER_REAL, 0)
    end()
    for child in reversed(children):  # the end of a namespace's process 1 waits until all others have been waited for
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    why = why or ("did not end in time" if late else f"the judge ended with code {code}")
    json.dump({"passed": why == judge.PASSED, "why": why, "open": left_open}, sys.stdout)


if __name__ == "__main__":
    main()
