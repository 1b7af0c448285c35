"""Regular expressions that cut text into the words that pieces may not reach across (Oniguruma syntax)."""

_BREAK = r"[\r\n]+(?:[ \t]+(?!\S))?"
"""Ends of lines and the next line's indentation, as far as it is not the last space: in code one piece, where GPT-4's pattern has two."""
TELEFLM = "|".join(
    (
        r"\p{N}",  # every digit alone
        r"\p{Han}+",  # apart from other letters, which else stick to the Chinese around them
        r"[^\r\n\p{L}\p{N}]?[[\p{L}\p{M}]&&[^\p{Han}]]+",  # a word with the space, quote or underscore before it
        r" ?[^\s\p{L}\p{N}]+(?:" + _BREAK + ")?",  # punctuation, with the end of the line
        r"\s*" + _BREAK,
        r"\s+(?!\S)",  # all but the last space, which goes to the word
        r"\s+",
    )
)
QWEN2 = "|".join(
    (
        r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])",  # English contractions
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""What llama.cpp has compiled in under the name qwen2, for a tokenizer that is to be exported to it; there the letters of the contractions
are the ASCII ones, where Qwen2's own pattern also takes the long s."""
PATTERNS = {"teleflm": TELEFLM, "qwen2": QWEN2}
"""`tokenizer.pattern` -> regular expression."""
