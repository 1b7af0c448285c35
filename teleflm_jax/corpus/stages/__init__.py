"""The corpus pipeline and its results on disk."""
