import dataclasses
import pathlib
import types

import pytest

from teleflm_jax import checkpoint, checksum, config
from teleflm_jax.packing import pack
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.runs.config import SAVED_CONFIG, SECTIONS, RunConfig
from teleflm_jax.tokenizer import load, train
from teleflm_jax.train.state import weights_of
from tests import tiny

VOCABULARY = 390


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run's folder as training leaves it, with random weights at steps 5 and 10 and one packed domain; to read only."""
    root = tmp_path_factory.mktemp("trained")
    folder, sources = root / "run", root / "web"
    folder.mkdir(), sources.mkdir()
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(train.train(iter(["the time of the house", "a time of times"] * 9), VOCABULARY), encoding="utf-8")
    for i in range(12):
        (sources / f"{i}.txt").write_text(f"page {i}: 你好, " + "the time of a house " * (i + 1), encoding="utf-8")
    shape = tiny.config(vocab_size=VOCABULARY, context_length=32)
    _write_config(root, folder, shape)
    run = RunConfig(**config.parse([str(folder / SAVED_CONFIG)], [], SECTIONS))
    pack.pack(
        sources={"web": str(sources)},
        packed=run.data.packed,
        tokenizer=str(tokenizer),
        sequence_length=32,
        vocab_size=VOCABULARY,
        config=PackConfig(heldout_fraction=0.5, processes=1),
        log=lambda line: None,
    )
    model = tiny.model(shape)
    with checkpoint.writer(folder / "checkpoints", checkpoint.Retention(last=2, every=0, best=0)) as writer:
        for step in (5, 10):
            arrays = {"model": weights_of(model)}
            writer.save(step, arrays, checkpoint.Record(counters={"updates": step}), checksum.of_tree(arrays)[0])
    return types.SimpleNamespace(folder=folder, run=run, model=model, tokenizer=load.load(tokenizer), path=str(folder))


def _write_config(root: pathlib.Path, folder: pathlib.Path, shape) -> None:
    mine = [f"model.{field.name} = {getattr(shape, field.name)!r}" for field in dataclasses.fields(shape)]
    mine += [f"mup.{field.name} = {getattr(tiny.WIDE, field.name)!r}" for field in dataclasses.fields(tiny.WIDE)]
    mine += [f"data.tokenizer = '{root / 'gone.json'}'", f"data.packed = '{root / 'packed'}'", "data.proportions = {'web': 1.0}"]
    mine += ["train.steps = 10", "train.batch_size = 8", f"tokenizer.vocab_size = {VOCABULARY}"]
    run = config.parse([], mine, SECTIONS)
    (folder / SAVED_CONFIG).write_text(config.dump(run))
