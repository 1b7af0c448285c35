"""Pool of worker processes for tasks whose result is a file."""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool

from teleflm_jax.errors import UserError

Pool = concurrent.futures.ProcessPoolExecutor
Task = tuple[int, str, Callable[..., None], tuple]
"""Bytes of work, path of the result, function, arguments."""
POLL_SECONDS = 0.2


@contextlib.contextmanager
def start(processes: int) -> Iterator[Pool]:
    """Start worker processes, which end with this process in any case; 0 means one per core that this process may use."""
    count = processes or len(os.sched_getaffinity(0))
    pool = Pool(count, mp_context=multiprocessing.get_context("spawn"), initializer=_initialize)
    try:
        yield pool
    except BaseException:
        # running tasks may take a minute, and their results are not needed any more
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    pool.shutdown()


def run(pool: Pool, tasks: list[Task], progress: Callable[[int, int], None], measure: Callable[[], int] | None = None) -> None:
    """Run the tasks whose result does not exist, the largest first so that no long task remains for one process at the end.

    Args:
        pool: The worker processes.
        tasks: The tasks.
        progress: Called several times a second with the bytes done and the total bytes.
        measure: Returns the bytes done, if tasks report them before they end; otherwise finished tasks are counted.
    """
    total = sum(size for size, *_ in tasks)
    missing = sorted((task for task in tasks if not os.path.exists(task[1])), key=lambda task: (-task[0], task[1]))
    ended = total - sum(size for size, *_ in missing)
    running = {pool.submit(function, *arguments): size for size, _, function, arguments in missing}
    pending = set(running)
    try:
        while pending:
            progress(measure() if measure else ended, total)
            done, pending = concurrent.futures.wait(pending, timeout=POLL_SECONDS, return_when=concurrent.futures.FIRST_EXCEPTION)
            for future in done:
                future.result()
                ended += running[future]
    except BrokenProcessPool as error:
        raise UserError(
            "got a worker process that ended early, most likely for lack of memory, or because a script calls this outside of "
            "`if __name__ == '__main__':`; allowed: workers that fit into memory, and calls under that line; add it, or lower "
            "pack.processes and run the same command again to continue"
        ) from error
    progress(total, total)


def _initialize() -> None:
    """Set up a worker: one tokenizer thread, Ctrl-C handled by the parent, and an end as soon as the parent ends."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
