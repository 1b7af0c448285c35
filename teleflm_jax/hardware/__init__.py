"""Peaks, probes and preflight measurements of devices."""
