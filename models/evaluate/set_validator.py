"""What every evaluation of a run on one set has, while it trains and at its end: of .beton files and of image files."""

from abc import ABC, abstractmethod

from models.config.recipe import Recipe
from models.method import Method
from pipeline.errors import InputError
from pipeline.train_data import ImageSource

READ = "knn", "probe", "rankme"
"""Evaluations that read features of whole images of a .beton file."""


class SetValidator(ABC):
    """Evaluates a method on one set of the recipe's folder; every rank takes its share of the images.

    values = validator(method)  # {"top1": 0.71}

    batch    images, or windows of them, that go through the network at once
    recalls  lists by name, a value a class, of the last call; None for a class without any
    """

    batch: int
    recalls: dict[str, list[float | None]]

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of the values that a call returns."""

    @property
    @abstractmethod
    def source(self) -> ImageSource:
        """Return what its images are read from, for messages and comparisons."""

    def notes(self) -> list[str]:
        """Say, a line each, what is odd about the set and no error."""
        return []

    @abstractmethod
    def __call__(self, method: Method) -> dict[str, float]:
        """Measure values, in float32 whatever the run trains in. A collective call."""


def check_image_files(recipe: Recipe) -> None:
    """Raise InputError for an evaluation of a .beton file in a recipe that reads image files."""
    asked = [each for each in READ if getattr(recipe.run, each)]
    if asked:
        raise InputError(
            f"run.{asked[0]} reads features of images with one label each; leave --run.{asked[0]} out, or judge a "
            "classification run from the same start"
        )
