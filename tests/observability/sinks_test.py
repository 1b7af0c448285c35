"""Figures that leave the run's folder: they arrive, and whatever goes wrong with them is one message and no more."""

import contextlib
import socket
import sys
import threading
import time
import types
import urllib.request

import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.observability import run_log, sinks
from teleflm_jax.observability.config import TelemetryConfig


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return answer.read().decode()


def until(condition) -> None:
    """Wait for another thread, for seconds that a busy machine may need."""
    ends = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.01)


def served(port: int, line: str) -> bool:
    with contextlib.suppress(OSError):
        return line in scraped(port).splitlines()
    return False


class FakeWandb(types.ModuleType):
    """The few names of wandb that are used, and what they were given."""

    def __init__(self, fail_in=None):
        super().__init__("wandb")
        self.fail_in, self.started, self.rows, self.finished = fail_in, [], [], []

    def Settings(self, **settings):  # noqa: N802
        return settings

    def setup(self, settings):
        assert settings["silent"], "else a missing login is asked for on the terminal"

    def init(self, **given):
        if self.fail_in == "init":
            raise RuntimeError("No API key\nconfigured")
        self.started.append(given)
        return self

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "train/step")

    def log(self, row):
        if self.fail_in == "log":
            raise ConnectionError("gone")
        self.rows.append(row)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.fail_in == "finish":
            raise TimeoutError("too slow")
        self.finished.append(True)


@pytest.fixture
def wandb(monkeypatch):
    def install(fail_in=None):
        fake = FakeWandb(fail_in)
        monkeypatch.setitem(sys.modules, "wandb", fake)
        return fake

    return install


WANDB = TelemetryConfig(wandb_project="tele")


def test_nothing_is_opened_by_default_nor_on_other_processes(tmp_path):
    threads = threading.active_count()
    for config, quiet in ((TelemetryConfig(), False), (TelemetryConfig(wandb_project="p", prometheus_port=1), True)):
        with sinks.opened(config, tmp_path, pytest.fail, quiet) as publish:
            publish({"step": 1, "loss": 2.0})
            assert threading.active_count() == threads
    assert not list(tmp_path.iterdir())


def test_prometheus_serves_the_newest_figures_until_the_run_ends(tmp_path):
    port = free_port()
    with sinks.opened(TelemetryConfig(prometheus_port=port), tmp_path, pytest.fail, False) as publish:
        publish({"step": 1, "loss": 2.5})
        publish({"step": 2, "loss": 1.5})
        publish({"step": 2, "bpb": 0.75, "bpb/english": 1.0, 'bpb/中文 "a"': 0.5, "loss/english": 3.0})
        until(lambda: served(port, 'teleflm_loss{domain="english"} 3.0'))
        lines = scraped(port).splitlines()
    assert {"teleflm_train_step 2.0", "teleflm_train_loss 1.5", "teleflm_train_bpb 0.75"} <= {*lines}
    assert 'teleflm_bpb{domain="english"} 1.0' in lines and 'teleflm_bpb{domain="中文 \\"a\\""} 0.5' in lines
    with pytest.raises(OSError):
        scraped(port)


def test_the_run_log_publishes_what_it_has_written(tmp_path):
    seen = []
    log = run_log.open_log(tmp_path, 0, began=0.0, publish=lambda row: seen.append((row, (tmp_path / run_log.METRICS).exists())))
    with contextlib.closing(log):
        log.metrics({"step": 1, "loss": 2.0})
        log.evaluation({"step": 1, "bpb/english": 1.0})
        log.event("save", step=1)
    assert seen == [({"step": 1, "loss": 2.0}, True), ({"step": 1, "bpb/english": 1.0}, True)]
    with contextlib.closing(run_log.open_log(tmp_path, 1, began=0.0, quiet=True, publish=pytest.fail)) as log:
        log.metrics({"step": 2, "loss": 2.0})


