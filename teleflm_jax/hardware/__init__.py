"""Peak rates, probes and preflight measurements of devices."""
