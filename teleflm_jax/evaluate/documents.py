"""Selection of the held-out documents that are measured."""

import random
from collections.abc import Sequence

import numpy as np

from teleflm_jax.data import loader
from teleflm_jax.data.config import DataConfig
from teleflm_jax.errors import UserError
from teleflm_jax.packing.records import HeldOut


def heldout(
    data: DataConfig, domains: Sequence[str], *, vocab_size: int, max_bytes: int, pieces: Sequence[bytes]
) -> dict[str, list[HeldOut]]:
    """Return the packed held-out documents of each domain, at most `max_bytes` of each.

    Args:
        data: folder of packed data, and the tokenizer that it must have been packed with.
        domains: names; empty: all of `data.proportions`.
        vocab_size: rows of the model's embedding.
        max_bytes: UTF-8 bytes per domain; 0: all.
        pieces: bytes by id (`tokenizer.pieces.piece_bytes`).

    Raises:
        UserError: a domain that is unknown, not packed, packed with another tokenizer, or without held-out text.
    """
    domains = domains or tuple(data.proportions)
    unknown = [domain for domain in domains if domain not in data.proportions]
    if unknown:
        raise UserError(
            f"got evaluation.domains with {', '.join(unknown)}; allowed: {', '.join(data.proportions)}; change evaluation.domains"
        )
    chosen = {}
    for domain in domains:
        documents = [document for document in loader.heldout(data, domain, vocab_size=vocab_size) if len(document.tokens)]
        if not documents:
            others = tuple(other for other in domains if other != domain)
            raise UserError(
                f"got no held-out text in {data.packed}/{domain}; allowed: domains that have some; pack it with a larger held-out share, "
                f"or leave it out: evaluation.domains = {others}"
            )
        chosen[domain] = sample(documents, max_bytes, pieces) if max_bytes else documents
        if not chosen[domain]:
            raise UserError(
                f"got {max_bytes} bytes per domain to evaluate on, not one token of {domain}; allowed: more, or 0 for all; "
                "change evaluation.max_bytes or train.eval_bytes"
            )
    return chosen


def sample(documents: Sequence[HeldOut], max_bytes: int, pieces: Sequence[bytes]) -> list[HeldOut]:
    """Return documents of at most `max_bytes` together, in a random order with a fixed seed; the last one is cut.

    The order is random because neighbours in a packed set come from the same source, so its beginning is not representative.
    """
    chosen = []
    for document in random.Random(0).sample(documents, len(documents)):
        if document.num_bytes > max_bytes:
            beginning = _cut(document, max_bytes, pieces)
            return chosen + [beginning] * bool(beginning.num_bytes)
        chosen.append(document)
        max_bytes -= document.num_bytes
    return chosen


def _cut(document: HeldOut, max_bytes: int, pieces: Sequence[bytes]) -> HeldOut:
    """Return the beginning of a longer document, up to the last token that ends at a character boundary."""
    ends = np.cumsum([len(pieces[token]) for token in document.tokens])
    kept = int(np.searchsorted(ends, max_bytes, side="right"))
    while kept and pieces[document.tokens[kept]][0] & 0xC0 == 0x80:  # the next token begins inside a character
        kept -= 1
    return HeldOut(tokens=document.tokens[:kept], num_bytes=int(ends[kept - 1]) if kept else 0)
