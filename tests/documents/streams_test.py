import bz2
import gzip
import lzma
import random

import pyarrow
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.documents import streams
from teleflm_jax.documents.streams import DamagedSpan

COMPRESS = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
PARTS = [random.Random(i).randbytes(2000).hex().encode() for i in range(12)]


def chunks(path, data, compression):
    path.write_bytes(data)
    found = list(streams.chunks(str(path), compression))
    return b"".join(one for one in found if not isinstance(one, DamagedSpan)), [one for one in found if isinstance(one, DamagedSpan)]


@pytest.fixture(params=COMPRESS)
def members(request):
    return request.param, [COMPRESS[request.param](part) for part in PARTS]


def test_members_are_read_one_after_another(tmp_path, members):
    compression, packed = members
    assert chunks(tmp_path / "a", b"".join(packed), compression) == (b"".join(PARTS), [])
    assert chunks(tmp_path / "a", b"".join(packed) + bytes(512), compression) == (b"".join(PARTS), [])  # as tapes fill their blocks up
    assert streams.compression_of(packed[0]) == compression


@pytest.mark.parametrize("at", [0, 1, -3, "middle"])
def test_a_flipped_bit_costs_its_member_and_no_other(tmp_path, members, at):
    compression, packed = members
    damaged = bytearray(packed[4])
    damaged[len(damaged) // 2 if at == "middle" else at] ^= 0x10
    text, gaps = chunks(tmp_path / "a", b"".join([*packed[:4], bytes(damaged), *packed[5:]]), compression)
    assert text == b"".join(PARTS[:4] + PARTS[5:]) and gaps == [DamagedSpan(len(damaged))]


def test_a_file_that_ends_early_gives_all_that_it_has(tmp_path, members):
    compression, packed = members
    text, gaps = chunks(tmp_path / "a", b"".join(packed)[:-30], compression)
    assert b"".join(PARTS).startswith(text) and text.startswith(b"".join(PARTS[:-1])) and gaps == [DamagedSpan(0)]


def test_bytes_between_members_are_a_damaged_span(tmp_path, members):
    compression, packed = members
    text, gaps = chunks(tmp_path / "a", b"".join([*packed[:2], b"garbage" * 10, *packed[2:]]), compression)
    assert text == b"".join(PARTS) and gaps == [DamagedSpan(70)]


def test_of_a_long_damaged_member_the_bytes_well_before_the_damage_are_given(tmp_path):
    data = random.Random(0).randbytes(2 * streams.HELD).hex().encode()
    packed = bytearray(gzip.compress(data, 1, mtime=0))
    packed[len(packed) * 3 // 4] ^= 0x10
    text, gaps = chunks(tmp_path / "a", bytes(packed) + gzip.compress(b"after"), "gzip")
    assert text.endswith(b"after") and data.startswith(text.removesuffix(b"after")) and len(text) > 1.9 * streams.HELD
    assert len(gaps) == 1 and 0 < gaps[0].size < len(packed) // 4 + streams.HELD


def test_a_length_that_leads_past_the_end_costs_its_frame(tmp_path):
    # RFC 8878: magic, a descriptor and a window, then a raw block of 100,000 bytes, which are not there
    false = b"\x28\xb5\x2f\xfd\x00\x58" + (100_000 << 3 | 1).to_bytes(3, "little") + b"abc"
    packed = [COMPRESS["zstd"](part) for part in PARTS]
    text, gaps = chunks(tmp_path / "a", false + b"".join(packed), "zstd")
    assert text == b"".join(PARTS) and gaps == [DamagedSpan(len(false))]


def test_skippable_frames_and_lz4_are_read(tmp_path):
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
    assert chunks(tmp_path / "a", skippable + zstandard.compress(PARTS[0]), "zstd") == (PARTS[0], [])
    packed = pyarrow.compress(b"".join(PARTS), "lz4", asbytes=True)
    assert chunks(tmp_path / "a", packed, "lz4") == (b"".join(PARTS), [])
    text, gaps = chunks(tmp_path / "a", packed[:-300], "lz4")
    assert b"".join(PARTS).startswith(text) and len(gaps) == 1


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=6), st.sampled_from(sorted(COMPRESS)), st.integers(1, 64), st.integers(1, 64))
def test_what_is_read_does_not_depend_on_how_much_at_a_time(tmp_path_factory, parts, compression, given_at_a_time, read_at_a_time):
    path = tmp_path_factory.mktemp("streams") / "a"
    packed = b"".join(map(COMPRESS[compression], parts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "CHUNK", given_at_a_time)
        patch.setattr(streams, "INPUT", read_at_a_time)
        assert chunks(path, packed, compression) == (b"".join(parts), [])


@given(st.binary(max_size=200), st.sampled_from(sorted(COMPRESS)), st.integers(0, 400), st.binary(max_size=8))
def test_any_bytes_are_read_to_their_end(tmp_path_factory, noise, compression, at, more):
    packed = COMPRESS[compression](b"some text") * 3
    data = packed[:at] + more + packed[at:] + noise
    text, gaps = chunks(tmp_path_factory.mktemp("streams") / "a", data, compression)
    assert sum(damage.size for damage in gaps) <= len(data)
    if not more and not noise:
        assert text == b"some text" * 3
