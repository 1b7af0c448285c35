"""The bytes that each id stands for."""

import tokenizers

from teleflm_jax.tokenizer import layout


def piece_bytes(tokenizer: tokenizers.Tokenizer) -> list[bytes]:
    """Id -> its bytes; nothing for control ids and for ids that the vocabulary does not use.

    The bytes of a text's ids, joined, are the text's UTF-8. A piece may begin or end inside a character.
    """
    byte_of = {layout.byte_character(byte): byte for byte in range(256)}
    controls = set(layout.controls().values())
    names = {index: name for name, index in tokenizer.get_vocab(with_added_tokens=True).items() if index not in controls}
    return [bytes(byte_of[character] for character in names.get(index, "")) for index in range(max(names) + 1)]
