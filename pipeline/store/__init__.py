"""What is in a .beton file, and is it whole? FFCV's format, the manifest and the names beside it, checksums,
read-ahead, and what happens when the file is cut short while it is mapped.
`python -m pipeline.store FILE` checks every byte.

Imports the root's nouns (`errors`, `flags`, `rng`, `text`). Read `beton.py` first.
"""
