"""What is a run asked to be? The schema of a recipe, its name on the command line, its flags and bounds, and sweeps of
recipes.

Imports `pipeline` only. Read `recipe.py` first.
"""
