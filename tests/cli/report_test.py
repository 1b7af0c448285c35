"""`report`: tables and one page from a run's logs, without jax, and with nothing in it that a log or a name smuggled in."""

import errno
import html.parser
import json
import os
import subprocess
import sys

import pytest
from matplotlib import figure

from teleflm_jax import config
from teleflm_jax.cli import main, options, report_page
from teleflm_jax.observability import ledger, run_log
from teleflm_jax.runs.config import SAVED_CONFIG, SECTIONS
from tests import job
from tests.cli.options_test import SHAPE

EVENTS = [
    {"event": "start", "time": 1_700_000_010.0, "elapsed": 10.0, "step": 0, "seconds": 10.0, "devices": 2, "peak_flops": 1e12},
    {"event": "compile", "time": 1_700_000_030.0, "elapsed": 30.0, "step": 0, "seconds": 20.0},
    {"event": "save", "time": 1_700_000_075.0, "elapsed": 75.0, "step": 4, "seconds": 5.0},
    {"event": "skip", "time": 1_700_000_085.0, "elapsed": 85.0, "step": 4, "data_step": 5, "seconds": 10.0, "loss": 9.5},
    {"event": "save", "time": 1_700_000_088.0, "elapsed": 88.0, "step": 4, "seconds": 3.0},
    {"event": "resume", "time": 1_700_000_198.0, "elapsed": 8.0, "step": 4, "seconds": 8.0}
    | {"lost_steps": 1, "lost_seconds": 2.0, "previous_elapsed": 90.0},
]
ROWS = [
    {"step": i, "tokens": 32 * i, "loss": 3.0 - i / 10, "grad_norm": 1.0, "data_wait_seconds": 1.0, "step_seconds": 10.0}
    | {"tokens_per_second": 3.2, "mfu": 0.5, "elapsed": 30.0 + 10 * i if i <= 4 else 8.0 + 10 * (i - 4)}
    for i in range(1, 6)
]
EVALS = [{"step": 4, "tokens": 128, "loss/web": 2.5, "bpb": 1.1}]


