"""Runs that faults are injected into, and what happened, for the table that `tests/conftest.py` prints."""

import pytest

from tests import job
from tests.faults import commands


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> commands.Job:
    """A small job, packed."""
    made = commands.Job(job.write(tmp_path_factory.mktemp("faults"), commands.TRAIN, layers=2, heads=2))
    for command in (["tokenizer", "train"], ["pack"]):
        commands.ended(made.python("-m", "teleflm_jax", *command, "--gin_file", made.gin), 0)
    return made


@pytest.fixture(scope="session")
def whole(small):
    """Folder of the uninterrupted run of so many processes."""
    made = {}

    def folder(processes: int):
        if processes not in made:
            made[processes] = small.root / f"whole-{processes}"
            small.run(made[processes], processes)
        return made[processes]

    return folder


@pytest.fixture(scope="session")
def half(small):
    """Folder of a run of so many processes that was stopped half way, to be copied."""
    made = {}

    def folder(processes: int):
        if processes not in made:
            made[processes] = small.root / f"half-{processes}"
            process = small.start(made[processes], processes)
            assert commands.until(process, lambda: commands.num_rows(made[processes]) >= commands.STEPS // 2), process.communicate()
            process.terminate()
            commands.ended(process, 75)
        return made[processes]

    return folder


@pytest.fixture
def happened(record_property):
    """Called with a fault and what happened: a line of the table."""
    return lambda *line: record_property("outcome", tuple(map(str, line)))
