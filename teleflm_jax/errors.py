"""The exception for wrong input; `sharding`, which imports nothing of this package, has its definition."""

from sharding.errors import UserError, refuse_outside, refuse_seed

__all__ = ["UserError", "refuse_outside", "refuse_seed"]
