import math

import numpy as np
import pytest

from teleflm_jax.observability import history, run_log


def test_a_curve_of_many_points_keeps_its_spikes_and_its_order():
    x = np.arange(100_003.0)
    y = np.sin(x / 9_000)
    y[[0, 777, 50_000, 100_002]] = [-9, 9, -8, 8]
    thin_x, thin_y = history.downsample(x, y)
    assert len(thin_x) <= history.POINTS and {-9, 9, -8, 8} <= set(thin_y)
    assert (np.diff(thin_x) >= 0).all() and (y[thin_x.astype(int)] == thin_y).all()


@pytest.mark.parametrize("rows", [0, 1, history.POINTS])
def test_a_short_curve_stays_as_it_is(rows):
    x = np.arange(float(rows))
    assert all((found == x).all() for found in history.downsample(x, x))


def test_the_running_mean_spans_the_last_twentieth():
    assert history.running_mean(np.arange(40.0))[[0, 1, 39]] == pytest.approx([0, 0.5, 38.5])
    assert len(history.running_mean(np.array([]))) == 0


def test_columns_have_a_number_a_row_or_nan(tmp_path):
    assert all(len(column) == 0 for column in history.read(tmp_path).values())
    for row in ({"step": 1, "tokens": 8, "loss": 2.5}, {"step": 2, "loss": "high", "mfu": 1e999}):
        run_log.append(tmp_path / run_log.METRICS, row)
    found = history.read(tmp_path)
    assert found["step"].tolist() == [1, 2] and found["loss"][0] == 2.5
    assert all(math.isnan(value) for value in (found["loss"][1], found["tokens"][1], found["mfu"][1], found["elapsed"][0]))


def test_rows_are_read_once_as_they_come(tmp_path, monkeypatch):
    logs = history.Logs(folder=tmp_path)
    read = []
    parse = run_log._row
    monkeypatch.setattr(run_log, "_row", lambda path, line, end: read.append(line) or parse(path, line, end))
    assert len(logs.metrics()["step"]) == 0 and logs.evals() == []
    for step in range(1, 8):
        run_log.append(tmp_path / run_log.METRICS, {"step": step, "loss": float(step)})
        if step % 3 == 0:
            run_log.append(tmp_path / run_log.EVALS, {"step": step, "bpb": 1.0})
            assert logs.metrics()["loss"].tolist() == [float(number) for number in range(1, step + 1)]
            assert [row["step"] for row in logs.evals()] == list(range(3, step + 1, 3))
    with (tmp_path / run_log.METRICS).open("a") as file:
        file.write('{"step": 8, "lo')  # being written
        file.flush()
        assert logs.metrics()["step"].tolist() == list(range(1, 8))
        file.write('ss": 8.0}\n')
    assert logs.metrics()["step"].tolist() == list(range(1, 9)) == history.read(tmp_path)["step"].tolist()
    assert [row["step"] for row in logs.evals()] == [3, 6]
    assert len(read) == 8 + 2 + 8  # each once, and those of metrics.jsonl once by the other reader
