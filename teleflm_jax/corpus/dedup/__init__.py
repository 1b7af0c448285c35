"""Near-duplicate documents, repeated paragraphs and reference corpora."""
