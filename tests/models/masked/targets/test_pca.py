"""Principal components against numpy's on the whole matrix; their loss against a loop, and against pixels'."""

import numpy as np
import pytest
import torch

from models.encoder.patches import IMAGENET, normalised, patchify
from models.losses import pixel_loss
from models.masked.fit_pca import components, moments
from models.masked.targets.pca import PCA
from pipeline.errors import InputError

DOUBLE = torch.float64
PATCH, WIDE, KEEP = 2, 12, 5


def images(n: int = 6) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    smooth = torch.rand(n, 3, 4, 4, generator=g).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return (200 * smooth + 50 * torch.rand(n, 3, 8, 8, generator=g)).to(torch.uint8)


def rows(x: torch.Tensor) -> torch.Tensor:
    return normalised(patchify(x, PATCH), DOUBLE, IMAGENET).flatten(0, 1)


def fitted(x: torch.Tensor, keep: int = KEEP, *, whiten: bool = False) -> PCA:
    mean, basis, scale, _ = components(moments(rows(x).split(17)), keep, whiten=whiten)
    return PCA(mean, basis, scale, PATCH, IMAGENET)


def everything(x: torch.Tensor) -> torch.Tensor:
    return torch.arange(16).expand(len(x), -1)


def test_moments_of_parts_are_numpys_of_the_whole():
    matrix = 1000 + rows(images())  # far from zero, where sums of squares would lose their digits
    found = moments(matrix.split(17))
    assert found.count == 96
    np.testing.assert_allclose(found.mean, matrix.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(matrix.numpy().T, bias=True), rtol=1e-9, atol=1e-12)


def test_components_are_numpys_and_those_of_an_svd_of_the_whole_matrix():
    matrix = rows(images())
    _, basis, _, share = components(moments(matrix.split(17)), KEEP)
    values, vectors = np.linalg.eigh(np.cov(matrix.numpy().T, bias=True))
    _, singular, right = np.linalg.svd(matrix.numpy() - matrix.numpy().mean(0), full_matrices=False)
    for expected in (vectors[:, ::-1][:, :KEEP], right[:KEEP].T):
        np.testing.assert_allclose(np.abs(basis.numpy().T @ expected), np.eye(KEEP), atol=1e-9)
    assert share == pytest.approx(values[::-1][:KEEP].sum() / values.sum())
    assert share == pytest.approx((singular[:KEEP] ** 2).sum() / (singular**2).sum())
    assert (basis.gather(0, basis.abs().argmax(0, keepdim=True)) > 0).all()  # one of the two signs, always


@pytest.mark.parametrize("whiten", [False, True])
def test_the_loss_is_a_loop_over_coefficients(whiten):
    x, ids = images(), torch.tensor([[3, 9]] * 6)
    target = fitted(x, whiten=whiten)
    predicted = torch.randn(6, 2, KEEP, dtype=DOUBLE)
    errors = []
    for n in range(6):
        for m, patch in enumerate(ids[n].tolist()):
            pixels = rows(x[n : n + 1])[patch] - target.mean
            for k in range(KEEP):
                coefficient = sum(pixels[p] * target.basis[p, k] for p in range(WIDE)) / target.scale[k]
                errors.append((predicted[n, m, k] - coefficient) ** 2)
    assert target.loss(predicted, x, ids).item() == pytest.approx(float(sum(errors) / len(errors)), rel=1e-11)


@pytest.mark.parametrize("whiten", [False, True])
def test_predicting_the_mean_costs_what_it_costs_in_pixels(whiten):
    x = images()
    target = fitted(x, whiten=whiten)
    mean = target.mean.expand(6, 16, WIDE)
    pixels = pixel_loss(mean, x, everything(x), PATCH, normalise=False)
    assert target.loss(torch.zeros(6, 16, KEEP, dtype=DOUBLE), x, everything(x)).item() == pytest.approx(pixels.item())


def test_only_whitened_coefficients_all_weigh_the_same():
    x, each = images(), []
    for whiten in (False, True):
        target = fitted(x, whiten=whiten)
        scores = (rows(x) - target.mean) @ target.basis / target.scale
        each.append(scores.var(0, correction=0))
    assert each[0][0] > 2 * each[0][-1]
    torch.testing.assert_close(each[1], each[1].mean().expand(KEEP))


def test_pictures_are_the_nearest_that_the_components_can_make():
    x = images()
    target = fitted(x, WIDE)
    exact = (rows(x) - target.mean) @ target.basis / target.scale
    made = target.to_pixels(exact.unflatten(0, (6, 16)), x, everything(x))
    torch.testing.assert_close(made.flatten(0, 1).double(), rows(x), atol=1e-5, rtol=1e-5)
    few = fitted(x)
    scores = (rows(x) - few.mean) @ few.basis / few.scale
    made = few.to_pixels(scores.unflatten(0, (6, 16)), x, everything(x)).flatten(0, 1).double()
    error = (rows(x) - made).square().sum() / (rows(x) - few.mean).square().sum()
    assert error.item() == pytest.approx(1 - components(moments([rows(x)]), KEEP)[3], rel=1e-4)


def test_autocast_does_not_round_the_target():
    x = images()
    target = fitted(x).float()
    predicted = torch.randn(6, 16, KEEP)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = target.loss(predicted, x, everything(x))
    assert torch.equal(rounded, target.loss(predicted, x, everything(x)))


def test_too_many_coefficients_and_too_few_patches_are_refused():
    grey = images()[:, :1].expand(-1, 3, -1, -1)
    with pytest.raises(InputError, match="vary in 4 directions only; choose --coefficients 4 or fewer"):
        fitted(grey, 5)
    with pytest.raises(InputError, match="two patches or more, got 1"):
        moments([rows(images())[:1]])
    with pytest.raises(InputError, match="no patch is hidden"):
        fitted(images()).loss(torch.zeros(6, 0, KEEP), images(), torch.empty(6, 0, dtype=torch.int64))
