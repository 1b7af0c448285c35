"""Documents in files: formats, compression, character sets, rows and units of work."""
