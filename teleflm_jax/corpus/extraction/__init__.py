"""Extraction of the main text of HTML pages."""
