"""Mixture, tokenizer sample and report of a corpus."""
