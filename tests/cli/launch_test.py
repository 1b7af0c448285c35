import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from teleflm_jax.cli import launch as command
from teleflm_jax.cli import main, options
from teleflm_jax.distributed import xla

ROOT = pathlib.Path(__file__).resolve().parents[2]


def launch(*arguments, **options):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "teleflm_jax", "launch", *map(str, arguments)], cwd=ROOT, **pipes, **options)


def run(*arguments, **options):
    process = launch(*arguments, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture
def script(tmp_path):
    """Write a script and return its path."""

    def write(text):
        (tmp_path / "script.py").write_text("import os, sys, time, signal\n" + text)
        return tmp_path / "script.py"

    return write


def test_processes_learn_their_places_and_the_first_one_speaks(script):
    path = script("print(*(os.environ[n] for n in ('JAX_PROCESS_ID', 'JAX_NUM_PROCESSES', 'JAX_PLATFORMS', 'XLA_FLAGS')), sys.argv[1])")
    code, out, err = run("-n", 2, "--devices_per_process", 3, "--", path, "hello", env=os.environ | {"XLA_FLAGS": ""})
    assert (code, out) == (0, "0 2 cpu --xla_force_host_platform_device_count=3 hello\n")
    assert err == "[1] 1 2 cpu --xla_force_host_platform_device_count=3 hello\n"


def test_the_exit_code_is_the_run_s_and_a_failure_ends_the_others(script):
    path = script("if os.environ['JAX_PROCESS_ID'] == '1': sys.exit(3)\ntime.sleep(60)")
    began = time.monotonic()
    assert run("-n", 2, "--devices_per_process", 1, "--", path)[0] == 3
    assert time.monotonic() - began < 30
    assert run("-n", 2, "--devices_per_process", 1, "--", script("sys.exit(75)"))[0] == 75
    assert run("--", script("sys.exit(3)"))[0] == 3


def test_a_signal_reaches_every_process(script):
    path = script("signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\nprint('ready', flush=True)\ntime.sleep(60)")
    process = launch("-n", 3, "--devices_per_process", 1, "--", path)
    assert process.stdout.readline() == "ready\n" and all(process.stderr.readline().endswith("ready\n") for _ in range(2))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2"])
def test_signals_to_save_and_to_profile_are_passed_on(script, name):
    path = script(f"signal.signal(signal.{name}, lambda *_: sys.exit(75))\nprint('ready', flush=True)\ntime.sleep(60)")
    process = launch("-n", 2, "--devices_per_process", 1, "--", path)
    assert process.stdout.readline() == "ready\n" and process.stderr.readline().endswith("ready\n")
    process.send_signal(getattr(signal, name))
    process.communicate(timeout=30)
    assert process.returncode == 75


def test_a_second_signal_is_passed_on_and_ends_them_at_once(script):
    path = script(
        "def first(number, _):\n    signal.signal(number, signal.SIG_DFL)\n    print('saving', flush=True)\n"
        "signal.signal(signal.SIGTERM, first)\nprint('ready', flush=True)\nwhile True:\n    time.sleep(1)"
    )
    process = launch("-n", 2, "--devices_per_process", 1, "--", path)
    for word in ("ready\n", "saving\n"):
        assert process.stdout.readline() == word and process.stderr.readline().endswith(word)
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM and "was killed by signal 15" in err


def test_a_hung_process_is_the_cause_and_one_that_is_stopped_is_killed(script):
    path = script(
        "index = os.environ['JAX_PROCESS_ID']\n"
        "if index == '0': os.kill(os.getpid(), signal.SIGSTOP)\n"
        "if index == '1': time.sleep(1); os._exit(70)\n"
        "signal.signal(signal.SIGTERM, lambda *_: os.abort())\n"  # as jax does when it loses the others
        "time.sleep(60)"
    )
    sooner = "import sys; from teleflm_jax.cli import launch, main; launch.GRACE_SECONDS = 1; sys.exit(main.main(sys.argv[1:]))"
    own = ["launch", "-n", "3", "--devices_per_process", "1", "--", path]
    done = subprocess.run([sys.executable, "-c", sooner, *own], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 70
    assert done.stderr.splitlines()[-1] == (
        "process 1 ended a start or a step that had hung (70), so all were ended; the same command resumes from the newest checkpoint"
    )


def test_of_several_failures_the_one_that_says_most_of_itself_is_the_cause():
    assert command._failure([None, 0, 75]) is None
    assert command._failure([-6, 1, 70]) == (2, 70)
    assert command._failure([1, 143]) == (1, 143)  # left at a second signal, which the other notices by a connection that closes
    assert command._failure([1, -9]) == (1, -9)
    assert command._failure([-6, 1]) == (1, 1)
    assert command._failure([None, 2, 2]) == (1, 2)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), "got no command"),
        (("-n", 0, "--", "train.py"), "got -n 0"),
        (("--devices_per_process", 0, "--", "train.py"), "--devices_per_process 0"),
        (("--", "trane.py"), "got the script 'trane.py'"),
        (("-n", "x", "--", "train.py"), "invalid int value"),
        (("--preflight", "--", "train.py", "--coordinator", "a:1"), "got --preflight and --coordinator"),
        (("--preflight", "--preflight_tolerance", 1.5), "got --preflight_tolerance 1.5; allowed: 0 to 1"),
    ],
)
def test_wrong_input_is_one_line(arguments, words, capfd):
    code = options.run_command(lambda: main.main(["launch", *map(str, arguments)]))
    out, err = capfd.readouterr()
    assert code == 2 and not out and err.startswith("error: got ") and err.count("\n") == 1 and words in err


def test_this_xla_knows_every_setting():
    flags = " ".join(f"--{name}={value}" for name, (value, _) in xla.FLAGS.items())
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
