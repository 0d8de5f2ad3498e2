"""The settings file: reading it, telling its faults, checking what it names, dumping and documenting it."""
