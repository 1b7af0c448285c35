"""Regular expressions that split text into words, which pieces do not cross (Oniguruma syntax)."""

_BREAK = r"[\r\n]+(?:[ \t]+(?!\S))?"
"""Line ends and the next line's indentation except its last space: one piece in code, where GPT-4's pattern has two."""
TELEFLM = "|".join(
    (
        r"\p{N}",  # every digit alone
        r"\p{Han}+",  # separated from other letters, which would otherwise join the adjacent Chinese
        r"[^\r\n\p{L}\p{N}]?[[\p{L}\p{M}]&&[^\p{Han}]]+",  # a word with the space, quote or underscore before it
        r" ?[^\s\p{L}\p{N}]+(?:" + _BREAK + ")?",  # punctuation, with the end of the line
        r"\s*" + _BREAK,
        r"\s+(?!\S)",  # all but the last space, which belongs to the word
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
"""The pattern built into llama.cpp under the name qwen2, for tokenizers that are exported to it; its contractions have ASCII letters only,
while Qwen2's own pattern also matches the long s."""
PATTERNS = {"teleflm": TELEFLM, "qwen2": QWEN2}
"""`tokenizer.pattern` -> regular expression."""
