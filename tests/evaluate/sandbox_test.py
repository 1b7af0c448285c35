"""Programs that attack what runs them."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import threading

import pytest

from teleflm_jax.evaluate import sandbox


def run(program, **limits):
    return sandbox.run(program, **{"seconds": 3.0} | limits)


def test_a_program_that_ends_has_passed_and_one_that_raises_has_not():
    assert run("import math, collections, itertools, re, heapq\nassert math.comb(5, 2) == 10").passed
    assert run("assert 1 == 2").why == "failed: AssertionError:"
    assert run("def f(:").why.startswith("failed: SyntaxError")
    assert not run("from nowhere import f").passed


@pytest.mark.parametrize(
    "program",
    [
        "import os\nos._exit(0)",
        "raise SystemExit(0)",
        "import sys\nsys.exit()",
        "import contextlib, os\nfor n in range(3, 64):\n    with contextlib.suppress(OSError):\n        os.write(n, b'passed\\n')\n1 / 0",
    ],
)
def test_leaving_early_or_saying_so_is_not_passing(program):
    assert not run(program).passed


def test_neither_a_loop_nor_sleep_outlasts_the_clock():
    for program in ("while True: pass", "import time\ntime.sleep(100)", "import signal\nsignal.pause()"):
        verdict = run(program, seconds=0.5)
        assert not verdict.passed and verdict.why == "ended by signal 9"


def test_memory_ends():
    for program in ("kept = bytearray(1 << 40)", "kept = [bytearray(1 << 26) for _ in range(1024)]"):
        verdict = run(program, seconds=60.0)  # of a slow machine's clock, which zeroes gigabytes before it is full
        assert verdict.why.startswith("failed: MemoryError")


def test_there_is_no_second_process_or_thread():
    for program in (
        "import os\nwhile True: os.fork()",
        "import subprocess\nsubprocess.run(['/bin/true'])",
        "import threading\nthreading.Thread(target=print).start()",
    ):
        assert run(program).why.startswith("failed: ")


def test_nothing_is_written_outside(tmp_path):
    (tmp_path / "kept").write_text("kept")
    tmp_path.chmod(0o777)
    (tmp_path / "kept").chmod(0o666)
    for act in (
        "open(p, 'w')",
        "open(p + 'new', 'w')",
        "os.remove(p)",
        "os.truncate(p, 0)",
        "os.symlink('/', p + 'link')",
        "os.chmod(p, 0)",
    ):
        verdict = run(f"import os\np = {str(tmp_path / 'kept')!r}\n{act}")
        if "rights, owners and times of this user's files" not in verdict.left_open or "chmod" not in act:
            assert verdict.why.startswith("failed: "), act
    assert [path.name for path in tmp_path.iterdir()] == ["kept"] and (tmp_path / "kept").read_text() == "kept"


def test_the_network_is_out_of_reach():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)").why.startswith("failed: ")
    if not any("network" in what for what in run("").left_open):
        assert run("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53))").why.startswith(
            "failed: "
        )


def test_output_without_end_is_neither_kept_nor_in_the_way():
    assert not run("while True: print('x' * 100_000)", seconds=1.0).passed
    assert run("print('x' * 10_000_000)").passed
    assert len(run("raise ValueError('x' * 10_000_000)").why) <= 200


def test_who_started_it_lives(tmp_path):
    for program in (
        "import os\nos.kill(os.getppid(), 9)",
        f"import os\nos.kill({os.getpid()}, 9)",
        "import os\nfor number in range(2, 40_000):\n    try:\n        os.kill(number, 9)\n    except OSError:\n        pass",
        "import os\nos.setsid()\nos.killpg(0, 9)",
    ):
        run(program)
    assert run("x = 1").passed


def test_it_sees_no_environment_and_an_empty_folder(monkeypatch):
    monkeypatch.setenv("SECRET", "token")
    assert run("import os\nassert 'SECRET' not in os.environ and os.listdir('.') == []").passed
    assert run("import sys\nassert not any('site-packages' in place for place in sys.path)").passed


def test_reading_is_not_shut_off_because_what_is_read_cannot_leave():
    assert run("assert open('/etc/passwd').read()").passed


def test_the_folder_is_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    sandbox.run_all(["x = 1", "1 / 0", "while True: pass"][:2])
    assert list(pathlib.Path(tmp_path).iterdir()) == []


def test_without_namespaces_the_rest_holds_and_what_does_not_is_told(tmp_path):
    """As on a machine that gives users none: inside of one that may make no more."""
    programs = [
        "x = 1",
        f"open({str(tmp_path / 'new')!r}, 'w')",
        "import os\nwhile True: os.fork()",
        "import os\nos.kill(os.getppid(), 9)",
        "import socket\nsocket.create_connection(('127.0.0.1', 9), 2)",
    ]
    ask = f"import json\nfrom teleflm_jax.evaluate import sandbox\nprint(json.dumps([vars(sandbox.run(p)) for p in {programs!r}]))"
    forbid = "echo 0 > /proc/sys/user/max_user_namespaces || exit 77"
    within = ["unshare", "--map-root-user", "sh", "-c"]
    if subprocess.run([*within, forbid], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives no user namespace in which others could be forbidden")
    command = [*within, f'{forbid}; exec "$0" -c "$1"', sys.executable, ask]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[2], check=False)
    assert ended.returncode == 0, ended.stderr
    harmless, *attacks = json.loads(ended.stdout)
    assert harmless["passed"] and any("network" in what for what in harmless["left_open"])
    told = " ".join(harmless["left_open"])
    for verdict, what in zip(attacks, ("disks", "processes", "signals", "the network"), strict=True):
        assert not verdict["passed"] or what in told
    assert "files" in told


def test_what_pause_raises_leaves_out_the_programs_that_have_not_begun(monkeypatch):
    begun, over = [], threading.Event()

    def run(program):
        begun.append(program)
        assert program == "0" or over.wait(60)
        return sandbox.Verdict(passed=True, why="passed")

    def pause():
        over.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(sandbox, "run", run)
    with pytest.raises(KeyboardInterrupt):
        sandbox.run_all([str(number) for number in range(1_000)], pause)
    assert len(begun) < 500 and sandbox.run_all(["0"] * 3) == [sandbox.Verdict(passed=True, why="passed")] * 3
