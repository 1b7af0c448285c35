import contextlib
import json
import os
import random
import tracemalloc

import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.observability import curves, history, progress, run_log


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
    assert curves.draw(history.Logs(folder=tmp_path)).stat().st_size > 1000


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


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 16])
@pytest.mark.parametrize("torn", ["", "{", '{"step": 900, "x": "' + "y" * 100])
def test_the_end_of_a_log_reads_as_all_of_it_does(tmp_path, monkeypatch, block, torn):
    monkeypatch.setattr(run_log, "BLOCK", block)
    path, draw = tmp_path / "log", random.Random(block)
    written = [{"step": step, "text": "你" * draw.randrange(40)} for step in range(1, 30)]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written)
    for count in (0, 1, 29):
        part = "".join(content.splitlines(keepends=True)[:count])
        path.write_text(part + torn)
        assert run_log.last(path, 5) == written[:count][-5:] and run_log.last(path, 100) == written[:count]
        for step in (0, 1, 28, 29, 50):
            path.write_text(part + torn)
            assert run_log.keep_until(path, step) == written[:count][step:]
            assert list(run_log.rows(path)) == written[:count][:step]
            assert path.read_text() == "".join(content.splitlines(keepends=True)[: min(count, step)])
        path.write_text(part + torn)
        run_log.repair(path)
        assert path.read_text() == part


def test_a_long_log_is_cut_back_and_remembered_without_reading_it(tmp_path):
    path = tmp_path / run_log.METRICS
    path.write_text("".join(json.dumps({"step": step, "loss": 1.0, "text": "x" * 1000}) + "\n" for step in range(1, 20_001)))
    tracemalloc.start()
    assert [row["step"] for row in run_log.keep_until(path, 19_990)] == list(range(19_991, 20_001))
    assert run_log.last(path, 3)[0]["step"] == 19_988
    assert tracemalloc.get_traced_memory()[1] < 1 << 21  # of a file of 20 MB
    tracemalloc.stop()


@pytest.mark.parametrize("line", ["[" * 100_000, "{" * 10, "7", '{"step": "x"}', '{"step": true}', "x" * (1 << 21), '{"a": NaN} {}'])
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    path = tmp_path / run_log.METRICS
    path.write_text('{"step": 1}\n' + line + "\n")
    for read in (lambda: list(run_log.rows(path)), lambda: run_log.keep_until(path, 0), lambda: run_log.last(path, 2)):
        with pytest.raises(UserError, match="line 2, which is not a row"):
            read()
    assert path.read_text().startswith('{"step": 1}\n' + line)


def test_a_log_that_nobody_writes_into_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / run_log.EVENTS)
    with pytest.raises(UserError, match="not a plain file"):
        list(run_log.rows(tmp_path / run_log.EVENTS))
    with pytest.raises(UserError, match="not a plain file"):
        run_log.repair(tmp_path / run_log.EVENTS)
