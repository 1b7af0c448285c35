"""Spark: a session on this machine or on a cluster, work on every part, and the tables that parts are too small for."""

import concurrent.futures
import contextlib
import errno
import functools
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import TypeVar

import sharding
import teleflm_jax
from teleflm_jax import invocation
from teleflm_jax.corpus import rows
from teleflm_jax.errors import UserError

JAVA = 17
"""The oldest that Spark 4 runs on."""
PARTITIONS_PER_CORE = 2
CLUSTER_MB, LOCAL_MB, CORE_MB = 2048, 512, 256
"""Of Java's heap: of the process that commands a cluster; of one that works itself, and there for every core."""
TICK_SECONDS = 0.5
MASTER_SECONDS = 10
"""A cluster's master has to answer."""
_LOCAL = r"local(?:\[(\d+|\*)(?:,\d+)?\])?"
"""Masters that work in the session's own process, and on how many cores."""
_PATTERN = frozenset("*?[]{}\\")
Result = TypeVar("Result")
Progress = Callable[[str, int, int], None]
"""Called twice a second with the step, parts done and parts in all."""


def session(master: str, scratch: pathlib.Path):
    """Open a Spark session; its workers get this package's code from here.

    Args:
        master: `local[*]`, `spark://HOST:PORT` or what else Spark understands.
        scratch: folder for what a local session shuffles.

    Raises:
        UserError: no such master.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of pandas, which is not used
        from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("SPARK_LOCAL_DIRS", str(scratch))
    if master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.parquet.compression.codec": "zstd",
        "spark.driver.memory": f"{_megabytes(master)}m",
        "spark.executorEnv.OMP_NUM_THREADS": "1",
    }
    builder = SparkSession.builder.master(master).appName("teleflm_jax corpus")
    for name, value in settings.items():
        builder = builder.config(name, value)
    try:
        spark = builder.getOrCreate()
    except Exception as error:  # py4j's and pyspark's errors have no common base but this one
        reason = re.sub(r"\s+", " ", str(error))[:200]
        raise UserError(f"got --master {master}, where no session starts ({reason}); allowed: local[N] or a running cluster") from error
    spark.sparkContext.setLogLevel("ERROR")
    spark.conf.set("spark.sql.shuffle.partitions", PARTITIONS_PER_CORE * spark.sparkContext.defaultParallelism)
    spark.sparkContext.addPyFile(_package(scratch))
    return spark


def _megabytes(master: str) -> int:
    """Heap of the session's own process. Java fills what it is given, so where all work is done inside, it gets no more than that needs."""
    local = re.fullmatch(_LOCAL, master)
    if not local:
        return CLUSTER_MB
    return LOCAL_MB + CORE_MB * (len(os.sched_getaffinity(0)) if local[1] == "*" else int(local[1] or 1))


def refuse_missing() -> None:
    """Look for what Spark needs.

    Raises:
        UserError: there is no Java, or one that is too old, or no pyspark.
    """
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    advice = f"allowed: Java {JAVA} or later; on Debian and Ubuntu: apt-get install openjdk-17-jre-headless, or set JAVA_HOME"
    try:
        said = subprocess.run([java or "java", "-version"], capture_output=True, text=True, check=True).stderr
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"got no Java{f' in JAVA_HOME={home}' if home else ''}, which Spark needs; {advice}") from error
    version = re.search(r'version "(\d+)', said)
    if version and int(version[1]) < JAVA:
        raise UserError(f"got Java {version[1]}; {advice}")
    invocation.refuse_missing("corpus", ["pyspark"])


def refuse_master(master: str) -> None:
    """Look at a master's address, and whether somebody listens there: Spark itself would try for minutes.

    Raises:
        UserError: it is none that Spark knows, or nobody answers.
    """
    allowed = "allowed: local[N], spark://HOST:PORT of a running cluster, yarn or k8s://…; change --master"
    if not re.fullmatch(_LOCAL + r"|spark://[^:/,]+:\d+(,[^:/,]+:\d+)*|yarn|k8s://.+", master):
        raise UserError(f"got --master {master}; {allowed}")
    for host, port in re.findall(r"([^:/,]+):(\d+)", master) if master.startswith("spark://") else ():
        try:
            socket.create_connection((host, int(port)), MASTER_SECONDS).close()
            return
        except (OSError, OverflowError) as error:
            problem = f"got --master {master}, where {host} does not answer ({error}); {allowed}"
    if master.startswith("spark://"):
        raise UserError(problem)


def refuse_pattern(folder: pathlib.Path, setting: str) -> None:
    """Refuse a folder whose path Spark would take for a pattern: it would read nothing there, or a neighbour's files as well.

    Raises:
        UserError: it would.
    """
    path = str(folder.resolve())
    if found := sorted(set(path) & _PATTERN):
        raise UserError(
            f"got {setting} {path} with {' '.join(found)}, which Spark reads as a pattern; allowed: a path without "
            f"{' '.join(sorted(_PATTERN))}; change {setting}"
        )


def each(spark, step: str, work: Callable[[int], None], numbers: frozenset[int], done: Callable[[], set[int]], progress: Progress) -> None:
    """Do `work` for every part that is not done yet, as many at a time as there are cores.

    Args:
        spark: the session.
        step: what to call it.
        work: takes a part's number; its result is a file.
        numbers: of the parts.
        done: says which parts' files are there.
        progress: shows how far it is.

    Raises:
        UserError: one of them raised it.
        OSError: the same; of a disk that is full, a file that may not be read.
    """
    missing = sorted(numbers - done())
    if missing:
        job = spark.sparkContext.parallelize(missing, len(missing)).map(functools.partial(_guarded, work))
        errors = wait(job.collect, lambda: progress(step, len(done()), len(numbers)))
        if problem := next(filter(None, errors), None):
            raise _raised(problem)
    progress(step, len(numbers), len(numbers))


def wait(call: Callable[[], Result], look: Callable[[], None] = lambda: None) -> Result:
    """Call Spark in a thread of its own and look on meanwhile, so that a signal is heard here and not in the middle of a message to it."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        future = pool.submit(call)
        while not future.done():
            look()
            time.sleep(TICK_SECONDS)
        return future.result()
    except Exception as error:
        if os.strerror(errno.ENOSPC) in str(error):  # as Java says it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise
    finally:
        pool.shutdown(wait=False)


@contextlib.contextmanager
def table(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where to write a table that takes the name of `folder` when it is whole."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    partial.rename(folder)


def by_part(frame):
    """Add the column `part`, and lay rows out by it, in order."""
    from pyspark.sql import functions as F

    return frame.withColumn("part", F.shiftright("id", rows.ROW_BITS).cast("int")).repartition("part").sortWithinPartitions("part", "id")


def _guarded(work: Callable[[int], None], number: int) -> tuple:
    """Bring what the user or the disks got wrong back as values: as exceptions, Spark would wrap them in its own and try again."""
    try:
        work(number)
    except UserError as error:
        return (str(error),)
    except OSError as error:
        if error.errno is None:
            raise
        return error.errno, os.strerror(error.errno), error.filename
    return ()


def _raised(problem: tuple) -> Exception:
    """What `_guarded` brought back."""
    return UserError(*problem) if len(problem) == 1 else OSError(*problem)


def _package(folder: pathlib.Path) -> str:
    """Zip the Python files that workers import; the session serves them from there as long as it lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "teleflm_jax.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for package in (teleflm_jax, sharding):
            root = pathlib.Path(package.__path__[0]).resolve()
            for source in sorted(root.rglob("*.py")):
                file.write(source, source.relative_to(root.parent))
    return str(path)
