"""k-nearest-neighbour accuracy of an encoder's features: what was learned, without training anything on it."""

from collections.abc import Iterable

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import normalize

from models.vit import Whole, encode, evaluating

TEMPERATURE = 0.07  # Wu et al. 2018, DINO
CHUNK = 1024


@torch.no_grad()
def features(encoder: VisionTransformer, batches: Iterable[Tensor]) -> Tensor:
    """Mean of the patch tokens, normed to length 1: f32 [N, C] of images u8 [n, 3, S, S]."""
    with evaluating(encoder):
        tokens = [encode(encoder, [Whole(images, pooled=False)])[0] for images in batches]
        pooled = [each[:, encoder.num_prefix_tokens :].mean(1).float() for each in tokens]
    return normalize(torch.cat(pooled), dim=1)


def knn(known: Tensor, known_labels: Tensor, asked: Tensor, asked_labels: Tensor, k: int = 20) -> float:
    """Share of `asked` f32 [M, C] whose class wins the vote of its k nearest in `known` f32 [N, C].

    Votes weigh exp(cosine / 0.07) (Wu et al. 2018); features have length 1; labels i64.
    """
    classes = int(torch.maximum(known_labels.max(), asked_labels.max())) + 1
    k, right = min(k, len(known)), 0
    for rows, labels in zip(asked.split(CHUNK), asked_labels.split(CHUNK), strict=True):
        near, index = (rows @ known.T).topk(k, dim=1)
        votes = torch.zeros(len(rows), classes, device=rows.device)
        votes.scatter_add_(1, known_labels[index], (near / TEMPERATURE).exp())
        right += int((votes.argmax(1) == labels).sum())
    return right / len(asked)
