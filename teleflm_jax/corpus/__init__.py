"""Corpus pipeline on Spark: raw text to a deduplicated, decontaminated mixture of packed sets."""
