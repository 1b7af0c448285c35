"""Documents in files: formats, compression, character sets, rows and work units."""
