"""The shipped configurations: each is read, stays small, and says what the paper says."""

import dataclasses
import pathlib

import pytest

from teleflm_jax import config, mup
from teleflm_jax.cli import corpus
from teleflm_jax.errors import UserError
from teleflm_jax.model import size
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.plan.config import SECTIONS as PLANNING
from teleflm_jax.runs.config import SECTIONS
from teleflm_jax.search.config import SECTIONS as SEARCHING

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
RUNS = sorted(CONFIGS.glob("runs/*.gin"))
PARTS = sorted({*CONFIGS.glob("*/*.gin")} - {*RUNS})


CORPORA = [CONFIGS / "runs/corpus.gin"]


def sections_of(path):
    if path in CORPORA:
        return corpus.SECTIONS
    return SECTIONS | SEARCHING if "\nsearch." in path.read_text() else SECTIONS


def load(path):
    return config.parse([str(path)], [], sections_of(path))


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_file_is_whole_and_repeats_itself_from_what_is_saved(path, tmp_path):
    sections = load(path)
    saved = tmp_path / "config.gin"
    saved.write_text(config.dump(sections), encoding="utf-8")
    again = config.parse([str(saved)], [], sections_of(path))
    assert again == sections and config.dump(again) == config.dump(sections)  # to the letter, by which finished work is known again


def test_a_configuration_from_before_a_section_was_there_is_read(tmp_path):
    sections = load(CONFIGS / "runs/quickstart.gin")
    saved = tmp_path / "config.gin"
    saved.write_text(config.dump({name: section for name, section in sections.items() if name not in ("telemetry", "profile")}))
    assert load(saved) == sections


@pytest.mark.parametrize("path", PARTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_part_binds_whole_sections(path):
    sections = SECTIONS | PLANNING
    assert config.parse([str(path)], [], sections, optional=sections)


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_file_has_at_most_forty_bindings(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sum(" = " in line and not line.lstrip().startswith("#") for line in lines) <= 40


@pytest.mark.parametrize(
    "binding",
    [
        "train.seed = -1",
        "train.seed = 100000000000000000000",
        "data.seed = 4294967296",
        "pack.seed = 1000000000000000000000",
        "train.steps = 0",
        "model.norm_epsilon = -1.0",
        "model.rope_theta = 0",
        "optimizer.epsilon = 1e999",
        "optimizer.weight_decay = 1e999",
        "optimizer.beta2 = 1.0",
        "mup.std = 0.0",
        "data.max_epochs = {'english': 1e999}",
        "data.proportions = {'english': -1.0}",
        "data.packed = 'a\\0b'",
        "tokenizer.vocab_size = 1000000000000000",
        "tokenizer.pattern = 'gpt'",
        "evaluation.batch_size = 0",
        "mesh.tensor = 0",
    ],
)
def test_numbers_outside_of_their_range_are_one_line(binding):
    with pytest.raises(UserError, match=r"got .*; allowed: .*; change") as caught:
        config.parse([str(CONFIGS / "runs/quickstart.gin")], [binding], SECTIONS)
    assert binding.split(" ")[0].rpartition(".")[2] in str(caught.value) or "data.*" in str(caught.value)


def test_the_configuration_stays_small():
    counts = {name: len(dataclasses.fields(cls)) for name, cls in (SECTIONS | PLANNING | SEARCHING).items()}
    assert max(counts.values()) <= 15
    assert sum(counts[name] for name in SECTIONS) <= 120


@pytest.mark.parametrize(
    ("name", "parameters", "tensor", "output_multiplier", "devices"),
    [
        ("pretrain_52b", 52_817_829_888, 4, 3.125e-2, 896),
        ("pretrain_102b", 102_198_487_040, 4, 2.5e-2, 896),
        ("pretrain_1t", 1_083_735_265_280, 32, 2.5e-2, 896),
    ],
)
def test_the_three_stages_are_the_paper_s(name, parameters, tensor, output_multiplier, devices):
    run = load(CONFIGS / f"runs/{name}.gin")
    model, mesh, train = run["model"], run["mesh"], run["train"]
    assert sum(size.parameters(model).values()) == parameters
    assert mesh.tensor == tensor
    assert mesh.data * mesh.pipe * mesh.tensor == devices
    assert model.head_size == 128
    assert mup.at_width(run["mup"], model.d_model).output_multiplier == pytest.approx(output_multiplier, rel=1e-12)
    assert train.batch_size * model.context_length == 5_505_024
    assert train.batch_size % (mesh.data * train.microbatch_size) == 0


def test_the_mixture_is_table_1():
    data = load(CONFIGS / "runs/pretrain_52b.gin")["data"]
    assert sum(data.proportions.values()) == pytest.approx(100.01)
    assert data.proportions.keys() == data.max_epochs.keys()
    assert {domain for domain, epochs in data.max_epochs.items() if epochs != 1} == {
        "book", "world-knowledge", "profession-math", "classical-chinese",
    }  # fmt: skip


def test_the_family_s_feed_forward_rule_holds_but_for_1t():
    for name in ("tiny", "mup_proxy", "52b", "102b"):
        model = config.parse([str(CONFIGS / f"models/{name}.gin")], [], {"model": ModelConfig})["model"]
        assert model.d_ff == 64 * (8 * model.d_model // 3 // 64), name
