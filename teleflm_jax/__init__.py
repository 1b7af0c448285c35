"""Tele-FLM in JAX."""
