"""Stages of the corpus pipeline and their output on disk."""
