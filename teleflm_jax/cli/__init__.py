"""Commands: one thin file each, `main.py` finds them by name, `options.py` holds what they share."""
