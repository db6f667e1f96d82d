"""RankMe against numpy's singular values, and on matrices whose rank is known."""

import math

import numpy as np
import pytest
import torch

from models.evaluate.evaluation_log import read_evaluations
from models.evaluate.rankme import rankme, rankme_ids
from pipeline.errors import InputError


def by_numpy(features: np.ndarray) -> float:
    """Garrido et al. 2023, equation 1, term by term."""
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    total, entropy = values.sum(), 0.0
    for value in values:
        p = value / total + 1e-7
        entropy -= p * math.log(p)
    return math.exp(entropy)


@pytest.mark.parametrize(("rows", "columns"), [(50, 8), (8, 50), (7, 7), (1, 5)])
def test_it_is_numpys(rows, columns):
    features = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * torch.arange(1, columns + 1)
    assert rankme(features) == pytest.approx(by_numpy(features.numpy()), rel=1e-9)


def test_equal_directions_count_each_and_a_single_one_counts_once():
    assert rankme(3 * torch.eye(6)) == pytest.approx(6, abs=1e-4)
    assert rankme(torch.eye(9, 6)) == pytest.approx(6, abs=1e-4)
    collapsed = torch.ones(40, 1) @ torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    assert rankme(collapsed) == pytest.approx(1, abs=1e-4)


def test_neither_the_unit_nor_the_order_of_images_matters():
    features = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    assert rankme(100 * features) == pytest.approx(rankme(features), rel=1e-6)
    assert rankme(features.flip(0)) == pytest.approx(rankme(features), rel=1e-9)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_features_that_are_no_numbers_or_all_zero_have_no_rank(wrong):
    features = torch.ones(3, 2)
    features[1, 1] = wrong
    assert math.isnan(rankme(features))
    assert math.isnan(rankme(torch.zeros(3, 2)))


def test_no_more_images_than_the_file_has():
    assert rankme_ids(3, 5).tolist() == [0, 1, 2]
    assert rankme_ids(9, 5).tolist() == [0, 1, 2, 3, 4]


def test_a_run_is_measured_on_its_training_file(trained, asked, capsys):
    folder = trained("mae:digits")
    asked("rankme", folder, "--most", 200)
    values = read_evaluations(folder)[-1]["values"]
    assert (values["images"], values["width"]) == (200, 32)
    assert 1 < values["rankme"] <= 32
    assert f"rankme                   {values['rankme']:.4g}\n" in capsys.readouterr().out
    with pytest.raises(InputError, match="RankMe compares images, expected 2 or more, got 1"):
        asked("rankme", folder, "--most", 1)
    with pytest.raises(InputError, match="--most is 0, expected at least 1"):
        asked("rankme", folder, "--most", 0)
