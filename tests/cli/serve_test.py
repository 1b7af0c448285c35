import signal
import socket
import subprocess
import sys

import openai
import pytest

from teleflm_jax.cli import main, options
from teleflm_jax.serve.config import API_KEY
from tests import job


@pytest.fixture
def call(trained, capsys):
    def run(*arguments):
        code = options.run_command(lambda: main.main(["serve", "--workdir", trained.path, *map(str, arguments)]))
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_a_server_answers_until_it_is_asked_to_stop_and_leaves_in_peace(trained, signal_):
    arguments = ["serve", "--workdir", trained.path, "--port", "0", "--name", "small", "--slots", "1"]
    environment = job.BARE | {"JAX_PLATFORMS": "cpu", API_KEY: "sesame"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-m", "teleflm_jax", *arguments], env=environment, **pipes) as process:
        said = process.stdout.readline()
        assert said.startswith("serving small, step 10, at http://127.0.0.1:"), process.stderr.read()
        with openai.OpenAI(base_url=said.split()[-1], api_key="sesame", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["small"]
            if signal_ == signal.SIGTERM:
                assert client.completions.create(model="small", prompt="the", max_tokens=2).usage.completion_tokens > 0
        process.send_signal(signal_)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "")


def test_a_port_that_is_taken_is_named_before_the_weights_are_read(call):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = call("--port", port)
    assert code == 2 and out == ""
    assert err == f"error: got 127.0.0.1:{port} (Address already in use); allowed: a free port of this machine; change --port or --host\n"


def test_missing_libraries_are_named(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = call()
    assert code == 2 and err.startswith("error: got no module uvicorn") and "pip install -r requirements-serve.txt" in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--port", "65536"], "got port 65536; allowed: 0 (any) to 65535; change --port"),
        (["--slots", "0"], "got slots 0; allowed: 1 or more"),
        (["--queue", "-1"], "got queue -1; allowed: 0 or more"),
        (["--grace", "nan"], "got grace nan; allowed: a number of seconds"),
        (["--allowed_origins", "https://a.example/"], "got allowed_origins https://a.example/; allowed: such as https://example.org"),
        (["--allowed_origins", "*", "a.example"], "got allowed_origins * a.example; allowed"),
        (["--host", "no.such.host.invalid"], "got the host no.such.host.invalid"),
        (["--step", "3"], "got step 3; allowed: 5, 10"),
        (["--prot", "1"], "change it to --port"),
    ],
)
def test_wrong_input_is_one_line(call, arguments, message):
    code, out, err = call(*arguments)
    assert code == 2 and out == "" and err.startswith("error: got ") and err.count("\n") == 1 and message in err


def test_an_empty_key_is_refused(call, monkeypatch):
    monkeypatch.setenv(API_KEY, "")
    assert call()[2].startswith(f"error: got an empty {API_KEY}; allowed: a key, or none")
