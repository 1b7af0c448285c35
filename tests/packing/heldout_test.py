import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.documents import work_units
from teleflm_jax.packing import heldout

FAMILIES = st.dictionaries(st.integers(0, heldout.KEYS - 1), st.integers(1, 100), max_size=30)


def scans(*families, limit=heldout.KEYS):
    return [{"families": {str(key): size for key, size in one.items()}, "limit": str(limit)} for one in families]


@given(FAMILIES, FAMILIES, st.sampled_from([0.0, 0.01, 0.3, 0.99]), st.integers(0, 500))
def test_held_out_fits_and_leaves_one_for_training(first, second, fraction, max_bytes):
    chosen = heldout.choose(scans(first, second), fraction=fraction, max_bytes=max_bytes)
    sizes = {key: first.get(key, 0) + second.get(key, 0) for key in first | second}
    assert sum(sizes[key] for key in chosen) <= max_bytes
    assert not chosen or (fraction > 0 and len(chosen) < len(sizes))
    if fraction and len(sizes) > 1 and min(sizes.values()) <= max_bytes:
        assert chosen
    assert chosen == heldout.choose(scans(second, first), fraction=fraction, max_bytes=max_bytes)


def test_choice_by_hand():
    tenth = heldout.KEYS // 10
    sizes = {tenth: 50, 2 * tenth: 70, 3 * tenth: 40, 9 * tenth: 1}
    assert heldout.choose(scans(sizes), fraction=0.5, max_bytes=100) == {tenth, 3 * tenth}
    assert heldout.choose(scans(sizes), fraction=0.01, max_bytes=100) == {tenth}
    assert heldout.choose(scans(sizes), fraction=0.01, max_bytes=45) == {3 * tenth}
    assert heldout.choose(scans(sizes), fraction=0.0, max_bytes=100) == frozenset()
    assert heldout.choose(scans({tenth: 1}), fraction=0.5, max_bytes=100) == frozenset()


def test_the_fraction_is_that_of_the_families():
    chosen = sum(heldout.family_key(f"family {i}", 0) < 0.1 * heldout.KEYS for i in range(5000))
    assert 400 < chosen < 600


@given(st.data())
def test_forgetting_families_changes_no_choice(data):
    names = [f"{i}" for i in range(data.draw(st.integers(2, 60)))]
    fraction = data.draw(st.sampled_from([0.02, 0.2]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heldout, "read", lambda unit, malformed: (work_units.Document("x", name) for name in names))
        unit = work_units.WorkUnit("", (work_units.FileRange("a", 0, None, 0),))
        full = heldout.scan(unit, seed=0, fraction=fraction)
        patch.setattr(heldout, "KEPT_FAMILIES", 3)
        pruned = heldout.scan(unit, seed=0, fraction=fraction)
    assert len(pruned["families"]) <= len(full["families"])
    choices = [heldout.choose([one, one], fraction=fraction, max_bytes=50) for one in (full, pruned)]
    assert choices[0] == choices[1] != frozenset()


def test_a_scan_counts_and_names_the_first_bad_file(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n')
    (tmp_path / "b.jsonl").write_text('oops\n{"text": "größer"}\n')
    [unit] = work_units.split_source(str(tmp_path), 1000)
    scan = heldout.scan(unit, seed=0, fraction=0.1)
    assert (scan["documents"], scan["bytes"], scan["malformed"], scan["first_malformed"]) == (2, 12, {"not JSON": 1}, "b.jsonl")
    assert scan == json.loads(json.dumps(scan)) and sorted(scan["families"].values()) == [4, 8]


def test_what_training_repeats_is_recognised():
    long = [f"line {i} " + "x" * 40 for i in range(4)]
    text = "\n".join(long)
    watched = heldout.identifying_lines(text) | heldout.identifying_lines("short poem\nof two lines")
    assert heldout.find_watched_lines("\n".join(["other", "   " + long[0] + " \r", long[3]]), watched) == {long[0], long[3]}
    assert heldout.find_watched_lines(" short poem\nof two lines\n", watched) == {"short poem\nof two lines"}
    assert heldout.find_watched_lines("short poem\nof three lines", watched) == frozenset()
    assert heldout.without_near_duplicates([text], set(long[:2])) == [text]
    assert heldout.without_near_duplicates([text], set(long[:3])) == []
