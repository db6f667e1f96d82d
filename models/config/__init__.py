"""What is a run asked to do? The schema of a recipe, the catalogue of names, the command line, bounds and sweeps.

Imports `pipeline` only, and torch not at all, until `resolve` imports a method by name. Read `recipe.py` first.
"""
