"""Evaluation of models: bits per byte, benchmark tasks, HumanEval (docs/evaluation.md)."""
