"""Deduplication of paragraphs and documents, also against reference corpora."""
