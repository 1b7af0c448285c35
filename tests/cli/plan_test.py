"""`plan` and `train.py --dry_run`, as a user calls them."""

import json
import os
import subprocess
import sys

import pytest

from teleflm_jax.cli import main, options
from tests import job
from tests.job import BARE, ROOT

LAPTOP = """
cluster.gpu = 'toy'
cluster.nodes = 2
cluster.gpus_per_node = 4
cluster.memory_bytes = 4e9
cluster.bf16_flops = 1e12
cluster.memory_rate = 1e11
cluster.link_rate = 1e10
cluster.network_rate = 1e9
"""
LARGE = ["--gin_file", "configs/runs/pretrain_52b.gin", "--cluster", "a800x896"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small run and a cluster of eight toy GPUs."""
    root = tmp_path_factory.mktemp("plan")
    job.write(root, "train.steps = 10\ntrain.batch_size = 16\ntrain.microbatch_size = 1\n", layers=4, heads=4)
    (root / "toy.gin").write_text(LAPTOP)
    return root


def call(*arguments) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, env=BARE, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command in this process, which has the eight devices that the toy cluster has; returns stdout and stderr."""

    def in_process(*arguments, code=0):
        for name in ("JAX_PLATFORMS", "XLA_FLAGS", "TF_CPP_MIN_LOG_LEVEL"):  # which `plan` sets for a process of its own
            monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.chdir(ROOT)
        found = options.run_command(lambda: main.main([*map(str, arguments)]))
        out, err = capsys.readouterr()
        assert found == code, out + err
        return out, err

    return in_process


def toy(folder):
    """Arguments of a plan of the small run on the toy cluster."""
    return ["plan", folder / "run.gin", "--cluster", folder / "toy.gin", "--backend", "cpu"]


def test_a_small_run_is_planned(run, folder):
    mesh = ["--gin_param", "mesh.data = 2", "--gin_param", "mesh.pipe = 2", "--gin_param", "mesh.tensor = 2"]
    facts = json.loads(call("-m", "teleflm_jax", *toy(folder), *mesh, "--json").stdout)  # with devices of its own
    (layout,) = facts["layouts"]
    memory = layout["memory"]
    assert memory["fits"]
    assert memory["decided_by"] == "closed form"
    assert memory["compiled"]["gradients"] == pytest.approx(memory["closed_form"]["gradients"], rel=0.05)
    rows = {(row["axis"], row["collective"]): row for row in layout["traffic"]}
    assert rows["pipe", "collective-permute"]["crosses_nodes"]
    assert not rows["tensor", "all-gather"]["crosses_nodes"]
    assert rows["tensor", "all-gather"]["compiled"] == pytest.approx(rows["tensor", "all-gather"]["closed_form"], rel=0.05)
    assert layout["seconds"]["step"] == pytest.approx(sum(s for name, s in layout["seconds"].items() if name != "step"))
    assert facts["assumptions"]["cluster.link_rate"] == 1e10
    shown, _ = run(*toy(folder), *mesh)
    assert "teleflm_jax[gpu]" in "".join(shown.split())  # an extra in brackets is no markup
    for text in (
        "Memory of one GPU",
        "closed form",
        "crosses nodes",
        "tokens/s a GPU",
        "6N",
        "plan.link_efficiency = 0.8",
        "fits (by the closed form)",
    ):
        assert text in shown, text


def test_assumptions_are_overridden_by_gin(run, folder):
    base = json.loads(run(*toy(folder), "--json")[0])["layouts"][0]
    slow = ["--gin_param", "cluster.bf16_flops = 1e9", "--gin_param", "plan.target_tokens = 1e9", "--gin_param", "cluster.watts = 100"]
    changed = json.loads(run(*toy(folder), "--json", *slow)[0])["layouts"][0]
    assert changed["seconds"]["products"] == pytest.approx(1000 * base["seconds"]["products"])
    assert changed["forecast"]["gpu_hours"] == pytest.approx(1e9 / changed["forecast"]["tokens_per_second_per_gpu"] / 3600)
    assert base["forecast"]["megawatt_hours"] is None
    assert changed["forecast"]["megawatt_hours"] == pytest.approx(changed["forecast"]["gpu_hours"] * 1e-4)


def test_a_search_prints_a_table_and_writes_json_and_a_picture(run, folder, tmp_path):
    shown, _ = run(*toy(folder), "--search", "--compile", "1", "--out", tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "plan.json").read_text())
    layouts = facts["layouts"]
    steps = [layout["seconds"]["step"] for layout in layouts]
    assert steps == sorted(steps)
    assert facts["fitting"] <= facts["considered"]
    assert [layout["memory"]["compiled"] is not None for layout in layouts] == [True] + [False] * (len(layouts) - 1)
    assert "Layouts by predicted step time" in shown
    assert (tmp_path / "out" / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "out").glob(".*"))


