"""Find the class of the method that a recipe describes."""

import sys

from models.config.catalogue import own_class
from models.config.recipe import Recipe
from models.method import Method


def method_class(recipe: Recipe) -> type[Method]:
    """Return the Method that is defined in the file of the recipe's method settings.

    method = method_class(recipe)(recipe, classes=10)
    """
    return own_class(sys.modules[type(recipe.method).__module__], Method)