def test_wandb_gets_every_row_and_a_resumed_run_is_the_same_one(tmp_path, wandb):
    fake, folder = wandb(), tmp_path / "my run ä"
    folder.mkdir()
    for step in (1, 2):
        with sinks.opened(WANDB, folder, pytest.fail, False) as publish:
            publish({"step": step, "loss": 2.0, "bpb/english": 1.0})
    assert fake.rows == [{"train/step": step, "train/loss": 2.0, "bpb/english": 1.0} for step in (1, 2)]
    assert len(fake.finished) == 2
    first, second = fake.started
    assert first["id"] == second["id"] and first["id"].startswith("my-run---")
    assert (first["project"], first["name"], first["resume"], first["dir"]) == ("tele", "my run ä", "allow", str(folder))
    assert [path.name for path in folder.iterdir()] == [sinks.RUN_ID]
    other = tmp_path / "elsewhere" / "my run ä"
    other.mkdir(parents=True)
    with sinks.opened(WANDB, other, pytest.fail, False):
        pass
    assert fake.started[2]["id"] != first["id"], "runs of one project in folders of one name are two"


@pytest.mark.parametrize(
    ("fail_in", "reason"),
    [("init", "RuntimeError: No API key configured"), ("log", "ConnectionError: gone"), ("finish", "TimeoutError: too slow")],
)
def test_a_failure_at_any_time_is_one_message(tmp_path, wandb, fail_in, reason):
    wandb(fail_in)
    said = []
    with sinks.opened(WANDB, tmp_path, said.append, False) as publish:
        for step in range(1, 5):
            publish({"step": step, "loss": 2.0})
            if fail_in != "finish":
                until(lambda: said)
    assert len(said) == 1 and said[0].startswith(f"wandb is off: {reason}; to change it: ") and "wandb login" in said[0]


@pytest.mark.parametrize("name", ["wandb", "prometheus_client"])
def test_a_library_that_is_not_there_is_one_message_and_the_other_sink_goes_on(tmp_path, monkeypatch, wandb, name):
    fake, said, port = wandb(), [], free_port()
    monkeypatch.setitem(sys.modules, name, None)
    with sinks.opened(TelemetryConfig(wandb_project="p", prometheus_port=port), tmp_path, said.append, False) as publish:
        publish({"step": 1, "loss": 2.0})
        until(lambda: said and (fake.rows or served(port, "teleflm_train_loss 2.0")))
    assert len(said) == 1
    assert f"no module {name}" in said[0] and "pip install -r requirements-telemetry.txt" in said[0]


def test_a_port_that_is_taken_is_one_message(tmp_path):
    said = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = TelemetryConfig(prometheus_port=taken.getsockname()[1])
        with sinks.opened(config, tmp_path, said.append, False) as publish:
            until(lambda: said)
            publish({"step": 1, "loss": 2.0})
    assert len(said) == 1 and "Address already in use" in said[0] and "change telemetry.prometheus_port" in said[0]


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path, wandb):
    wandb()
    said = []
    with sinks.opened(WANDB, tmp_path / "absent", said.append, False):
        until(lambda: said)
    assert "FileNotFoundError" in said[0]


def test_a_server_that_never_answers_holds_up_neither_the_steps_nor_the_end(tmp_path, wandb, monkeypatch):
    fake, answer, said = wandb(), threading.Event(), []
    monkeypatch.setattr(fake, "log", lambda row: answer.wait())
    monkeypatch.setattr(sinks, "END_SECONDS", 0.05)
    monkeypatch.setattr(sinks, "MAX_WAITING", 3)
    with sinks.opened(WANDB, tmp_path, said.append, False) as publish:
        publish({"step": 0, "loss": 2.0})
        for step in range(1, 10):
            publish({"step": step, "loss": 2.0})
    answer.set()
    assert said == ["wandb did not keep up: 10 row(s) are in the run's folder only"]


def test_an_error_of_the_run_passes_through_and_ends_the_sinks(tmp_path, wandb):
    fake = wandb()
    with pytest.raises(KeyError, match="mine"), sinks.opened(WANDB, tmp_path, pytest.fail, False):
        raise KeyError("mine")
    assert fake.finished


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"prometheus_port": -1}, "port"), ({"prometheus_port": 65_536}, "port"), ({"wandb_project": ""}, "project")],
)
def test_settings_that_mean_nothing_are_refused(settings, field):
    with pytest.raises(UserError, match=f"got telemetry.*{field}.*; allowed: .*; change telemetry"):
        TelemetryConfig(**settings)
