"""Predicting a part of the hidden patches: exact counts, the law, and the same choice whoever holds the image."""

import numpy as np
import pytest
import torch

from models.masked.crossmae import drawn, predicted_count
from pipeline import rng
from pipeline.errors import InputError


def hidden(n: int, of: int = 12, patches: int = 16) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.rand(n, patches, generator=g).argsort(1)[:, :of].sort(1).values


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_the_numbers_are_the_pipelines_own(seed):
    rest, images = hidden(50), torch.arange(50) * 10**10
    keys = rng.derive(rng.keys(seed, 3, images.numpy(), rng.MASK), 7)
    order = rng.uniforms(keys, 12).argsort(1)[:, :5]
    expected = np.take_along_axis(rest.numpy(), np.sort(order, 1), 1)
    assert np.array_equal(drawn(rest, 5, images, 3, seed).numpy(), expected)


def test_each_image_gets_the_count_of_its_own_hidden_patches_ascending():
    rest = hidden(200)
    found = drawn(rest, 5, torch.arange(200), 0, 0)
    assert found.shape == (200, 5)
    assert (found.diff(dim=1) > 0).all()
    assert all(set(mine.tolist()) <= set(its.tolist()) for mine, its in zip(found, rest, strict=True))
    assert drawn(rest, 12, torch.arange(200), 0, 0) is rest


def test_every_pair_of_patches_is_as_likely_as_any_other():
    n = 30_000
    found = drawn(torch.arange(6).expand(n, -1), 2, torch.arange(n), 1, 5)
    counts = torch.bincount(found[:, 0] * 6 + found[:, 1])
    counts = counts[counts > 0].double()
    assert len(counts) == 15
    chi_square = ((counts - n / 15) ** 2 / (n / 15)).sum()
    assert chi_square < 36.1  # 14 degrees of freedom: one seed in a thousand would miss it


def test_the_choice_depends_on_image_step_and_seed_and_on_nothing_else():
    rest, images = hidden(64), torch.arange(64)
    whole = drawn(rest, 5, images, 7, 1)
    halves = [drawn(rest[part], 5, images[part], 7, 1) for part in (slice(40, 64), slice(0, 40))]
    assert torch.equal(torch.cat(halves[::-1]), whole)
    for step, seed in ((8, 1), (7, 2)):
        assert not torch.equal(drawn(rest, 5, images, step, seed), whole)


def test_the_count_is_exact_and_none_is_refused():
    assert [predicted_count(share, 196) for share in (0.25, 0.75, 0.15)] == [49, 147, 29]
    assert predicted_count(0.8, 10) == 8  # not 7.999...
    with pytest.raises(InputError, match=r"a share of 0.05 of 16 patches is none; raise method.reconstruct.predict"):
        predicted_count(0.05, 16)
