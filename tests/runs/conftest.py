import dataclasses

import pytest

from teleflm_jax.data.config import DataConfig
from teleflm_jax.observability import curves
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.runs import prepare
from teleflm_jax.runs.config import RunConfig
from teleflm_jax.tokenizer.config import TokenizerConfig
from teleflm_jax.train.config import TrainConfig
from tests import tiny

VOCABULARY = 384


@pytest.fixture(scope="session")
def config(tmp_path_factory) -> RunConfig:
    """The configuration of a run of four steps on prepared data."""
    root = tmp_path_factory.mktemp("runs")
    (root / "web").mkdir()
    for i in range(12):
        (root / "web" / f"{i}.txt").write_text(f"page {i}: 你好, " + "the time of a house " * (i + 1), encoding="utf-8")
    made = RunConfig(
        model=tiny.config(vocab_size=VOCABULARY, context_length=32),
        mup=tiny.WIDE,
        optimizer=OptimizerConfig(warmup_steps=1, decay_tokens=10_000),
        tokenizer=TokenizerConfig(vocab_size=VOCABULARY),
        pack=PackConfig(heldout_fraction=0.5, processes=1),
        data=DataConfig(
            tokenizer=str(root / "tokenizer.json"),
            packed=str(root / "packed"),
            proportions={"web": 1.0},
            sources={"web": str(root / "web")},
        ),
        train=TrainConfig(steps=4, batch_size=8, checkpoint_every=2),
    )
    assert prepare.train_tokenizer(made) and not prepare.train_tokenizer(made)
    prepare.pack(made)
    return made


@pytest.fixture
def no_curves(monkeypatch):
    """Draw nothing, which takes half a second each time."""
    monkeypatch.setattr(curves, "draw", lambda logs: None)


def changed(config: RunConfig, **sections) -> RunConfig:
    """The configuration with other fields in some sections."""
    return dataclasses.replace(config, **{name: dataclasses.replace(getattr(config, name), **fields) for name, fields in sections.items()})
