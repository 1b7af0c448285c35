"""The exception for wrong user input; every command reports it in one line and exits with code 2."""

import math


class UserError(ValueError):
    """Wrong input from outside: configuration, files, folders, checkpoints.

    The message is one line and says what was given, what is allowed and what to change. Anything else that escapes a
    command is a bug and shows its traceback.
    """


def refuse_outside(section: str, settings: object, **least: float | None) -> None:
    """Check numbers of a configuration: finite, and at least the given bound, or above 0 where the bound is None.

    Raises:
        UserError: names the first number that is out of range.
    """
    for name, bound in least.items():
        value = getattr(settings, name)
        if not (math.isfinite(value) and (value > 0 if bound is None else value >= bound)):
            allowed = "finite and above 0" if bound is None else f"{bound} or more"
            raise UserError(f"got {section}.{name}={value}; allowed: {allowed}; change {section}.{name}")


def refuse_seed(section: str, seed: int) -> None:
    """Raise if a seed is not an unsigned 32-bit number, which every generator accepts."""
    if not 0 <= seed < 2**32:
        raise UserError(f"got {section}.seed={seed}; allowed: 0 to {2**32 - 1:,}; change {section}.seed")
