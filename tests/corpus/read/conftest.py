import pytest

from teleflm_jax.corpus import read, rows
from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Statistics

FIRST_ID = 7 << rows.ROW_BITS


@pytest.fixture
def gather(tmp_path):
    """Read files, given as name -> bytes, by `read.read`: what is found, and what is counted; checks what holds for every format."""

    def gather(files: dict[str, bytes], form: str = "") -> tuple[list[dict], dict[str, int]]:
        for name, content in files.items():
            path = tmp_path / "source" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        statistics, found = Statistics(), []
        for unit in work_units.split_source(str(tmp_path / "source"), 1 << 30):
            for batch in read.read(unit, form, FIRST_ID + len(found), statistics):
                assert batch.schema == rows.RAW_DOCUMENT
                found += batch.to_pylist()
        reasons = {reason: amount.documents for reason, amount in statistics.dropped.items()}
        assert [row["id"] for row in found] == list(range(FIRST_ID, FIRST_ID + len(found)))
        assert statistics.into.documents == len(found) + sum(reasons.values())
        assert all(0 < len(row["content"]) <= read.LONGEST and row["family"] for row in found)
        return found, reasons

    return gather
