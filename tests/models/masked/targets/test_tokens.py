"""Codes of a tokenizer as a target: cross-entropy against a loop, k-means against its definition."""

import math

import numpy as np
import pytest
import torch

from models.encoder.patches import IMAGENET, patchify
from models.masked.targets.kmeans import kmeans
from models.masked.targets.tokenizer import Tokenizer, resized
from models.masked.targets.tokens import Tokens
from models.masked.targets.vq import PatchVQ, nearest
from pipeline.errors import InputError

DOUBLE = torch.float64


def images(n: int = 3, side: int = 8) -> torch.Tensor:
    return torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def codebook(codes: int = 7, wide: int = 12) -> torch.Tensor:
    return torch.rand(codes, wide, generator=torch.Generator().manual_seed(1))


def target() -> Tokens:
    return Tokens(PatchVQ(codebook(), 2), 2, IMAGENET)


def test_the_loss_is_a_loop_over_patches_and_codes():
    x, ids = images(), torch.tensor([[1, 14], [0, 7], [15, 3]])
    predicted, book, losses = torch.randn(3, 2, 7, dtype=DOUBLE), codebook().double(), []
    for n in range(3):
        pixels = patchify(x[n : n + 1], 2)[0].double() / 255
        for m, patch in enumerate(ids[n].tolist()):
            distances = [sum((pixels[patch, p] - book[k, p]) ** 2 for p in range(12)) for k in range(7)]
            code = distances.index(min(distances))
            scores = [math.exp(score) for score in predicted[n, m].tolist()]
            losses.append(-math.log(scores[code] / sum(scores)))
    assert target().loss(predicted, x, ids).item() == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_floats_normalised_as_the_encoders_input_have_the_same_codes():
    x = images()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET.mean, IMAGENET.std))
    assert torch.equal(target().codes((x / 255 - mean) / std), target().codes(x))


def test_pictures_are_the_codebook_where_predicted_and_need_no_gradient():
    x, ids = images(), torch.tensor([[1, 14], [0, 7], [15, 3]])
    wanted = torch.tensor([[6, 2], [0, 5], [4, 4]])
    made = target().to_pixels(torch.nn.functional.one_hot(wanted, 7).float(), x, ids)
    mean, std = (torch.tensor(v).repeat(4) for v in (IMAGENET.mean, IMAGENET.std))
    torch.testing.assert_close(made, (codebook()[wanted] - mean) / std)


class Means(Tokenizer):
    """Whether the middle of each cell is bright; cells of 4 pixels, no way back."""

    codes, stride = 2, 4

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.float32
        self.seen = tuple(images.shape)
        return (patchify(images, 4).mean(-1) > 0.5).long()

    def decode(self, codes: torch.Tensor, grid: tuple[int, int]) -> None:
        return None


def test_a_tokenizer_of_another_stride_sees_the_same_picture_resized_to_the_encoders_grid():
    x = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    x[0, :, :16] = x[1, :, :, 16:] = 255
    made = Tokens(Means(), 8, IMAGENET)
    codes = made.codes(x)
    assert made.tokenizer.seen == (2, 3, 16, 16)
    assert codes.tolist() == [[1] * 8 + [0] * 8, [0, 0, 1, 1] * 4]
    assert made.to_pixels(torch.zeros(2, 1, 2), x, torch.zeros(2, 1, dtype=torch.int64)) is None
    same = torch.rand(1, 3, 16, 16)
    assert resized(same, (16, 16)) is same


def test_a_tokenizer_is_not_trained_and_its_state_is_the_targets():
    layer = torch.nn.Linear(2, 2)
    tokenizer = Means()
    tokenizer.add_module("layer", layer)
    made = Tokens(tokenizer, 8, IMAGENET).train()
    assert not any(parameter.requires_grad for parameter in made.parameters())
    assert not layer.training
    assert {"tokenizer.layer.weight", "tokenizer.layer.bias"} == set(made.state_dict())
    assert set(target().state_dict()) == {"tokenizer.codebook"}


def test_autocast_does_not_round_the_codes():
    x = torch.randint(120, 124, (8, 3, 8, 8), dtype=torch.uint8)  # bfloat16 could not tell them apart
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = target().codes(x)
    assert torch.equal(rounded, target().codes(x))


def test_the_nearest_code_is_the_nearest():
    patches, book = torch.rand(4, 5, 12), codebook()
    assert torch.equal(nearest(patches, book), torch.cdist(patches.flatten(0, 1), book).argmin(1).view(4, 5))


def test_kmeans_finds_clusters_that_are_there_and_is_a_fixed_point():
    g = torch.Generator().manual_seed(3)
    centres = torch.eye(6, 12) * 3
    patches = centres.repeat(40, 1) + 0.05 * torch.randn(240, 12, generator=g)
    found = kmeans(patches, 6, g)
    assert sorted(nearest(centres, found).tolist()) == list(range(6))
    labels = nearest(patches, found)
    means = torch.stack([patches[labels == k].mean(0) for k in range(6)])
    torch.testing.assert_close(found, means, atol=1e-5, rtol=1e-5)


def test_kmeans_lloyd_step_never_raises_the_error_and_no_code_is_left_without_patches():
    patches = torch.rand(300, 12, generator=torch.Generator().manual_seed(5)) ** 4
    errors = []
    for most in (0, 1, 3, 20):
        found = kmeans(patches, 20, torch.Generator().manual_seed(0), most)
        errors.append(float((patches - found[nearest(patches, found)]).square().sum()))
    assert errors == sorted(errors, reverse=True)
    assert len(nearest(patches, found).unique()) == 20


def test_more_codes_than_different_patches_are_refused():
    same = torch.rand(3, 12).repeat(10, 1)
    with pytest.raises(InputError, match="only 3 different patches were found; choose --codes 3 or fewer"):
        kmeans(same, 4, torch.Generator().manual_seed(0))
    assert np.isfinite(kmeans(same, 3, torch.Generator().manual_seed(0)).numpy()).all()
