"""`info`: its numbers are the paper's, and a script can read them."""

import json

import pytest

from teleflm_jax.cli import main, options

RUN_52B = "configs/runs/pretrain_52b.gin"


@pytest.fixture
def info(capsys, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)

    def info(*argv):
        code = options.run_command(lambda: main.main(["info", *argv]))
        out, err = capsys.readouterr()
        return code, out, err

    return info


def test_the_52b_run_reads_as_in_the_paper(info):
    code, out, err = info(RUN_52B)
    assert (code, err) == (0, "")
    for text in (
        "52,817,829,888", "52.85 B", "12Lh² + 2Vh", "80,384", "4 (this mesh)", "316.907", "325.853", "338.738", "6N:", "causal:", "full:",
        "5,505,024", "363,305", "454,131", "2.800e-05", "0.03125", "0.004243",
    ):  # fmt: skip
        assert text in out
    assert max(map(len, out.splitlines())) <= 120


def test_json_is_one_object_with_the_rates_asked_for(info):
    code, out, _ = info("--gin_file", RUN_52B, "--json", "--at_tokens", "0", "5505024", "2.018e12")
    facts = json.loads(out)
    assert code == 0
    assert facts["parameters"]["total"] == 52_817_829_888
    assert [row["tokens"] for row in facts["learning_rates"]] == [0, 5_505_024, 2_018_000_000_000]
    assert facts["learning_rates"][1]["learning_rate"] == pytest.approx(1.5e-7)
    assert f"{facts['learning_rates'][2]['matrix_learning_rate']:.2e}" == "2.71e-05"
    assert facts["training"]["steps_to"] == {"2000000000000": 363_305, "2500000000000": 454_131}
    assert facts["vocabulary"]["padded"] == {"1": 80_000, "4": 80_384, "8": 80_896, "16": 81_920, "32": 81_920}


def test_rates_are_shown_along_the_schedule(info):
    _, out, _ = info(RUN_52B, "--json")
    rows = json.loads(out)["learning_rates"]
    assert [row["tokens"] for row in rows] == [0, 2_000 * 5_505_024, 10**12, 2 * 10**12, 2_500_000_000_000]
    assert [row["step"] for row in rows] == [0, 2_000, 181_653, 363_305, 454_131]


def test_a_schedule_s_name_phases_and_rates_are_shown(info):
    given = ("optimizer.schedule = 'wsd'", "optimizer.stable_tokens = 1.8e12", "optimizer.decay_tokens = 2e12")
    arguments = [RUN_52B, *(part for binding in given for part in ("--gin_param", binding))]
    _, out, _ = info(*arguments, "--json")
    rows = {row["tokens"]: row["learning_rate"] for row in json.loads(out)["learning_rates"]}
    assert rows == {0: 1.5e-4 / 2_000} | dict.fromkeys((2_000 * 5_505_024, 800 * 10**9, 1_600 * 10**9, 1_800 * 10**9), 1.5e-4) | {
        2 * 10**12: 1.5e-5
    }
    _, out, _ = info(*arguments)
    assert "Learning rates, schedule wsd" in out and "stays at its peak up to step 326,975" in " ".join(out.split())


def test_a_shape_alone_is_enough(info):
    code, out, _ = info("--gin_file", "configs/models/1t.gin")
    assert code == 0
    assert "1,083,735,265,280" in out and "1,083.74 B" in out and "No train.* is bound" in out
    _, out, _ = info("--gin_file", "configs/models/1t.gin", "--gin_param", "model.num_kv_heads = 8")
    assert "the paper prints" not in out


@pytest.mark.parametrize("tokens", ["-1", "many", "inf", "nan", "1.5"])
def test_a_wrong_token_count_is_one_line(info, tokens):
    code, out, err = info(RUN_52B, f"--at_tokens={tokens}")
    assert (code, out) == (2, "")
    assert err.startswith("error: got argument --at_tokens") and tokens in err and err.count("\n") == 1


def test_a_shape_is_needed(info):
    code, _, err = info("--gin_file", "configs/optim/teleflm.gin")
    assert code == 2
    assert "no value for model.num_layers" in err
