import math
import subprocess
import sys

import pytest

from teleflm_jax.cli import preflight as command
from teleflm_jax.hardware import preflight
from tests.job import BARE, ROOT


def rates(host, matmul=(1e12,), memory=(1e9,), network=1e9):
    return preflight.Rates(host=host, matmul=matmul, memory=memory, network=network)


def found(all_rates, tolerance=0.85):
    return [(slow.process, slow.host, slow.what, round(slow.part, 2)) for slow in preflight.slow_processes(all_rates, tolerance)]


def test_equal_processes_are_not_slow():
    assert found([rates("a"), rates("b", matmul=(0.9e12,)), rates("c", network=0.9e9)]) == []
    assert command.sentences([], 3, 0.85) == []


def test_a_slow_process_is_named_with_what_it_is_slow_in():
    three = [rates("a"), rates("b", memory=(0.5e9,), network=0.4e9), rates("c")]
    assert found(three) == [(1, "b", "memory", 0.5), (1, "b", "network", 0.4)]
    assert found(three, tolerance=0.45) == [(1, "b", "network", 0.4)]
    lines = command.sentences(preflight.slow_processes(three, 0.85), 3, 0.85)
    assert lines[0] == "slow: process 1 on b: memory at 50% of the median"
    assert lines[-1].startswith("error: got 1 slow of 3 process(es); allowed: 85% of the median or more; leave out or repair b (")


def test_one_slow_gpu_of_eight_is_found_even_in_a_run_of_one_process():
    assert found([rates("a", matmul=(1e12,) * 6 + (0.6e12, 1e12), memory=(1e9,) * 8, network=math.nan)]) == [
        (0, "a", "matmul of its device 6", 0.6)
    ]


def test_a_process_alone_has_nothing_to_be_compared_with():
    assert found([rates("a", network=math.nan)]) == []


@pytest.mark.parametrize("hosts", [2, 3, 4, 7, 8])
@pytest.mark.parametrize("per_host", [1, 2])
def test_every_process_sends_to_two_neighbours_on_other_hosts(hosts, per_host):
    names = [f"host{i // per_host}" for i in range(hosts * per_host)]
    neighbours = {process: [] for process in range(len(names))}
    for pairs in preflight.rounds(names):
        members = [process for pair in pairs for process in pair]
        assert len(set(members)) == len(members)  # one partner at a time
        for one, other in pairs:
            assert names[one] != names[other]
            neighbours[one].append(other), neighbours[other].append(one)
    assert all(len(set(own)) == min(2, hosts - 1) for own in neighbours.values())


def test_processes_of_one_host_are_each_other_s_neighbours():
    assert preflight.rounds(["a"]) == []
    assert preflight.rounds(["a", "a"]) == [[(0, 1)]]
    assert preflight.rounds(["a", "a", "a"]) == [[(0, 1)], [(1, 2)], [(2, 0)]]


def test_a_slow_process_is_slow_to_both_its_neighbours_and_alone_in_that():
    hosts, slow = [f"host{i}" for i in range(5)], 2
    links = {pair: 0.2e9 if slow in pair else 1e9 for pairs in preflight.rounds(hosts) for pair in pairs}
    best = [max(rate for pair, rate in links.items() if process in pair) for process in range(5)]
    assert found([rates(host, network=rate) for host, rate in zip(hosts, best, strict=True)]) == [(2, "host2", "network", 0.2)]


def launch(*arguments):
    command = [sys.executable, "-m", "teleflm_jax", "launch", "--preflight", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=BARE, capture_output=True, text=True, timeout=240, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.distributed
@pytest.mark.parametrize("processes, devices", [(1, 2), (2, 1), (3, 2)])
def test_processes_measure_each_other_and_the_command_is_started(processes, devices, tmp_path):
    (tmp_path / "script.py").write_text("print('started')")
    own = ("-n", processes, "--devices_per_process", devices, "--preflight_tolerance", 0)
    code, out, err = launch(*own, "--", tmp_path / "script.py")
    assert code == 0, err
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdecimal()]
    assert [int(row[0]) for row in rows] == list(range(processes)) and out.endswith("started\n")
    assert all(float(rate) > 0 for row in rows for rate in row[2:] if rate != "-")
    assert ("-" in rows[0]) == (processes == 1)
    assert launch(*own)[0] == 0


@pytest.mark.distributed
def test_a_slow_process_is_named_and_the_command_is_not_started(tmp_path):
    (tmp_path / "script.py").write_text("print('started')")
    code, out, err = launch("-n", 2, "--devices_per_process", 2, "--preflight_tolerance", 1, "--", tmp_path / "script.py")
    assert code == command.SLOW == 1
    assert "started" not in out and err.splitlines()[-1].startswith("error: got ") and "slow: process " in err
