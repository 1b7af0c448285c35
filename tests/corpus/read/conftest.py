import pytest

from teleflm_jax.corpus import read, rows
from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Tally

FIRST_ID = 7 << rows.ROW_BITS


@pytest.fixture
def gather(tmp_path):
    """Read files, given as name -> bytes, by `read.read`: what is found, and what is counted; checks what holds for every format."""

    def gather(files: dict[str, bytes], form: str = "") -> tuple[list[dict], dict[str, int]]:
        for name, content in files.items():
            path = tmp_path / "source" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        tally, found = Tally(), []
        for unit in work_units.units(str(tmp_path / "source"), 1 << 30):
            for batch in read.read(unit, form, FIRST_ID + len(found), tally):
                assert batch.schema == rows.FOUND
                found += batch.to_pylist()
        reasons = {reason: amount.documents for reason, amount in tally.dropped.items()}
        assert [row["id"] for row in found] == list(range(FIRST_ID, FIRST_ID + len(found)))
        assert tally.into.documents == len(found) + sum(reasons.values())
        assert all(0 < len(row["content"]) <= read.LONGEST and row["family"] for row in found)
        return found, reasons

    return gather
