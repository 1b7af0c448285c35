"""What goes wrong on workers, without Spark."""

import errno
import os
import pickle

import pytest

from teleflm_jax.corpus import spark
from teleflm_jax.errors import UserError


def failing(error):
    def work(number):
        raise error

    return work


@pytest.mark.parametrize(
    "error",
    [UserError("got 1; allowed: 2; change it"), OSError(errno.ENOSPC, "Error writing bytes"), PermissionError(errno.EACCES, "no", "/a")],
)
def test_what_users_and_disks_get_wrong_comes_back_as_it_was(error):
    back = spark._as_exception(pickle.loads(pickle.dumps(spark._errors_as_values(failing(error), 3))))
    assert type(back) is type(error)
    if isinstance(error, OSError):
        assert (back.errno, back.strerror, back.filename) == (error.errno, os.strerror(error.errno), error.filename)
    else:
        assert str(back) == str(error)


def test_work_that_went_well_says_nothing_and_mistakes_of_ours_are_raised():
    assert not spark._errors_as_values(lambda number: None, 3)
    for error in (ValueError("x"), OSError("damaged")):
        with pytest.raises(type(error)):
            spark._errors_as_values(failing(error), 3)


def test_a_full_disk_that_java_met_is_a_full_disk():
    with pytest.raises(OSError) as caught:
        spark.wait(lambda: failing(RuntimeError("org.x.SparkException: java.io.IOException: No space left on device"))(0))
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(RuntimeError):
        spark.wait(lambda: failing(RuntimeError("else"))(0))


def test_the_heap_grows_with_the_cores_that_share_it():
    cores = len(os.sched_getaffinity(0))
    masters = ("local", "local[1]", "local[4]", "local[4,2]", "local[*]", "spark://host:7077", "yarn")
    assert [spark._megabytes(master) for master in masters] == [768, 768, 1536, 1536, 512 + 256 * cores, 2048, 2048]
