import pytest

from tests.fuzz import entries

MODULES = entries.modules()
SEEDS = sorted((path.parent.name, path.name) for path in entries.SEEDS.glob("*/*"))


@pytest.mark.parametrize("name, seed", SEEDS)
def test_seeds_pass_their_entry(name, seed):
    entries.entry(MODULES[name], name)((entries.SEEDS / name / seed).read_bytes())


def test_every_entry_has_seeds_and_they_are_small():
    assert {name for name, _ in SEEDS} == set(MODULES)
    assert sum(path.stat().st_size for path in entries.SEEDS.glob("*/*")) < 200_000
