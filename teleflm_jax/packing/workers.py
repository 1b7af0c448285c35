"""Run tasks whose result is a file over several processes. Nothing about documents."""

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
Task = tuple[int, str, Callable, tuple]
"""Bytes of work, the file that says that it is done, function, arguments."""
TICK_SECONDS = 0.2


@contextlib.contextmanager
def start(processes: int) -> Iterator[Pool]:
    """Start worker processes; 0 means one per core that this process may use. They end with this process, whatever ends it."""
    count = processes or len(os.sched_getaffinity(0))
    pool = Pool(count, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        yield pool
    except BaseException:
        # what is running may take a minute and its file is worth nothing now
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    pool.shutdown()


def run(pool: Pool, tasks: list[Task], progress: Callable[[int, int], None], measure: Callable[[], int] | None = None) -> None:
    """Do the tasks whose file is not there, largest first so that no process is left alone with a long one at the end.

    Args:
        pool: where.
        tasks: what.
        progress: called several times a second with bytes done and bytes in all.
        measure: says how many bytes are done, where a task can tell before it ends; otherwise tasks that ended are counted.
    """
    total = sum(size for size, *_ in tasks)
    missing = sorted((task for task in tasks if not os.path.exists(task[1])), key=lambda task: (-task[0], task[1]))
    ended = total - sum(size for size, *_ in missing)
    running = {pool.submit(function, *arguments): size for size, _, function, arguments in missing}
    pending = set(running)
    try:
        while pending:
            progress(measure() if measure else ended, total)
            done, pending = concurrent.futures.wait(pending, timeout=TICK_SECONDS, return_when=concurrent.futures.FIRST_EXCEPTION)
            for future in done:
                future.result()
                ended += running[future]
    except BrokenProcessPool as error:
        raise UserError(
            "got a worker process that the system ended, most likely for lack of memory; allowed: workers that fit; lower pack.processes "
            "and run the "
            "same command again to go on"
        ) from error
    progress(total, total)


def _begin() -> None:
    """Set a worker up: one thread of tokenizing each, Ctrl-C handled by the parent, and no life beyond the parent's."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
