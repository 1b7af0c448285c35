"""A run as a library call: its configuration, its folder, creating, training, loading and evaluating it."""
