"""Cleaning, language, quality, privacy and contamination."""
