"""Judge an untrusted program; `sandbox.py` starts this folder as `python -I -S confined SECONDS BYTES`.

This process supervises two children. The candidate (`candidate.py`) runs the program and answers calls of its function. The judge
(`judge.py`) reads the problem from stdin, runs the problem's tests, and reports the verdict. The candidate is forked before the tests are
read and has only two pipes to the judge, so it can reach neither the tests nor the verdict. All three are confined (`kernel.py`).

The result on stdout is one JSON object: `passed`, `why`, and `open`, the restrictions that the machine does not support.
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
    """Start both children, wait for the verdict, and print it."""
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

    # the judge comes first: in a process namespace it is process 1, which no signal from inside can kill
    children = [start(judge.work, (ask, answered, tell), (STDIN,)), start(candidate.work, (asked, answer))]
    late = []

    def end(*_) -> None:
        for child in children:
            with contextlib.suppress(ProcessLookupError):  # the process has just ended
                os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, lambda *_: (late.append(True), end()))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    for pipe in (tell, asked, ask, answered, answer, STDIN):
        os.close(pipe)
    with os.fdopen(told, "rb") as verdict:
        why = verdict.read(judge.LONGEST).decode(errors="replace")
    signal.setitimer(signal.ITIMER_REAL, 0)
    end()
    for child in reversed(children):  # process 1 of a namespace exits only after all others are reaped
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    why = why or ("did not end in time" if late else f"the judge ended with code {code}")
    json.dump({"passed": why == judge.PASSED, "why": why, "open": left_open}, sys.stdout)


if __name__ == "__main__":
    main()
