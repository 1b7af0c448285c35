"""Which ids wrap a document: fixed in our own tokenizers, and what an imported one's tokenizer.json says of itself."""

import dataclasses

import tokenizers

from teleflm_jax.tokenizer import layout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Specials:
    """Ids that no text yields."""

    bos: int
    """In front of every document, and what a prompt begins with."""
    eos: int
    """Behind every document."""
    pad: int
    """Fills up a packed data set's last record. May be `bos`: at the end of a record, where no document begins, that counts nowhere."""


OURS = Specials(bos=layout.BOS, eos=layout.EOS, pad=layout.PAD)


def of(tokenizer: tokenizers.Tokenizer) -> Specials:
    """The ids of a tokenizer from `load.load`: ours names none, as its layout is fixed; others wrap an empty text in theirs."""
    ids = tokenizer.encode("").ids
    return Specials(bos=ids[0], eos=ids[1], pad=ids[0]) if ids else OURS


def controls(tokenizer: tokenizers.Tokenizer) -> frozenset[int]:
    """All ids that no text may yield: special tokens, and with ours also chat and reserved ids."""
    return frozenset(index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special)
