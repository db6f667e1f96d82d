"""What tests of masked branches share: small networks in float64, gradients, and hidden pixels that are poisoned."""

import torch
from torch import Tensor, nn

from models.config.recipe import Encoder, Optim, Recipe
from models.encoder.vit import Size, build_encoder, encode
from pipeline.spec import Data, Mask

DOUBLE = torch.float64
PATCH, GRID, PATCHES = 4, 4, 16


def vit_of(**options) -> nn.Module:
    """A packed ViT of 2 x 32 on 16 x 16 pixels, every weight away from its start."""
    torch.manual_seed(0)
    usual = {"image_size": PATCH * GRID, "patch": PATCH, "classes": 0}
    return moved(build_encoder(Size(32, 2, 4), **usual | options))


def recipe_of(settings: object, mask: Mask, **encoder) -> Recipe:
    """A recipe of the same network."""
    size = {"width": 32, "depth": 2, "heads": 4, "patch": PATCH}
    return Recipe(settings, Data(size=PATCH * GRID, mask=mask), Encoder(None, **size | encoder), Optim())


def moved(module: nn.Module) -> nn.Module:
    module = module.to(DOUBLE).train()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def images_of(samples: int = 3, pixels: int = PATCH * GRID) -> Tensor:
    return torch.randn(samples, 3, pixels, pixels, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))


def assert_same(ours: Tensor, paper: Tensor, *modules: nn.Module) -> None:
    """Equal losses, and equal gradients of everything that is trained; each has one somewhere."""
    torch.testing.assert_close(ours, paper, rtol=1e-11, atol=1e-12)
    trained = {f"{m}.{n}": p for m, each in enumerate(modules) for n, p in each.named_parameters() if p.requires_grad}
    both = [torch.autograd.grad(loss, trained.values(), allow_unused=True) for loss in (ours, paper)]
    for name, mine, other in zip(trained, *both, strict=True):
        assert mine is not None and mine.abs().max() > 0, name  # noqa: PT018
        torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-10, msg=name)


def poisoned(images: Tensor, ids: list[list[int]]) -> Tensor:
    """Other pixels in these patches of each image."""
    images = images.clone()
    for image, each in zip(images, ids, strict=True):
        for patch in each:
            y, x = PATCH * (patch // GRID), PATCH * (patch % GRID)
            image[:, y : y + PATCH, x : x + PATCH] += 100.0
    return images


def tokens_of(vit: nn.Module, branch: nn.Module, *inputs: Tensor) -> Tensor:
    return encode(vit, [branch.group(*inputs)])[0]
