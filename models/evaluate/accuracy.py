"""Top-1 and top-5 accuracy of a method's classifier."""

from collections.abc import Iterable

import torch
from torch import Tensor

from models.method import Method


@torch.no_grad()
def hits(method: Method, batches: Iterable[Tensor], labels: Tensor) -> Tensor:
    """How many images' class is the best guess, and among the five best, of how many: f64 [3], on the device.

    batches  u8 [n, 3, S, S], every image once, in the order of labels (i64 [N])
    """
    counts = torch.zeros(3, dtype=torch.float64, device=labels.device)
    first = 0
    for images in batches:
        scores = method.logits(images)
        best = scores.topk(min(5, scores.shape[1]), dim=1).indices
        hit = best == labels[first : first + len(images), None]
        counts += torch.stack([hit[:, 0].sum(), hit.any(1).sum(), torch.tensor(len(images), device=labels.device)])
        first += len(images)
    return counts
