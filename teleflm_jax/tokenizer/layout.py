"""Which id is what: the same in every tokenizer of this house, whatever text it was trained on.

    0 <unk>  1 <s>  2 </s>  3 <pad>   4-13 the digits   14-15 teacher marks   16-23 reserved   24 the underscore
    25 <_user>  26 <_bot>  27 <_end>  28 <_system>   29-124 reserved   125-380 the bytes   381 and up: the pieces

Source: the released tokenizer of Tele-FLM. Deviation: that one is SentencePiece with bytes to fall back on; here every text is bytes. So
the digits and the underscore, which have ids of their own, leave eleven ids among the bytes dead, and 14-15 are control ids only.
"""

UNK, BOS, EOS, PAD = 0, 1, 2, 3
FIRST_DIGIT = 4
TEACHER_GOOD, TEACHER_BAD = 14, 15
"""The two marks of FLM-101B's teacher objective (there the emoji U+1F608 and U+1F621); ordinary text with those emoji never yields them."""
UNDERSCORE = 24
USER, BOT, END, SYSTEM = 25, 26, 27, 28
FIRST_BYTE = 125
FIRST_PIECE = FIRST_BYTE + 256

_NAMES = {
    UNK: "<unk>",
    BOS: "<s>",
    EOS: "</s>",
    PAD: "<pad>",
    TEACHER_GOOD: "<teacher_1F608>",
    TEACHER_BAD: "<teacher_1F621>",
    USER: "<_user>",
    BOT: "<_bot>",
    END: "<_end>",
    SYSTEM: "<_system>",
}


def byte_character(byte: int) -> str:
    """The printable character that stands for a byte in the vocabulary of a byte-level BPE.

    Source: GPT-2's table, which `tokenizers` builds in: printable Latin-1 stands for itself, the others for U+0100 and up in order.
    """
    return chr(byte) if _is_printable(byte) else chr(256 + sum(not _is_printable(other) for other in range(byte)))


def _is_printable(byte: int) -> bool:
    return 0x21 <= byte <= 0x7E or (0xA1 <= byte and byte != 0xAD)


def byte_id(byte: int) -> int:
    """The id of a byte: the digits and the underscore have their own, the others are FIRST_BYTE and up."""
    if chr(byte) in "0123456789":
        return FIRST_DIGIT + byte - ord("0")
    return UNDERSCORE if chr(byte) == "_" else FIRST_BYTE + byte


def alphabet() -> dict[str, int]:
    """Character in the vocabulary -> id, for the 256 bytes."""
    return {byte_character(byte): byte_id(byte) for byte in range(256)}


def controls() -> dict[str, int]:
    """Name -> id of what no text ever yields: special, chat and reserved ids."""
    used = set(alphabet().values())
    return {_NAMES.get(index, f"<reserved_{index}>"): index for index in range(FIRST_PIECE) if index not in used}
