"""Packed data of a run: manifests, mixture, and batches by step."""
