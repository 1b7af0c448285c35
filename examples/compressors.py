"""Bits per byte of general compressors on the held-out text of a run, to compare a model with.

    python examples/compressors.py --workdir runs/quickstart

The text is the one that `eval.py` measures. `whole`: all documents of a domain, joined by line feeds, as one file; the compressor then
learns from the text itself, up to 32 kB (gzip) or everything (xz) back. `pieces`: the same text cut into pieces as long as the model's
context, each compressed separately, headers included.
"""

import argparse
import gzip
import json
import lzma
import sys
from collections.abc import Callable, Iterator

import rich.box
import rich.console
import rich.table

from teleflm_jax.cli import options
from teleflm_jax.evaluate import documents
from teleflm_jax.runs.config import RunConfig
from teleflm_jax.tokenizer import load
from teleflm_jax.tokenizer.pieces import piece_bytes

SMALLEST_DICTIONARY = 4096
"""Smallest dictionary of LZMA, in bytes."""


def gzip_size(data: bytes) -> int:
    """Return the bytes of `gzip -9 < data`."""
    return len(gzip.compress(data, 9, mtime=0))


def xz_size(data: bytes) -> int:
    """Return the bytes of `xz -9e < data`.

    The dictionary is as large as the data instead of 64 MiB: it finds the same matches and avoids clearing about 600 MB for each piece.
    """
    dictionary = max(SMALLEST_DICTIONARY, 1 << (len(data) - 1).bit_length()) if data else SMALLEST_DICTIONARY
    chain = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": min(dictionary, 1 << 26)}]
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=chain))


COMPRESSORS: dict[str, Callable[[bytes], int]] = {"gzip -9": gzip_size, "xz -9e": xz_size}


def cut(text: str, piece_bytes: int) -> Iterator[bytes]:
    """Cut a text into pieces of at most `piece_bytes` UTF-8 bytes, as long as whole characters allow, but at least one character."""
    data, start = text.encode(), 0
    while start < len(data):
        end = min(start + piece_bytes, len(data))
        while end < len(data) and _continues(data[end]) and end > start:
            end -= 1
        if end == start:
            end = next((i for i in range(start + 1, len(data)) if not _continues(data[i])), len(data))
        yield data[start:end]
        start = end


def compare(text: str, piece_bytes: int) -> dict[str, dict[str, float]]:
    """Return bits per UTF-8 byte of a text under each compressor: compressor -> {"whole": …, "pieces": …}.

    Args:
        text: a text that is not empty.
        piece_bytes: UTF-8 bytes of a piece.
    """
    data, pieces = text.encode(), list(cut(text, piece_bytes))
    return {
        name: {"whole": 8 * size(data) / len(data), "pieces": 8 * sum(map(size, pieces)) / len(data)} for name, size in COMPRESSORS.items()
    }


def heldout(run: RunConfig) -> Iterator[tuple[str, str, int]]:
    """Yield each domain's held-out text, joined by line feeds, and the bytes of a piece: the model's context × mean bytes per token."""
    pieces, evaluation = piece_bytes(load.load(run.data.tokenizer)), run.evaluation
    measured = documents.heldout(
        run.data, evaluation.domains, vocab_size=run.model.vocab_size, max_bytes=evaluation.max_bytes, pieces=pieces
    )
    for domain, held_out in measured.items():
        text = "\n".join(b"".join(pieces[token] for token in each.tokens).decode() for each in held_out)
        num_bytes, num_tokens = sum(each.num_bytes for each in held_out), sum(len(each.tokens) for each in held_out)
        yield domain, text, max(1, round(run.model.context_length * num_bytes / num_tokens))


def main() -> None:
    """Measure a run's held-out sets."""
    parser = options.make_parser("python examples/compressors.py", __doc__.splitlines()[0])
    options.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object: domain -> compressor -> whole, pieces")
    args: argparse.Namespace = parser.parse_args()
    found = {domain: compare(text, size) for domain, text, size in heldout(options.load(args, optional=("train",)))}
    if args.json:
        print(json.dumps(found))
        return
    table = rich.table.Table(title="Bits per byte of the held-out text", title_justify="left", box=rich.box.SIMPLE_HEAD)
    table.add_column("domain")
    for name in COMPRESSORS:
        table.add_column(f"{name}, whole", justify="right")
        table.add_column(f"{name}, pieces", justify="right")
    for domain, sizes in found.items():
        table.add_row(domain, *(f"{sizes[name][how]:.3f}" for name in COMPRESSORS for how in ("whole", "pieces")))
    rich.console.Console(highlight=False).print(table)


def _continues(byte: int) -> bool:
    """Return whether a byte of UTF-8 continues a character."""
    return byte & 0xC0 == 0x80


if __name__ == "__main__":
    sys.exit(options.run_command(main))
