"""Spark sessions on this machine or on a cluster, work per partition, and tables over all documents."""

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
from typing import Any, TypeVar

import sharding
import teleflm_jax
from teleflm_jax import invocation
from teleflm_jax.corpus import rows
from teleflm_jax.errors import UserError

JAVA = 17
"""Minimum Java version of Spark 4."""
PARTITIONS_PER_CORE = 2
CLUSTER_MB, LOCAL_MB, CORE_MB = 2048, 512, 256
"""Java heap: of the driver of a cluster; of a local session, which does the work itself, plus an amount per core."""
POLL_SECONDS = 0.5
MASTER_SECONDS = 10
"""Seconds within which a cluster's master must answer."""
_LOCAL = r"local(?:\[(\d+|\*)(?:,\d+)?\])?"
"""Masters that run in the session's own process, with the number of cores."""
_PATTERN = frozenset("*?[]{}\\")
"""Characters that make Spark read a path as a pattern."""
Result = TypeVar("Result")
Session = Any
"""A Spark session; pyspark is optional, so its types are not imported."""
DataFrame = Any
"""A Spark table."""
Progress = Callable[[str, int, int], None]
"""Called twice a second with the step, the partitions done and their total."""


def session(master: str, scratch: pathlib.Path) -> Session:
    """Open a Spark session that ships this package's code to its workers.

    Args:
        master: `local[*]`, `spark://HOST:PORT` or another master that Spark accepts.
        scratch: Folder for the shuffle files of a local session.

    Raises:
        UserError: Spark cannot start a session on this master.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # from pandas, which is not used
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
    except Exception as error:  # the errors of py4j and pyspark have no other common base class
        reason = re.sub(r"\s+", " ", str(error))[:200]
        raise UserError(f"got --master {master}, where no session starts ({reason}); allowed: local[N] or a running cluster") from error
    spark.sparkContext.setLogLevel("ERROR")
    spark.conf.set("spark.sql.shuffle.partitions", PARTITIONS_PER_CORE * spark.sparkContext.defaultParallelism)
    spark.sparkContext.addPyFile(_package(scratch))
    return spark


def _megabytes(master: str) -> int:
    """Return the Java heap of the session's own process. Java fills its heap, so a local session gets no more than its work needs."""
    local = re.fullmatch(_LOCAL, master)
    if not local:
        return CLUSTER_MB
    return LOCAL_MB + CORE_MB * (len(os.sched_getaffinity(0)) if local[1] == "*" else int(local[1] or 1))


def refuse_missing() -> None:
    """Check that the dependencies of Spark are installed.

    Raises:
        UserError: Java is missing or too old, or pyspark is missing.
    """
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    advice = f"allowed: Java {JAVA} or later; on Debian and Ubuntu: apt-get install openjdk-17-jre-headless, or set JAVA_HOME"
    try:
        output = subprocess.run([java or "java", "-version"], capture_output=True, text=True, check=True).stderr
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"got no Java{f' in JAVA_HOME={home}' if home else ''}, which Spark needs; {advice}") from error
    version = re.search(r'version "(\d+)', output)
    if version and int(version[1]) < JAVA:
        raise UserError(f"got Java {version[1]}; {advice}")
    invocation.refuse_missing("corpus", ["pyspark"])


def refuse_master(master: str) -> None:
    """Check that a master's address is valid and that it accepts connections: Spark itself would retry for minutes.

    Raises:
        UserError: The address is invalid, or no master answers.
    """
    allowed = "allowed: local[N], spark://HOST:PORT of a running cluster, yarn or k8s://…; change --master"
    if not re.fullmatch(_LOCAL + r"|spark://[^:/,]+:\d+(,[^:/,]+:\d+)*|yarn|k8s://.+", master):
        raise UserError(f"got --master {master}; {allowed}")
    problem = ""
    for host, port in re.findall(r"([^:/,]+):(\d+)", master) if master.startswith("spark://") else ():
        try:
            socket.create_connection((host, int(port)), MASTER_SECONDS).close()
            return
        except (OSError, OverflowError) as error:
            problem = f"got --master {master}, where {host} does not answer ({error}); {allowed}"
    if problem:
        raise UserError(problem)


def refuse_pattern(folder: pathlib.Path, setting: str) -> None:
    """Refuse a folder whose path Spark would read as a pattern: it would find no files, or those of other folders too.

    Raises:
        UserError: The path has a character of a pattern.
    """
    path = str(folder.resolve())
    if found := sorted(set(path) & _PATTERN):
        raise UserError(
            f"got {setting} {path} with {' '.join(found)}, which Spark reads as a pattern; allowed: a path without "
            f"{' '.join(sorted(_PATTERN))}; change {setting}"
        )


def for_each(
    session: Session, step: str, work: Callable[[int], None], numbers: frozenset[int], done: Callable[[], set[int]], progress: Progress
) -> None:
    """Run `work` for every partition that is not done yet, in parallel on all cores.

    Args:
        session: The session.
        step: Name of the step in progress reports.
        work: Function of a partition's number that writes a file.
        numbers: Numbers of the partitions.
        done: Returns the numbers of the partitions whose file exists.
        progress: Receives the progress.

    Raises:
        UserError: `work` raised one.
        OSError: `work` raised one, such as for a full disk or an unreadable file.
    """
    missing = sorted(numbers - done())
    if missing:
        job = session.sparkContext.parallelize(missing, len(missing)).map(functools.partial(_errors_as_values, work))
        errors = wait(job.collect, lambda: progress(step, len(done()), len(numbers)))
        if problem := next(filter(None, errors), None):
            raise _as_exception(problem)
    progress(step, len(numbers), len(numbers))


def wait(call: Callable[[], Result], poll: Callable[[], None] = lambda: None) -> Result:
    """Call Spark in another thread and poll meanwhile, so that signals arrive here and not in the middle of a message to Spark."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        future = pool.submit(call)
        while not future.done():
            poll()
            time.sleep(POLL_SECONDS)
        return future.result()
    except Exception as error:
        if os.strerror(errno.ENOSPC) in str(error):  # Java reports it as text
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise
    finally:
        pool.shutdown(wait=False)


@contextlib.contextmanager
def table(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a path to write a table to, which is renamed to `folder` when the table is complete."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    partial.rename(folder)


def by_partition(frame: DataFrame) -> DataFrame:
    """Add the column `part`, the number of the partition, and sort and distribute the rows by it."""
    from pyspark.sql import functions as F

    return frame.withColumn("part", F.shiftright("id", rows.ROW_BITS).cast("int")).repartition("part").sortWithinPartitions("part", "id")


def _errors_as_values(work: Callable[[int], None], number: int) -> tuple:
    """Run `work` and return its UserError or OSError as a value: Spark would wrap exceptions in its own and retry the task."""
    try:
        work(number)
    except UserError as error:
        return (str(error),)
    except OSError as error:
        if error.errno is None:
            raise
        return error.errno, os.strerror(error.errno), error.filename
    return ()


def _as_exception(problem: tuple) -> Exception:
    """Return the exception that `_errors_as_values` returned as a value."""
    return UserError(*problem) if len(problem) == 1 else OSError(*problem)


def _package(folder: pathlib.Path) -> str:
    """Zip the Python files that workers import; the session serves them while it lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "teleflm_jax.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for package in (teleflm_jax, sharding):
            root = pathlib.Path(package.__path__[0]).resolve()
            for source in sorted(root.rglob("*.py")):
                file.write(source, source.relative_to(root.parent))
    return str(path)
