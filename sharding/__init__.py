"""The device mesh and what it splits; only this package and `configs/mesh` name mesh axes."""
