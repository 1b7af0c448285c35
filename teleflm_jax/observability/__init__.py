"""Logs, ledger, curves, sinks, progress, watchdog and profiler of a run."""
