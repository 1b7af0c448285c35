"""Prediction of a run on a cluster that is not here: memory, traffic, time, and better layouts (docs/plan.md)."""
