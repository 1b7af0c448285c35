"""From a text file to a trained model and a sample, as library calls: `python examples/train_in_python.py TEXT FOLDER`."""

import sys
from pathlib import Path

from teleflm_jax.data.config import DataConfig
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.mup import MupConfig
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.runs import evaluate, load, prepare, train
from teleflm_jax.runs.config import RunConfig
from teleflm_jax.tokenizer.config import TokenizerConfig
from teleflm_jax.train.config import TrainConfig

SHAPE = {"num_layers": 2, "d_model": 64, "num_heads": 2, "num_kv_heads": 2, "d_ff": 192, "vocab_size": 512, "context_length": 64}


def main(text: Path, work: Path, steps: int = 300) -> str:
    """Train a small model on one text file; return a sample."""
    config = RunConfig(
        model=ModelConfig(**SHAPE, compute_dtype="float32"),
        mup=MupConfig(base_width=64, learning_rate=1e-2, matrix_learning_rate=1e-2),
        optimizer=OptimizerConfig(warmup_steps=10, decay_tokens=steps * 16 * 64),
        tokenizer=TokenizerConfig(vocab_size=512),
        data=DataConfig(
            sources={"book": str(text)}, proportions={"book": 1.0}, tokenizer=f"{work}/tokenizer.json", packed=f"{work}/packed"
        ),
        train=TrainConfig(steps=steps, batch_size=16),
    )
    prepare.train_tokenizer(config, log=print)
    prepare.pack(config, log=print)
    result = train.train(config, work / "run", log=print)
    checkpoint = load.checkpoint(work / "run")
    measured = evaluate.bits_per_byte(checkpoint, {"book": text.read_text(encoding="utf-8")[:20_000]})
    print(f"{result.outcome} at step {result.step}: {measured['domains']['book']['bpb']:.2f} bits per byte")
    return checkpoint.complete("The ", max_tokens=60)


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), Path(sys.argv[2])))
