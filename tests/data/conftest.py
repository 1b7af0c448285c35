import json

import pytest

from teleflm_jax.data.config import DataConfig
from teleflm_jax.packing import pack
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.tokenizer import train


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    """A DataConfig over two packed domains, "code" with about four times the records of "web"; to read only."""
    root = tmp_path_factory.mktemp("data")
    words = [f"the {word} of a {word}s and {word}ing" for word in ("time", "house", "water", "stone", "paper", "light", "music")]
    (root / "tokenizer.json").write_text(train.train(iter(words * 5), 400), encoding="utf-8")
    sources = {}
    for domain, count in (("web", 40), ("code", 160)):
        rows = [
            {"text": " ".join(f"{domain} {i * 7 + j} {word}" for j, word in enumerate(words[: 1 + i % 7])), "family": f"{i}"}
            for i in range(count)
        ]
        path = root / f"{domain}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sources[domain] = str(path)
    config = PackConfig(unit_bytes=8_000, heldout_fraction=0.05, processes=1)
    tokenizer, folder = str(root / "tokenizer.json"), str(root / "packed")
    pack.pack(sources=sources, packed=folder, tokenizer=tokenizer, sequence_length=32, vocab_size=400, config=config)
    return DataConfig(tokenizer=tokenizer, packed=folder, proportions={"web": 3.0, "code": 1.0}, seed=5)
