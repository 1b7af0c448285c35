"""Processes of one run: how they find each other, and the environment that jax and XLA start with."""
