"""Documents to training records and held-out sets, as ArrayRecord shards with a manifest."""
