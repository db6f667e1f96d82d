"""How are images judged? Once each, in order, without chance: images of a .beton, of files, of arrays, or corrupted.

May import every room but `convert`'s and `bench`'s. Read `sweep.py` first.
"""
