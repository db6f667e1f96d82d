"""Features of images by a run's encoder without its classifier, and new classifiers on them.

extractor = FeatureExtractor(loaded.method, loaded.recipe).eval()
features = extractor(images)  # u8 [N, 3, H, W] -> f32 [N, extractor.width]
"""

from copy import deepcopy
from typing import Literal, final

import torch
from torch import Tensor, nn

from models.config.recipe import Recipe
from models.encoder.lora import merge
from models.encoder.timm_classifier import TimmClassifier
from models.encoder.vit import FullImages, classify, encode
from models.full_precision import full_precision
from models.method import Method
from models.semiformer.model import Semiformer
from pipeline.errors import InputError

Pool = Literal["recipe", "token", "avg"]
"""Features of an encoder: those that its recipe's classifier reads, the class token, or the mean of the patches."""


@final
class FeatureExtractor(nn.Module):
    """Images u8 [N, 3, H, W] -> features f32 [N, width], by a copy of the weights that a run is evaluated with.

    A Semiformer's features are the pooled map and the class token, concatenated: what its two heads read.
    """

    def __init__(self, method: Method, recipe: Recipe, pool: Pool = "recipe") -> None:
        """Copy the encoder. Raises InputError for a class token that it lacks, and for a `pool` of a Semiformer."""
        super().__init__()
        self.encoder = deepcopy(method.eval_encoder)
        merge(self.encoder)
        self.encoder.requires_grad_(True)  # a moving average, and what the run itself froze, are without gradient
        if recipe.encoder.position == "sincos":
            self.encoder.pos_embed.requires_grad_(False)
        if isinstance(self.encoder, Semiformer):
            if pool != "recipe":
                raise InputError(f"--pool {pool}: a Semiformer is read as its two heads do; set --pool recipe")
            heads = self.encoder.head
            self.width = sum(head.in_features for head in heads.values())
            self.encoder.head = nn.ModuleDict({name: nn.Identity() for name in heads})
            return
        if isinstance(self.encoder, TimmClassifier):
            if pool != "recipe":
                raise InputError(
                    f"--pool {pool}: {self.encoder.name} is read as its classifier does; set --pool recipe"
                )
            self.width = self.encoder.num_features
            self.encoder.remove_head()
            return
        if pool == "token" and self.encoder.cls_token is None:
            raise InputError("--pool token: the encoder has no class token; set --pool avg")
        self.width, self.encoder.head = self.encoder.num_features, nn.Identity()
        if pool != "recipe":
            self.encoder.global_pool = pool

    def forward(self, images: Tensor) -> Tensor:
        with full_precision(images.device):
            if isinstance(self.encoder, Semiformer):
                found = torch.cat(self.encoder(images), 1)
            else:
                found = classify(self.encoder, encode(self.encoder, [FullImages(images)]))[0]
        return found.float()


@final
class FineTuned(nn.Module):
    """ELEVATER's classifier, BatchNorm without affine and a linear layer, and a copy of an encoder that learns, too."""

    def __init__(self, extractor: FeatureExtractor, classes: int, seed: int) -> None:
        super().__init__()
        copied = deepcopy(extractor)
        self.encoder = copied.encoder  # first, so that its parameters have the names by which layers decay
        self.extractor = copied
        self.classifier = linear_head(extractor.width, classes, seed)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.extractor(images))


def linear_head(width: int, classes: int, seed: int) -> nn.Sequential:
    """Make a classifier f32 [N, width] -> [N, classes] with torch's initial weights, drawn from the seed alone."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return nn.Sequential(nn.BatchNorm1d(width, affine=False), nn.Linear(width, classes))
