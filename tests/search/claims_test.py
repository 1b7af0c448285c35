"""Claims of workers on different hosts: one holds a trial, a stale claim is taken over by one, and its former holder notices."""

import json
import os
import threading
import time

import pytest

from teleflm_jax.search import claims
from teleflm_jax.search.claims import Owner

HERE = claims.this_process()
A, B, C = (Owner(host=host, pid=1) for host in "abc")
LEASE = 60.0


def age(folder, seconds: float):
    """Let the newest claim be as old as this."""
    path = max(folder.glob("claim-*.json"))
    os.utime(path, (time.time() - seconds,) * 2)


def test_one_worker_holds_a_trial_until_it_gives_it_back(tmp_path):
    held = claims.take(tmp_path, A, LEASE)
    assert json.loads((tmp_path / "claim-1.json").read_text()) == {"host": "a", "pid": 1}
    assert claims.take(tmp_path, B, LEASE) is None and claims.is_held(tmp_path, B, LEASE)
    age(tmp_path, LEASE - 30)
    assert held.renew() and claims.take(tmp_path, B, LEASE) is None
    held.release(finished=False)
    assert not claims.is_held(tmp_path, B, LEASE)
    other = claims.take(tmp_path, B, LEASE)
    assert other.number == 2 and [path.name for path in tmp_path.iterdir()] == ["claim-2.json"]
    other.release(finished=True)
    assert list(tmp_path.iterdir()) == []


def test_of_many_workers_one_takes_over_a_stale_claim_and_the_holder_notices(tmp_path):
    former = claims.take(tmp_path, A, LEASE)
    age(tmp_path, LEASE + 1)
    barrier, taken = threading.Barrier(8), []

    def race(number: int):
        barrier.wait()
        taken.append(claims.take(tmp_path, Owner(host=f"racer {number}", pid=1), LEASE))

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [claim for claim in taken if claim is not None]
    assert not former.renew() and winner.renew()
    former.release(finished=False)  # leaves the other's claim as it is
    assert claims.take(tmp_path, C, LEASE) is None and winner.renew()


def test_a_claim_whose_process_on_this_host_is_gone_is_taken_at_once(tmp_path):
    claims.take(tmp_path, Owner(host=HERE.host, pid=2**22 + 1), LEASE)  # beyond the largest process id
    assert claims.take(tmp_path, A, LEASE) is None  # that host cannot see the process
    assert claims.take(tmp_path, HERE, LEASE).number == 2
    assert claims.take(tmp_path, HERE, LEASE) is None  # this process lives


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "a"}', '{"host": "a", "pid": "x"}'])
def test_a_claim_that_is_being_written_or_damaged_is_held_for_a_lease(tmp_path, content):
    (tmp_path / "claim-1.json").write_text(content)
    assert claims.take(tmp_path, HERE, LEASE) is None
    age(tmp_path, LEASE + 1)
    assert claims.take(tmp_path, HERE, LEASE).number == 2


def test_a_slow_holder_keeps_its_claim_by_renewing_and_a_lost_one_is_noticed(tmp_path):
    lease = 0.4
    held = claims.take(tmp_path, A, lease)
    with claims.renewing(held, lease) as check:
        for _ in range(10):
            time.sleep(lease / 8)
            check()
        assert held.renew()
        age(tmp_path, LEASE)
        other = claims.take(tmp_path, B, lease)
        if other is None:  # the thread was faster; without it nobody renews
            pytest.skip("renewed between the two calls")
        time.sleep(lease)
        with pytest.raises(claims.LostError):
            check()


def test_a_holder_that_was_suspended_looks_at_its_claim_before_it_goes_on(tmp_path, monkeypatch):
    held = claims.take(tmp_path, A, LEASE)
    with claims.renewing(held, LEASE) as check:
        check()
        age(tmp_path, LEASE + 1)
        assert claims.take(tmp_path, B, LEASE)
        check()  # renewed a moment ago: the thread looks again later
        monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + LEASE)
        with pytest.raises(claims.LostError):
            check()
