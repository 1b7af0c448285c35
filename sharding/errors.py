"""The one exception that means "what the user gave is wrong"; every command turns it into one line and exit code 2."""

import math


class UserError(ValueError):
    """Wrong input from outside: configuration, files, folders, checkpoints.

    The message is one line and says what was given, what is allowed and what to change. Anything else that escapes a
    command is a bug and shows its traceback.
    """


def refuse_outside(section: str, settings: object, **least: float | None) -> None:
    """Hold numbers of a configuration against their ranges: at least the given one, or with None above 0, and finite.

    Raises:
        UserError: names the first that is outside.
    """
    for name, bound in least.items():
        value = getattr(settings, name)
        if not (math.isfinite(value) and (value > 0 if bound is None else value >= bound)):
            allowed = "finite and above 0" if bound is None else f"{bound} or more"
            raise UserError(f"got {section}.{name}={value}; allowed: {allowed}; change {section}.{name}")


def refuse_seed(section: str, seed: int) -> None:
    """Seeds are unsigned 32-bit numbers, which every generator takes as they are."""
    if not 0 <= seed < 2**32:
        raise UserError(f"got {section}.seed={seed}; allowed: 0 to {2**32 - 1:,}; change {section}.seed")
