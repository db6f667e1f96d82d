"""How do images become a .beton? Read, encode, write, read back, and rename at the end; then splits and a summary.
`python -m pipeline.convert SRC OUT.beton`

May import `sources`, `labels`, `store`, `backends` and `concurrency`. Read `conversion.py` first.
"""
