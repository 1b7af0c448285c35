"""Documents to packed training records and held-out sets."""
