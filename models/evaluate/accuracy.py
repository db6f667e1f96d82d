"""Top-1 and top-5 accuracy of a method's classifier on a labelled .beton file."""

from collections.abc import Iterable

import torch
from torch import Tensor

from models.method import Method


@torch.no_grad()
def accuracy(method: Method, batches: Iterable[Tensor], labels: Tensor) -> dict[str, float]:
    """Share of images whose class is the best guess ("top1") or among the five best ("top5", with over 5 classes).

    batches  u8 [n, 3, S, S], every image once, in the order of labels (i64 [N], on the device)
    """
    right = torch.zeros(2, device=labels.device)
    first = 0
    for images in batches:
        scores = method.logits(images)
        best = scores.topk(min(5, scores.shape[1]), dim=1).indices
        hit = best == labels[first : first + len(images), None]
        right += torch.stack([hit[:, 0].sum(), hit.any(1).sum()])
        first += len(images)
    top1, top5 = (right / first).tolist()
    return {"top1": top1} | ({"top5": top5} if scores.shape[1] > 5 else {})
