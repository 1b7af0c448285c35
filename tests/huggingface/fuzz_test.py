"""Files of models that were damaged here and there: each is refused or taken, and nothing else is raised."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import entries, importing

SEEDS = {name: [path.read_bytes() for path in sorted((entries.SEEDS / name).iterdir())] for name in importing.ENTRIES}
PARTS = [
    b"",
    b"0",
    b"-1",
    b"200000000",
    b"1e400",
    b"NaN",
    b"null",
    b"[]",
    b"{}",
    b'"a"',
    b'"<s>"',
    b"true",
    b'"\\u001b"',
    b'"\\ud800"',
    b",",
]


@pytest.mark.parametrize("name", importing.ENTRIES)
def test_seeds_are_whole_files(name, monkeypatch):
    monkeypatch.setattr(importing, "UserError", ZeroDivisionError)  # what would be refused is raised
    for seed in SEEDS[name]:
        importing.load.parse(seed.decode()) if name == "tokenizer" else importing.ENTRIES[name](seed)


@pytest.mark.parametrize("name", importing.ENTRIES)
@given(st.data())
def test_whatever_is_damaged_is_refused_or_taken(name, data):
    content = data.draw(st.sampled_from(SEEDS[name]))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        end = min(len(content), start + data.draw(st.integers(0, 9)))
        content = content[:start] + data.draw(st.sampled_from(PARTS) | st.binary(max_size=2)) + content[end:]
    importing.ENTRIES[name](content)
