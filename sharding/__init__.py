"""The only code that names mesh axes."""
