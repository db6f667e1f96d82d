"""What a run's encoder makes of images, without its classifier: the input of a new one."""

from copy import deepcopy
from typing import Literal, final

import torch
from torch import Tensor, nn

from models.config.recipe import Recipe
from models.distributed.precision import precision
from models.encoder.vit import FullImages, classify, encode
from models.method import Method
from models.semiformer.model import Semiformer
from pipeline.errors import InputError

Pool = Literal["recipe", "token", "avg"]
"""What is read of an encoder: what its recipe's classifier reads, the class token, or the mean of the patches."""


@final
class Represent(nn.Module):
    """Images u8 [N, 3, S, S] -> f32 [N, width], by a copy of the weights that a run is judged by.

    Of a Semiformer the pooled map and the class token, side by side: what its two heads read.
    """

    def __init__(self, method: Method, recipe: Recipe, pool: Pool = "recipe") -> None:
        """Raises InputError where there is no class token to read, or no choice."""
        super().__init__()
        self.run, self.encoder = recipe.run, deepcopy(method.eval_encoder)
        self.encoder.requires_grad_(True)  # an average learns nothing, nor does what the run itself froze
        if recipe.encoder.position == "sincos":
            self.encoder.pos_embed.requires_grad_(False)
        if isinstance(self.encoder, Semiformer):
            if pool != "recipe":
                raise InputError(f"--pool {pool}: a Semiformer is read as its two heads do; set --pool recipe")
            heads = self.encoder.head
            self.width = sum(head.in_features for head in heads.values())
            self.encoder.head = nn.ModuleDict({name: nn.Identity() for name in heads})
            return
        if pool == "token" and self.encoder.cls_token is None:
            raise InputError("--pool token: the encoder has no class token; set --pool avg")
        self.width, self.encoder.head = self.encoder.num_features, nn.Identity()
        if pool != "recipe":
            self.encoder.global_pool = pool

    def forward(self, images: Tensor) -> Tensor:
        with precision(self.run, images.device):
            if isinstance(self.encoder, Semiformer):
                found = torch.cat(self.encoder(images), 1)
            else:
                found = classify(self.encoder, encode(self.encoder, [FullImages(images)]))[0]
        return found.float()


@final
class Tuned(nn.Module):
    """ELEVATER's classifier, BatchNorm without affine and a linear layer, on an encoder that learns with it."""

    def __init__(self, represent: Represent, classes: int, seed: int) -> None:
        super().__init__()
        copied = deepcopy(represent)
        self.encoder = copied.encoder  # first, so that its parameters have the names by which layers decay
        self.represent = copied
        self.classifier = linear_head(represent.width, classes, seed)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.represent(images))


def linear_head(width: int, classes: int, seed: int) -> nn.Sequential:
    """f32 [N, width] -> [N, classes]; torch's initial weights, drawn from the seed alone."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return nn.Sequential(nn.BatchNorm1d(width, affine=False), nn.Linear(width, classes))
