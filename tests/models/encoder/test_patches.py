"""Pixels of patches against slow loops."""

import pytest
import torch

from models.encoder.patches import (
    IMAGENET,
    Normalisation,
    gather_patches,
    hidden_from_visible,
    normalised,
    patchify,
    unpatchify,
)
from pipeline.errors import InputError

DOUBLE = torch.float64


def slow_patch(image, patch, across, index):
    top, left = index // across * patch, index % across * patch
    return [
        image[channel, top + y, left + x].item() for y in range(patch) for x in range(patch) for channel in range(3)
    ]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels_last", [False, True])
def test_patchify_equals_a_loop_over_pixels(dtype, channels_last):
    images = torch.randint(256, (2, 3, 4, 6)).to(dtype)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    expected = [[slow_patch(image, 2, 3, index) for index in range(6)] for image in images]
    patches = patchify(images, 2)
    assert patches.dtype == dtype
    assert patches.tolist() == expected


def test_gather_patches_picks_images_then_patches():
    images = torch.randint(256, (4, 3, 4, 6), dtype=torch.uint8)
    rows, ids = torch.tensor([3, 1]), torch.tensor([[5, 0, 2], [1, 1, 4]])
    expected = [[slow_patch(images[r], 2, 3, i) for i in row] for r, row in zip([3, 1], ids.tolist(), strict=True)]
    assert gather_patches(images, rows, ids, 2).tolist() == expected
    assert torch.equal(gather_patches(images, rows, None, 2), patchify(images, 2)[rows])


def test_unpatchify_undoes_patchify():
    images = torch.randn(2, 3, 4, 6)
    assert torch.equal(unpatchify(patchify(images, 2), (2, 3), 2), images)


def test_hidden_is_what_visible_leaves_out():
    visible = torch.rand(5, 12).argsort(1)[:, :5]
    hidden = hidden_from_visible(visible, 12)
    assert hidden.tolist() == [sorted(set(range(12)) - set(row)) for row in visible.tolist()]
    assert hidden_from_visible(torch.arange(12)[None], 12).shape == (1, 0)
    assert hidden_from_visible(torch.empty(2, 0, dtype=torch.int64), 3).tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize("normalisation", [IMAGENET, Normalisation((0.5, 0.4, 0.3), (0.2, 0.5, 1.0))])
def test_u8_pixels_are_normalised_as_torchvision_does(normalisation):
    from torchvision.transforms.v2.functional import normalize

    images = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = normalize(images.to(DOUBLE) / 255, list(normalisation.mean), list(normalisation.std))
    torch.testing.assert_close(normalised(patchify(images, 2), DOUBLE, normalisation), patchify(expected, 2))


def test_floats_are_taken_as_normalised():
    pixels = torch.randn(2, 3, 12)
    assert normalised(pixels, DOUBLE) is pixels


def test_patches_that_do_not_fit_are_refused_with_the_nearest_sizes():
    with pytest.raises(InputError, match="the nearest sizes are 4 or 6 x 6"):
        patchify(torch.zeros(1, 3, 5, 6), 2)
