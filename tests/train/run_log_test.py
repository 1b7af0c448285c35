import contextlib
import json

import pytest

from teleflm_jax.train import curves, progress, run_log


def test_rows_past_a_step_and_a_torn_line_go(tmp_path):
    path = tmp_path / run_log.METRICS
    for step in range(1, 6):
        run_log.append(path, {"step": step})
    path.write_text(path.read_text() + '{"step": 6')
    run_log.keep_until(path, 3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    run_log.keep_until(tmp_path / "absent", 3)
    assert not (tmp_path / "absent").exists()


def test_events_keep_every_whole_line(tmp_path):
    path = tmp_path / run_log.EVENTS
    run_log.append(path, {"event": "start"})
    path.write_text(path.read_text() + '{"event')
    run_log.repair(path)
    assert list(run_log.rows(path)) == [{"event": "start"}]


def test_curves_of_one_step_can_be_drawn(tmp_path):
    run_log.append(tmp_path / run_log.METRICS, {"step": 1, "tokens": 10, "loss": 2.0, "grad_norm": 0.5})
    assert curves.draw(tmp_path).stat().st_size > 1000


def test_plain_lines_where_there_is_no_terminal(capsys):
    with progress.shown(2) as (report, say):
        row = {"step": 2, "positions": 64, "targets": 48, "loss": 1.5, "grad_norm": 0.1}
        report(row | {"tokens_per_second": 1000.0, "mfu": 0.5, "step_seconds": 2.0})
        say("saved")
    assert "step 2/2  loss 1.5000  grad norm 0.100  1,000 tokens/s (75.0% count)" in capsys.readouterr().err
    assert progress.duration(3723.9) == "1:02:03"


def test_a_full_disk_under_tensorboard_is_an_error_and_not_a_hang(tmp_path):
    log = run_log.open_log(tmp_path, 0, began=0.0)
    writer = log.tensorboard._py_recordio_writer
    with open("/dev/full", "wb", buffering=0) as full, contextlib.closing(writer._writer):
        writer._writer = full
        with pytest.raises(OSError, match="No space left"):
            log.metrics({"step": 1, "loss": 2.0})
