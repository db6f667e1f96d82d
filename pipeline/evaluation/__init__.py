"""How are images shown to a model that is evaluated? Once each, in order, in a view without random choices: images of a
.beton, of files, of arrays, or corrupted (`corruptions/`).

May import every room but `convert` and `bench`. Read `sweep.py` first.
"""
