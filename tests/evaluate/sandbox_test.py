"""Programs that attack what judges them."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.evaluate import sandbox
from tests.evaluate.judged import act, equal, run, task

REPOSITORY = pathlib.Path(__file__).parents[2]


def test_a_function_that_fulfils_its_test_has_passed_and_no_other():
    assert act("import math, collections, itertools, re, heapq, hashlib\nassert math.comb(5, 2) == 10").passed
    assert act("assert 1 == 2").why == "failed: AssertionError:"
    assert run("def f(:").why.startswith("failed: SyntaxError")
    assert act("from nowhere import f").why.startswith("failed: ModuleNotFoundError")
    assert run("x = 1").why == "failed: KeyError: 'f'"
    assert run("def f(x):\n    return x + 1", "def check(f):\n    assert f(1) == 2\n    assert f(x=2) == 3").passed
    assert not run("def f(x):\n    return 2", "def check(f):\n    assert f(1) == 2\n    assert f(x=2) == 3").passed


def test_a_test_may_call_what_its_prompt_defines_and_the_function_by_its_name():
    prompt = "import math\ndef half(x):\n    return x / 2\ndef f(x):\n"
    test = "import random\ndef check(g):\n    x = random.random()\n    assert g(x) == f(x) == math.fabs(half(x))"
    assert run(prompt + "    return half(x)", test, prompt).passed
    assert not run(prompt + "    return 2.0", test, prompt).passed
    assert not run("def half(x):\n    return 2.0\ndef f(x):\n    return 2.0", test, prompt).passed  # a helper of its own counts for nothing
    head = 'def f(x):\n    """A head with its text is whole."""\n'
    assert run(f"{head}    return x", "def check(g):\n    assert g(1) == 1", head).passed


VALUES = """[
    None, True, 7, -(1 << 70), 10**4300, 0.1, float('-inf'), 'a\\ud800\\0\\n', [1, [2.0, 'x']], (1, (2,), []), {1: 'a', (2, 3): [None]},
    {1, 2}, frozenset({1}), 1 + 2j, b'\\xff', bytearray(b'a'), [], {}, set(), (), '', __import__('fractions').Fraction(1, 3),
    __import__('decimal').Decimal('0.10'),
]"""


def test_plain_values_come_and_go_unchanged():
    same = "all(type(x) is type(y) and x == y for x, y in zip(VALUES, found, strict=True))"
    test = f"VALUES = {VALUES}\ndef check(f):\n    found = FOUND\n    assert {same}"
    assert run("def f(x):\n    return x", test.replace("FOUND", "f(VALUES)")).passed
    assert run("def f(x):\n    return x", test.replace("FOUND", "[f(x=x) for x in VALUES]")).passed
    assert run(f"def f():\n    return {VALUES}", test.replace("FOUND", "f()")).passed
    assert not run("def f():\n    return [None] * 23", test.replace("FOUND", "f()")).passed


def test_true_and_the_number_differ_and_not_a_number_is_none():
    assert equal("True", "f() is True").passed and not equal("1", "f() is True").passed
    assert equal("float('nan')", "f() != f()").passed and equal("-0.0", "str(f()) == '-0.0'").passed


def test_a_subclass_counts_as_its_base_and_an_iterator_as_its_items():
    assert equal("__import__('collections').Counter('aab')", "f() == {'a': 2, 'b': 1}").passed
    assert equal("__import__('collections').OrderedDict(a=1)", "f() == {'a': 1}").passed
    assert equal("__import__('enum').IntEnum('E', 'A').A", "f() == 1").passed
    assert equal("(x for x in (1, 2))", "tuple(f()) == (1, 2)").passed
    assert not equal("(x for x in (1, 2))", "f() == [1, 2]").passed
    assert equal("__import__('re').match('a', 'a')", "f()").passed and not equal("object()", "f() == f()").passed


def test_what_a_function_raises_a_test_may_expect():
    expected = "def check(f):\n    try:\n        f()\n    except {}:\n        return\n    assert False"
    assert run("def f():\n    raise ValueError('no')", expected.format("ValueError")).passed
    assert not run("def f():\n    return", expected.format("ValueError")).passed
    assert not run("def f():\n    raise KeyError('no')", expected.format("ValueError")).passed
    assert run("class Own(KeyError): pass\ndef f():\n    raise Own('no')", expected.format("LookupError")).passed
    for ends in ("raise SystemExit(0)", "import os; os._exit(0)", "raise KeyboardInterrupt"):
        assert not run(f"def f():\n    {ends}", expected.format("BaseException")).passed


def test_neither_a_loop_nor_sleep_outlasts_the_clock():
    for wait in ("while True: pass", "import time\ntime.sleep(100)"):
        for verdict in (act(wait, seconds=0.3), run(f"{wait}\ndef f(): pass", seconds=0.3)):
            assert verdict.why == "did not end in time"
    assert run("def f(): pass", "def check(f):\n    while True: f()", seconds=0.3).why == "did not end in time"


def test_memory_ends():
    for program in ("kept = bytearray(1 << 40)", "kept = [bytearray(1 << 26) for _ in range(1024)]"):
        verdict = act(program, seconds=60.0)  # of a slow machine's clock, which zeroes gigabytes before it is full
        assert verdict.why.startswith("failed: MemoryError")


def test_there_is_no_second_process_or_thread():
    for code in (
        "import os\nwhile True: os.fork()",
        "import subprocess\nsubprocess.run(['/bin/true'])",
        "import os\nos.execv('/bin/true', ['true'])",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "import threading\nthreading.Thread(target=print).start()",
    ):
        assert act(code).why.startswith("failed: ")


def test_nothing_is_written_outside(tmp_path):
    (tmp_path / "kept").write_text("kept")
    tmp_path.chmod(0o777)
    (tmp_path / "kept").chmod(0o666)
    for code in (
        "open(p, 'w')",
        "open(p, 'a')",
        "open(p, 'r+')",
        "open(p + 'new', 'w')",
        "open('new', 'w')",
        "os.remove(p)",
        "os.truncate(p, 0)",
        "os.symlink('/', p + 'link')",
        "os.mkdir(p + 'new')",
        "os.mkfifo(p + 'new')",
        "os.utime(p)",
        "os.chmod(p, 0)",
    ):
        assert act(f"import os\np = {str(tmp_path / 'kept')!r}\n{code}").why.startswith("failed: "), code
    assert [path.name for path in tmp_path.iterdir()] == ["kept"] and (tmp_path / "kept").read_text() == "kept"


def test_nothing_but_python_s_own_files_is_read(tmp_path):
    (tmp_path / "secret").write_text("secret")
    tmp_path.chmod(0o755)
    if "reading this user's files" in act("pass").left_open:
        pytest.skip("this kernel cannot shut off reading (Landlock)")
    places = (tmp_path / "secret", "/etc/passwd", "/proc/1/cmdline", "/proc/self/environ", "/proc/self/maps", "/sys/kernel/notes")
    for place in (*places, sys.executable, __file__):
        why = act(f"open({str(place)!r}, 'rb').read()").why
        assert "PermissionError" in why or "FileNotFoundError" in why, place
    for folder in ("/proc", "/", "/tmp", "/root", tmp_path):
        assert act(f"import os\nassert os.listdir({str(folder)!r}) == []").why.startswith("failed: "), folder
    assert act("import os, bisect, statistics, sqlite3\nassert open(os.__file__).read()").passed


def test_nothing_outlives_it():
    """Calls of the C library, with arguments that would make something."""
    made = {
        "shmget": "0x5EED, 4096, 0o1666",
        "semget": "0x5EED, 1, 0o1666",
        "msgget": "0x5EED, 0o1666",
        "shm_open": "b'/program', 0o102, 0o666",
        "mq_open": "b'/program', 0o102, 0o666, None",
        "memfd_create": "b'program', 0",
        "socket": "1, 1, 0",
        "setpriority": "0, 0, 5",
        "nice": "5",
        "sched_setaffinity": "0, 8, ctypes.create_string_buffer(b'\\1', 8)",
        "setsid": "",
        "flock": "0, 2",
        "inotify_init": "",
        "unshare": "0x10000000",
        "chdir": "b'/'",
        "prctl": "4, 1, 0, 0, 0",
        "personality": "0",
    }
    names = {name: f"libc.{name}({given})" for name, given in made.items()}
    names |= {"add_key": "libc.syscall(248, b'user', b'program', b'x', 1, -4)", "io_uring": "libc.syscall(425, 1, bytes(256))"}
    names |= {"pidfd": "libc.syscall(434, 1, 0)", "userfault": "libc.syscall(323, 1)", "bpf": "libc.syscall(321, 0, 0, 0)"}
    names |= {"lock": "libc.fcntl(0, 6, bytes(64))", "owner": "libc.fcntl(0, 8, 1)", "steer": "libc.ioctl(0, 0x5412, b'x')"}
    code = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nopen_ = []\n"
    for name, call in names.items():
        code += f"\nctypes.set_errno(0)\nif {call} != -1 or ctypes.get_errno() not in (1, 13): open_.append({name!r})"
    assert act(code + "\nassert not open_, open_").why == "passed"
    before = pathlib.Path("/proc/sysvipc/shm").read_text() if os.path.exists("/proc/sysvipc/shm") else ""
    assert "0x5eed" not in before.lower() and str(0x5EED) not in before


def test_no_process_is_left_over():
    before = set(filter(_is_child, pathlib.Path("/proc").glob("[0-9]*/status")))  # of other tests
    marks = {"while True: pass", "import os\nos._exit(0)", "import signal\nsignal.signal(15, signal.SIG_IGN)\nwhile True: pass"}
    for code in marks:
        act(code, seconds=0.3)
    assert set(filter(_is_child, pathlib.Path("/proc").glob("[0-9]*/status"))) <= before


def _is_child(status):
    try:
        return f"\nPPid:\t{os.getpid()}\n" in status.read_text()
    except OSError:
        return False


def test_the_network_is_out_of_reach():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert act(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)").why.startswith("failed: ")
    send = "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53))"
    assert act(send).why.startswith("failed: ")


def test_output_without_end_is_neither_kept_nor_in_the_way():
    assert not act("while True: print('x' * 100_000)", seconds=0.5).passed
    assert act("import sys\nprint('x' * 10_000_000)\nprint('passed', file=sys.stderr)").passed
    assert len(act("raise ValueError('x' * 10_000_000)").why) <= 800


def test_who_started_it_lives():
    for code in (
        "import os\nos.kill(os.getppid(), 9)",
        f"import os\nos.kill({os.getpid()}, 9)",
        "import os\nos.kill(1, 9)",
        "import os\nos.setsid()\nos.killpg(0, 9)",
    ):
        assert "PermissionError" in act(code).why
    assert act("x = 1").passed


def test_it_sees_no_environment_and_an_empty_folder(monkeypatch):
    monkeypatch.setenv("SECRET", "token")
    assert act("import os\nassert 'SECRET' not in os.environ and 'program-' in os.getcwd()").passed
    assert act("import sys\nassert not any('site-packages' in place or 'confined' in place for place in sys.path), sys.path").passed


def test_the_folder_is_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    sandbox.run_all([task("x = 1"), task("1 / 0")])
    assert list(pathlib.Path(tmp_path).iterdir()) == []


def test_the_test_itself_is_confined():
    """Data come from others as well."""
    for code in ("open('/etc/passwd')", "import os\n    os.fork()", "import socket\n    socket.socket()", "while True: pass"):
        assert not run("def f(): pass", f"def check(f):\n    {code}", seconds=0.5).passed


def lacking(*numbers, machine=0xC000003E):
    """Source of a program that has the kernel refuse some system calls to it and all that it starts."""
    return f"""
