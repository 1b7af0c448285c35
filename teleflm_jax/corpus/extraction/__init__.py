"""Main text of web pages."""