def test_what_does_not_fit_is_one_line_with_what_helps(run, folder):
    bindings = ("cluster.memory_bytes = 4e6", "plan.allowance_bytes = 0", "train.microbatch_size = 2", "plan.spare = 0")
    out, err = run(*toy(folder), *(word for binding in bindings for word in ("--gin_param", binding)), code=2)
    (line,) = err.splitlines()
    assert line.startswith("error: got ")
    assert "GB too much; allowed: 0.004 GB" in line
    assert "model.remat = " in line or "train.microbatch_size = 1" in line
    assert "does not fit" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--gin_file", "configs/runs/pretrain_52b.gin"], "got no cluster; allowed: a100x128"),
        ([*LARGE[:2], "--cluster", "a800"], "change it to --cluster a800x896"),
        ([*LARGE[:2], "--cluster", "gone.gin"], "got the unknown cluster 'gone.gin'"),
        ([*LARGE, "--gpus", "1000"], "got --gpus 1000 on a800x896, which has 112 x 8 = 896"),
        ([*LARGE[:2], "--cluster", "h100x64"], "a mesh of 112 x 2 x 4 = 896 GPUs on h100x64"),
        ([*LARGE, "--gpus", "0"], "'0' is not a whole number of 1 or more"),
        ([*LARGE, "--gin_param", "plan.spair = 0.2"], "change it to plan.spare"),
        ([*LARGE, "--gin_param", "plan.goodput = 0.0"], "got plan.goodput=0.0; allowed: 0.001 to 1"),
        ([*LARGE, "--gin_param", "cluster.link_rate = -1"], "got cluster.link_rate=-1.0; allowed: 1 or more"),
        ([*LARGE, "--gin_param", "cluster.product_efficiency = 1.5"], "got cluster.product_efficiency=1.5; allowed: 0.001 to 1"),
        ([*LARGE, "--gin_param", "cluster.compute_capability = 'x'"], "got cluster.compute_capability='x'"),
        ([*LARGE, "--gin_param", "cluster.memory_rate = 1e300"], "got cluster.memory_rate=1e+300; allowed: up to 1e+18"),
        ([*LARGE, "--out", "README.md"], "got --out 'README.md', where README.md is no place to write to"),
        ([*LARGE, "--out", ""], "got --out ''"),
    ],
)
def test_wrong_requests_are_one_line(capsys, monkeypatch, arguments, expected):
    monkeypatch.chdir(ROOT)
    assert options.run_command(lambda: main.main(["plan", *arguments])) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: got ")
    assert err.count("\n") == 1
    assert expected in err


def test_no_gpu_compiler_is_said(capsys, monkeypatch):
    monkeypatch.setattr("teleflm_jax.plan.target_devices.PLUGINS", ())
    monkeypatch.chdir(ROOT)
    assert options.run_command(lambda: main.main(["plan", *LARGE, "--backend", "gpu"])) == 2
    assert "got --backend gpu without jax's CUDA wheels" in capsys.readouterr().err


def test_axes_that_do_not_multiply_are_refused(run, folder):
    _, err = run(*toy(folder), "--gin_param", "mesh.tensor = 3", code=2)
    assert "got a mesh of 2 x 1 x 3 (data, pipe, tensor) on 8 device(s)" in err
    assert len(err.splitlines()) == 1


def test_a_dry_run_says_the_same_of_what_is_here_and_writes_nothing(run, folder, tmp_path):
    workdir = tmp_path / "run"
    mesh = ["--gin_param", "mesh.tensor = 2", "--gin_param", "mesh.pipe = 2", "--gin_param", "plan.target_tokens = 1e6"]
    shown, _ = run("train", "--gin_file", folder / "run.gin", "--workdir", workdir, "--dry_run", *mesh)
    for text in ("2 x 2 x 2, zero 1", "fits (by the compiler)", "one step", "1e+06 tokens", "Data: not ready, got the tokenizer"):
        assert text in shown, text
    assert not workdir.exists()
    _, err = run("train", "--gin_file", folder / "run.gin", "--dry_run", "--gin_param", "mesh.tensor = 3", code=2)
    assert len(err.splitlines()) == 1


@pytest.mark.large_mesh
def test_the_52b_step_compiles_for_896_virtual_devices():
    facts = json.loads(call("-m", "teleflm_jax", "plan", *LARGE, "--backend", "cpu", "--json").stdout)
    (layout,) = facts["layouts"]
    ours, theirs = layout["memory"]["closed_form"], layout["memory"]["compiled"]
    assert layout["gpus"] == 896
    assert layout["memory"]["fits"]
    for kind in ("state", "gradients", "activations"):
        assert theirs[kind] == pytest.approx(ours[kind], rel=0.005), kind