import ctypes, struct
steps = [(0x20, 0, 0, 0)]
for number in {numbers!r}:
    steps += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | 38)]
program = b"".join(struct.pack("HBBI", *step) for step in [*steps, (0x06, 0, 0, 0x7FFF0000)])
kept = ctypes.create_string_buffer(program, len(program))
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, ctypes.create_string_buffer(struct.pack("HP", len(program) // 8, ctypes.addressof(kept))), 0, 0) == 0
"""


def without(absent, source):
    """Run a program that uses the sandbox where the kernel lacks some system calls."""
    begin = f"{lacking(*absent)}\nimport json\nfrom teleflm_jax.evaluate import sandbox\n"
    return subprocess.run([sys.executable, "-c", begin + source], capture_output=True, text=True, cwd=REPOSITORY, check=False)


UNSHARE, LANDLOCK, MOUNT_SETATTR, PRCTL = 272, 444, 442, 157


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of system calls are x86-64's")
@pytest.mark.parametrize("absent", [(UNSHARE,), (LANDLOCK,), (UNSHARE, LANDLOCK), (MOUNT_SETATTR,)])
def test_where_a_layer_is_absent_the_others_hold(tmp_path, absent):
    """Reading is Landlock's, and in folders of users also the mounts'; where the first is absent it is told."""
    (tmp_path / "secret").write_text("secret")
    tmp_path.chmod(0o755)
    codes = [
        "pass",
        f"open({str(tmp_path / 'secret')!r})",
        f"open({str(tmp_path / 'secret')!r}, 'a')",
        "import os\nwhile True: os.fork()",
        f"import os\nos.kill({os.getpid()}, 9)",
        "import socket\nsocket.create_connection(('127.0.0.1', 9), 2)",
        f"import os\nfor number in ({os.getpid()}, os.getppid(), 1):\n    open(f'/proc/{{number}}/mem', 'r+b')",
    ]
    tasks = [vars(task("def f():\n" + textwrap.indent(code, "    "))) for code in codes]
    ask = f"print(json.dumps([vars(one) for one in sandbox.run_all([sandbox.Task(**task) for task in {tasks!r}])]))"
    ended = without(absent, ask)
    assert ended.returncode == 0, ended.stderr
    harmless, reading, *attacks = json.loads(ended.stdout)
    assert harmless["passed"] and harmless["left_open"] == (["reading this user's files"] if LANDLOCK in absent else [])
    assert reading["passed"] == ({UNSHARE, LANDLOCK} <= {*absent})
    assert not any(verdict["passed"] for verdict in attacks)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of system calls are x86-64's")
def test_where_the_filter_of_system_calls_is_absent_nothing_passes():
    ended = without([PRCTL], "sandbox.refuse_broken()")
    assert (
        ended.returncode == 1
        and "UserError: got a machine on which programs cannot be confined (the judge ended with code 1)" in ended.stderr
    )


@pytest.mark.parametrize(
    "become", [("setpriv", "--reuid=1234", "--regid=1234", "--clear-groups"), ("unshare", "--map-root-user")], ids=["user", "container"]
)
def test_as_an_ordinary_user_and_as_a_container_s_root_it_holds_as_well(become):
    python = "/usr/bin/python3" if sys.base_prefix.startswith("/root") else sys.executable  # that user may not read root's folder
    if subprocess.run([*become, python, "-c", "pass"], capture_output=True, check=False).returncode:
        pytest.skip(f"{become[0]} is not possible here")
    codes = ["pass", "open('/etc/passwd')", "open('new', 'w')", "import os\nos.fork()", "import os\nos.kill(1, 9)"]
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        confined = shutil.copytree(sandbox._CONFINED, pathlib.Path(folder) / "confined")
        for code in codes:
            problem = json.dumps(vars(task(f"def f():\n{textwrap.indent(code, '    ')}")))
            command = [*become, python, "-I", "-S", str(confined), "3.0", str(1 << 30)]
            ended = subprocess.run(command, input=problem, text=True, capture_output=True, check=False, cwd=folder)
            assert json.loads(ended.stdout)["passed"] == (code == "pass"), ended


def test_a_machine_that_fails_right_programs_is_refused(monkeypatch, tmp_path):
    sandbox.refuse_broken()
    (tmp_path / "__main__.py").write_text("raise SystemExit(1)")
    monkeypatch.setattr(sandbox, "_CONFINED", tmp_path)
    with pytest.raises(
        UserError, match="got a machine on which programs cannot be confined .the process that watched both was ended.; allowed"
    ):
        sandbox.refuse_broken()


def test_what_ends_the_trainer_ends_the_program(tmp_path):
    """With the watcher, however that ends, both of its processes end."""
    problem = json.dumps(vars(task("def f():\n    while True: pass")))
    command = [sys.executable, "-I", "-S", str(sandbox._CONFINED), "1.0", str(1 << 30)]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    watcher.stdin.write(problem.encode())
    watcher.stdin.close()
    children = pathlib.Path(f"/proc/{watcher.pid}/task/{watcher.pid}/children")
    deadline = time.monotonic() + 60
    while len(found := children.read_text().split()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(found) == 2
    watcher.kill()
    watcher.wait()
    while any(_lives(child) for child in found) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(_lives(child) for child in found)


def _lives(process):
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_pause_raises_leaves_out_the_programs_that_have_not_begun(monkeypatch):
    begun, over = [], threading.Event()

    def run(number):
        begun.append(number)
        assert number == "0" or over.wait(60)
        return sandbox.Verdict(passed=True, why="passed")

    def pause():
        over.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(sandbox, "run", run)
    with pytest.raises(KeyboardInterrupt):
        sandbox.run_all([str(number) for number in range(1_000)], pause)
    assert len(begun) < 500 and sandbox.run_all(["0"] * 3) == [sandbox.Verdict(passed=True, why="passed")] * 3
