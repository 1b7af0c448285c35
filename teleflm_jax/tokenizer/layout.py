"""Layout of ids, the same in every tokenizer that is trained here.

    0 <unk>  1 <s>  2 </s>  3 <pad>   4-13 the digits   14-15 teacher marks   16-23 reserved   24 the underscore
    25 <_user>  26 <_bot>  27 <_end>  28 <_system>   29-124 reserved   125-380 the bytes   381 and up: the pieces

Source: the released tokenizer of Tele-FLM. Deviation: that one is SentencePiece with byte fallback; here all text is bytes. The digits
and the underscore have ids of their own, so eleven of the byte ids are unused, and 14-15 are control ids only.
"""

UNK, BOS, EOS, PAD = 0, 1, 2, 3
FIRST_DIGIT = 4
TEACHER_GOOD, TEACHER_BAD = 14, 15
"""Markers of FLM-101B's teacher objective (there the emoji U+1F608 and U+1F621); text with those emoji does not yield these ids."""
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
    """Return the printable character that represents a byte in the vocabulary of a byte-level BPE.

    Source: GPT-2's table, built into `tokenizers`: printable Latin-1 represents itself, the other bytes are U+0100 and up in order.
    """
    return chr(byte) if _is_printable(byte) else chr(256 + sum(not _is_printable(other) for other in range(byte)))


def _is_printable(byte: int) -> bool:
    return 0x21 <= byte <= 0x7E or (0xA1 <= byte and byte != 0xAD)


def byte_id(byte: int) -> int:
    """Return the id of a byte: digits and the underscore have ids of their own, the others start at FIRST_BYTE."""
    if chr(byte) in "0123456789":
        return FIRST_DIGIT + byte - ord("0")
    return UNDERSCORE if chr(byte) == "_" else FIRST_BYTE + byte


def alphabet() -> dict[str, int]:
    """Return vocabulary character -> id for the 256 bytes."""
    return {byte_character(byte): byte_id(byte) for byte in range(256)}


def controls() -> dict[str, int]:
    """Return name -> id of the ids that text never yields: special, chat and reserved ids."""
    used = set(alphabet().values())
    return {_NAMES.get(index, f"<reserved_{index}>"): index for index in range(FIRST_PIECE) if index not in used}
