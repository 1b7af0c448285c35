"""Byte-level BPE: training, loading and checking of tokenizers, and the layout of ids."""