def write(folder, *, events=EVENTS, rows=ROWS, evals=EVALS, steps=10):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SAVED_CONFIG).write_text(SHAPE + f"train.steps = {steps}\ntrain.batch_size = 8\n")
    for file, lines in ((run_log.EVENTS, events), (run_log.METRICS, rows), (run_log.EVALS, evals)):
        if lines is not None:
            (folder / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def report(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def report(*argv):
        code = options.run_command(lambda: main.main(["report", *map(str, argv)]))
        out, err = capsys.readouterr()
        return code, out, err

    return report


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the page's pictures empty: drawing takes longer than the rest of a report."""
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, file, **_: None)


def cells(out):
    """Lines of the printed tables as lists of cells."""
    return [[cell for cell in line.strip().split("  ") if cell] for line in out.splitlines()]


@pytest.mark.usefixtures("undrawn")
def test_the_figures_of_a_run(report, tmp_path):
    code, out, err = report(write(tmp_path / "run"))
    assert (code, err) == (0, "")
    lines = [[cell.strip() for cell in line] for line in cells(out)]
    for line in (
        ["steps", "5 of 10"],
        ["tokens drawn", "160 of 320 (50.0%)"],
        ["sessions", "2"],
        ["wall time", "0:03:28"],
        ["goodput", "24.0%"],
        ["MFU of the steps that are kept", "50.0%"],
        ["MFU x goodput", "12.0%"],
        ["tokens per second, last 100 steps", "3"],
        ["to the end, at this speed", "0:00:50"],
        ["to the end, at this speed x goodput", "0:03:28"],
        ["start-up: imports, joining the other processes, restoring", "18.0", "8.7%"],
        ["compile", "20.0", "9.6%"],
        ["data wait: of the steps that are kept", "5.0", "2.4%"],
        ["steps: that are kept, without their data wait", "45.0", "21.6%"],
        ["checkpoint: the part of saving that training waits for", "8.0", "3.8%"],
        ["validation", "0.0", "0.0%"],
        ["lost: steps done again, updates skipped, rewinds, evaluations that a signal ended", "12.0", "5.8%"],
        ["down: between sessions", "100.0", "48.1%"],
        ["total", "208.0", "100.0%"],
        ["save", "2 times, 8.0 s in all, the longest 5.0 s"],
        ["2023-11-14 22:14:45Z", "4", "skip", "data_step=5", "seconds=10", "loss=9.5"],
    ):
        assert line in lines, line
    assert "still running, or was killed; last sign" in out
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.usefixtures("undrawn")
def test_tokens_in_the_loss_epochs_and_the_schedule_s_end(report, tmp_path):
    rows = [row | {"positions": 32, "targets": 30 - i} for i, row in enumerate(ROWS)]
    events = [EVENTS[0], *({**event, "epochs": {"en\x1b[2J": 0.5, "zh": i}} for i, event in enumerate(EVENTS[1:]))]
    code, out, _ = report(write(tmp_path / "run", events=events, rows=rows))
    assert code == 0
    lines = [[cell.strip() for cell in line] for line in cells(out)]
    assert ["of these in the loss", "140 (87.5%; the rest is padding and borders of documents)"] in lines
    assert [r"en\u001b[2J", "0.50"] in lines and ["zh", "4.00"] in lines
    decay = "2,500,000,000,000"
    said = " ".join(out.split())
    assert "the run ends at step 10, before the learning rate reaches its minimum at step 78,125,000,000" in said and decay in said
    _, out, _ = report(write(tmp_path / "old"))
    assert ["of these in the loss", "unknown"] in [[cell.strip() for cell in line] for line in cells(out)]
    assert "Epochs by domain" not in out


def test_a_folder_that_cannot_be_written_still_has_its_tables_shown(report, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system", "x")

    monkeypatch.setattr(report_page, "write", refuse)
    code, out, err = report(write(tmp_path / "run"))
    assert code == 2 and "goodput" in out
    assert f"got {tmp_path / 'run'}, where the page report.html cannot be written (Read-only file system)" in err and "--out" in err


@pytest.mark.usefixtures("undrawn")
def test_several_runs_stand_side_by_side_and_the_page_goes_to_the_first(report, tmp_path):
    write(tmp_path / "one"), write(tmp_path / "two", events=[*EVENTS, {"event": "done", "time": 1.7e9, "step": 5}], evals=None)
    code, out, _ = report("one", "two")
    assert code == 0
    assert ["goodput", "24.0%", "24.0%"] in [[cell.strip() for cell in line] for line in cells(out)]
    assert "Events of one" in out and "Events of two" in out and " done " in out
    assert (tmp_path / "one/report.html").exists() and not (tmp_path / "two/report.html").exists()


class Tags(html.parser.HTMLParser):
    """The page as a browser reads it."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_page_holds_its_pictures_and_asks_for_nothing(report, tmp_path):
    report(write(tmp_path / "run"), "--out", "page.html")
    page = Tags((tmp_path / "page.html").read_text(encoding="utf-8"))
    pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 3 and all(source.startswith("data:image/png;base64,iVBOR") for source in pictures)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "a"})
    assert all(value.startswith("data:") for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href"))
    for text in ("goodput", "Where the seconds went", "lost: steps done again", "data_step=5", "208.0"):
        assert text in page.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "run"]  # nothing half-written stays
    assert os.stat(tmp_path / "page.html").st_mode & 0o444 == os.stat(tmp_path / "run/metrics.jsonl").st_mode & 0o444


def test_names_and_events_are_text_and_nothing_else(report, tmp_path):
    evil = "<script>alert(1)<"  # a folder's name holds no slash
    events = [*EVENTS, {"event": "<img src=x>", "time": 1.7e9, "step": 5, "<b>": "[red]</td><script>alert(2)</script>\x1b[2J\u202e"}]
    evals = [{"step": 4, "tokens": 128, "loss/<script>$x^$_网页": 2.5}]
    write(tmp_path / evil, events=events, evals=evals), write(tmp_path / "_$x{$ 运行 [bold]", events=events, evals=evals)
    for runs in ([evil], [evil, "_$x{$ 运行 [bold]"]):
        code, out, err = report(*runs)
        assert (code, err) == (0, "")
        assert "[red]</td>" in "".join(out.split()) and "\x1b" not in out and "\u202e" not in out
        source = (tmp_path / evil / "report.html").read_text(encoding="utf-8")
        page = Tags(source)
        assert "<script" not in source and [tag for tag, _ in page.tags].count("img") == 3
        assert evil in page.text and "</td><script>alert(2)</script>" in page.text


def test_a_run_that_has_only_begun_and_one_of_before_the_ledger(report, tmp_path):
    for name, files in {
        "begun": {"events": EVENTS[:1], "rows": None, "evals": None},
        "empty": {"events": [], "rows": [], "evals": []},
        "without events": {"events": None},
        "old": {"events": [{"event": "start", "time": 1.7e9, "step": 0}, {"event": "save", "time": 1.7e9 + 9, "step": 5, "seconds": 1.0}]},
        "one row": {"rows": ROWS[:1], "events": None, "evals": None},
        "odd rows": {"rows": [{"step": 1, "loss": "high"}, {}], "evals": [{"step": 1, "loss/web": "low", "tokens": None}]},
    }.items():
        code, out, err = report(write(tmp_path / name, **files))
        assert (code, err) == (0, ""), name
        assert "total" in out and (tmp_path / name / "report.html").exists()


@pytest.mark.parametrize("count", [0, 1, 7, report_page.SHOWN, 500])
def test_the_bars_of_the_time_line_are_as_long_as_the_run(count):
    sessions = [ledger.SessionSeconds(step=0, seconds={name: float(i) for i, name in enumerate(ledger.CATEGORIES)})] * count
    figure = report_page.timeline([("long", sessions), ("empty", [])])
    bars, name = figure.axes[0].patches, figure.axes[0].get_xlabel().split()[0]
    unit = {name: seconds for seconds, name in report_page.UNITS}[name]
    assert sum(bar.get_width() for bar in bars) * unit == pytest.approx(36 * count)
    assert len(bars) <= (report_page.SHOWN + 1) * len(ledger.CATEGORIES)


@pytest.mark.usefixtures("undrawn")
def test_a_torn_last_line_is_no_error(report, tmp_path):
    folder = write(tmp_path / "run")
    _, before, _ = report(folder)
    for file in (run_log.EVENTS, run_log.METRICS, run_log.EVALS):
        with (folder / file).open("a") as log:
            log.write('{"step": 6, "tok')
    code, after, _ = report(folder)
    assert code == 0 and [line for line in after.splitlines() if "ago" not in line] == [x for x in before.splitlines() if "ago" not in x]


@pytest.mark.usefixtures("undrawn")
def test_a_kind_of_event_that_is_frequent_becomes_one_line(report, tmp_path):
    skips = [{"event": "skip", "time": 1.7e9 + i, "elapsed": 90.0 + i, "step": 4, "seconds": 0.5} for i in range(101)]
    _, out, _ = report(write(tmp_path / "run", events=[*EVENTS[:3], *skips]))
    assert "101 times, 50.5 s in all, the longest 0.5 s" in out and out.count(" skip ") == 1


def test_wrong_input_is_one_line(report, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "file").write_text("x")
    write(tmp_path / "quiet", events=None, rows=None, evals=None)
    (write(tmp_path / "binary") / run_log.METRICS).write_bytes(b"\x80\xff\n")
    (write(tmp_path / "damaged") / run_log.EVENTS).write_text("[]\n")
    (write(tmp_path / "shapeless") / SAVED_CONFIG).write_text("train.steps = 1\ntrain.batch_size = 1\n")
    folder = write(tmp_path / "folder") / run_log.EVENTS
    folder.unlink(), folder.mkdir()
    write(tmp_path / "run")
    for argv, part in {
        ("nowhere",): "got nowhere, which does not exist",
        ("none",): "got none without config.gin",
        ("file",): "got file without config.gin",
        ("quiet",): "got quiet without metrics.jsonl and events.jsonl",
        ("binary",): "metrics.jsonl, line 1, which is not a row",
        ("damaged",): "events.jsonl, line 1, which is not a row",
        ("shapeless",): "without model.* and train.*",
        ("folder",): "events.jsonl, which is not a plain file",
        ("run", "--out", "run/metrics.jsonl"): "got --out 'run/metrics.jsonl'",
        ("run", "--out", "gone/page.html"): "got --out 'gone/page.html', in a folder that does not exist",
        (): "arguments are required: RUN",
    }.items():
        code, _, err = report(*argv)
        assert (code, err.count("\n")) == (2, 1), (argv, err)
        assert err.startswith("error: got ") and part in err and "; allowed: " in err, err
    assert len((tmp_path / "run" / run_log.METRICS).read_text().splitlines()) == len(ROWS)


def test_jax_is_not_imported(tmp_path):
    folder = write(tmp_path / "run")
    script = "import sys; from teleflm_jax.cli import main; main.main(['report', sys.argv[1]]); assert 'jax' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script, folder], env=job.BARE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("undrawn")
def test_the_saved_configuration_of_a_real_run_is_read(report, tmp_path, trained):
    folder = write(tmp_path / "run")
    (folder / SAVED_CONFIG).write_text(config.dump({name: getattr(trained.run, name) for name in SECTIONS}))
    assert "5 of 10" in report(folder)[1]


def test_figures_3_and_4_are_drawn_where_something_was_measured(report, tmp_path):
    evals = [
        {"step": 2, "tokens": 64, "bpb/web": 1.2, "bpb/code": 0.9, "bpb": 1.1},
        {"step": 4, "tokens": 128, "bpb/web": 1.1, "bpb/code": 0.8, "bpb": 1.0, "suite/hellaswag": 0.3, "suite/$x": 0.1},
    ]
    code, _, err = report(write(tmp_path / "run", evals=evals), write(tmp_path / "bare", evals=None))
    page = (tmp_path / "run" / "report.html").read_text()
    assert (code, err) == (0, "")
    assert page.count("<img") == 5 and "Bits per byte on held-out text" in page and "Benchmark tasks" in page
    report(write(tmp_path / "bare", evals=None))
    assert (tmp_path / "bare" / "report.html").read_text().count("<img") == 3
