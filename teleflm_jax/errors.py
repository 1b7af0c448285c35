"""The one exception that means "what the user gave is wrong"; every command turns it into one line and exit code 2."""


class UserError(ValueError):
    """Wrong input from outside: configuration, files, folders, checkpoints.

    The message is one line and says what was given, what is allowed and what to change. Anything else that escapes a
    command is a bug and shows its traceback.
    """
