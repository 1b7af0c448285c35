"""Normalization, language identification, rules, quality scores, personal data and decontamination."""
