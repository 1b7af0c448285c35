"""Any bytes as a gin file: they are read or refused in a line, and what is read is written and read back the same.

`python -m tests.fuzz.gin SECONDS` runs it on mutations of its seeds, without a fuzzer.
"""

import os
import random
import sys
import tempfile
import time

from teleflm_jax import config
from teleflm_jax.cli import options
from teleflm_jax.errors import UserError

SEEDS = [
    b"model.num_layers = 1\nmodel.d_model = 8\nmodel.num_heads = 2\nmodel.num_kv_heads = 2\nmodel.d_ff = 8\nmodel.vocab_size = 9\n"
    b"model.context_length = 4\n",
    b"data.tokenizer = 't.json'\ndata.packed = 'packed'\ndata.proportions = {'en': 0.5, 'zh': 1}\ndata.sources = {'en': '~/en'}\n",
    b"train.steps = 10\ntrain.batch_size = 8\ntrain.init_from = 'runs/a@1'\nmesh.data = -1\n",
    b"mup.base_width = 256\nmup.learning_rate = 1e-2\noptimizer.warmup_steps = 4\noptimizer.decay_tokens = 200_000\n",
    b"Train:\n  steps = 4\n  batch_size = %size\nsize = 8  # of a batch\n",
    b"a = ('x', %b)\nb = [%c, %c]\nc = {'k': %gin.REQUIRED}\nsuite.tasks = %a\n",
    b"include 'configs/mesh/single.gin'\nfrom os import path as p\nscope/model.d_model = @f()\n",
    b"pack.heldout_fraction = \\\n  0.1\ntokenizer.vocab_size = 0xFf\nguard.max_skips = ((((1,),),),)\n",
    b"suite.tasks = ('a' \"b\" r'c'\n)\nmodel.norm_epsilon = -1e999\nevaluation.weights = '''x\ny'''\n",
]
"""Inputs from which mutations begin."""


def one_input(data: bytes) -> None:
    """Read a gin file; anything but a result or a `UserError` of one line is a fault."""
    with tempfile.NamedTemporaryFile(suffix=".gin") as file:
        file.write(data)
        file.flush()
        read_file(file.name)


def read_file(path: str) -> None:
    """`one_input`, of a file."""
    try:
        found = config.parse([path], [], options.SECTIONS, ("model", "data", "train"))
    except UserError as error:
        options.foreign.printable(str(error)).encode()
        return
    with tempfile.NamedTemporaryFile("w", suffix=".gin", encoding="utf-8") as file:
        file.write(config.dump(found))
        file.flush()
        assert config.parse([file.name], [], options.SECTIONS, ("model", "data", "train"), file.name) == found


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Cut, repeat, swap and overwrite pieces of some seeds."""
    for _ in range(chance.randint(1, 6)):
        begin, end = sorted(chance.randint(0, len(data)) for _ in range(2))
        other = chance.choice(SEEDS)
        first, last = sorted(chance.randint(0, len(other)) for _ in range(2))
        byte = chance.choice(b"'\"\\()[]{}%@:=,.-+#\n\r\t\0 \xff" + b"019eExXjblrbfu_") if chance.random() < 0.8 else chance.randrange(256)
        piece = chance.choice([b"", data[begin:end] * chance.choice([2, 3, 100]), other[first:last], bytes([byte])])
        data = data[:begin] + piece + data[chance.choice([begin, end]) :]
    return data[: 1 << 20]


def main(seconds: float) -> None:
    """Run for so long; prints the seed of a fault's input, and raises it."""
    began, number = time.monotonic(), 0
    os.chdir(tempfile.gettempdir())
    while time.monotonic() - began < seconds:
        number += 1
        data = mutate(random.Random(number).choice(SEEDS), random.Random(-number))
        before = time.monotonic()
        try:
            one_input(data)
        except BaseException:
            print(number, data[:2_000], file=sys.stderr)
            raise
        if time.monotonic() - before > 5:
            print(f"{time.monotonic() - before:.1f} s", number, data[:2_000], file=sys.stderr)
    print(f"{number:,} inputs")


if __name__ == "__main__":
    main(float(sys.argv[1]))
