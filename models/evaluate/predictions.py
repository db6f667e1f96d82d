"""Classes and confidences of image files by a run's classifier, as `models.predict` writes them."""

from collections.abc import Iterator

import torch

from models.evaluate.class_probabilities import probabilities
from models.load import Loaded
from pipeline.evaluation.files import Shown
from pipeline.store.sample_names import escape, printable


@torch.inference_mode()
def predictions(loaded: Loaded, shown: Shown, top: int) -> Iterator[list[str]]:
    """Give a row for each image of a batch: path, then class name and confidence of the `top` likeliest classes."""
    if not shown.paths:
        return
    likely = probabilities(loaded, shown.images).topk(top)
    for path, values, classes in zip(shown.paths, likely.values.tolist(), likely.indices.tolist(), strict=True):
        named = ((printable(loaded.classes[c]), f"{v:.6f}") for v, c in zip(values, classes, strict=True))
        yield [escape(str(path)), *(cell for pair in named for cell in pair)]
