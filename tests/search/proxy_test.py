"""The report's proxy, which the hyper-parameters are searched on, trains on this machine."""

import dataclasses
import pathlib
import resource

import pytest

from sharding.config import MeshConfig
from teleflm_jax import config as gin
from teleflm_jax.data.config import DataConfig
from teleflm_jax.model import size
from teleflm_jax.observability import run_log
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.runs import prepare, train
from teleflm_jax.runs.config import SECTIONS, RunConfig
from teleflm_jax.tokenizer.config import TokenizerConfig
from teleflm_jax.train.config import TrainConfig

PROXY = pathlib.Path(__file__).parents[2] / "configs/runs/mup_proxy.gin"
STEPS = 30
GIB = 1 << 30


@pytest.mark.slow
def test_the_proxy_of_64_layers_and_80_000_pieces_trains_in_16_gib(tmp_path):
    (tmp_path / "web").mkdir()
    for i in range(40):
        (tmp_path / "web" / f"{i}.txt").write_text(f"page {i}: " + "the time of a house and of its people " * 200, encoding="utf-8")
    found = gin.parse([str(PROXY)], [], SECTIONS)
    config = RunConfig(
        model=dataclasses.replace(found["model"], context_length=512),
        mup=found["mup"],
        optimizer=dataclasses.replace(found["optimizer"], warmup_steps=10),
        mesh=MeshConfig(data=1),
        tokenizer=TokenizerConfig(vocab_size=384),
        pack=PackConfig(processes=1),
        data=DataConfig(
            tokenizer=str(tmp_path / "tokenizer.json"),
            packed=str(tmp_path / "packed"),
            proportions={"web": 1.0},
            sources={"web": str(tmp_path / "web")},
        ),
        train=TrainConfig(steps=STEPS, batch_size=1, checkpoint_every=STEPS, eval_every=0),
    )
    assert sum(size.parameters(config.model).values()) == 281_215_488
    prepare.train_tokenizer(config), prepare.pack(config)
    assert train.train(config, tmp_path / "run", log=print).outcome == "completed"
    losses = [row["loss"] for row in run_log.rows(tmp_path / "run" / run_log.METRICS)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"losses {[round(loss, 3) for loss in losses]}, {peak / GIB:.1f} GiB at most")
    assert losses[0] == pytest.approx(11.29, abs=0.05) and losses[-1] < losses[0] - 1  # ln 80,000 at the start
    assert peak < 16 * GIB
