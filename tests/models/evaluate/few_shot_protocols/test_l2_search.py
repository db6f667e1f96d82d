"""The search finds the best of all places, where there is one peak, with few trials."""

import numpy as np
import pytest
import torch

from models.evaluate.few_shot_protocols.held_out import Trial, select
from models.evaluate.few_shot_protocols.l2_search import L2, search
from models.evaluate.few_shot_protocols.metric import score
from models.evaluate.few_shot_protocols.regression import fit


def test_the_grid_is_elevaters():
    assert len(L2) == 97
    assert np.allclose(np.log10(L2[[0, 16, 48, 96]]), [-6, -4, 0, 6])


@pytest.mark.parametrize("slope", [(1, 1), (1, 7), (7, 1)])
def test_one_peak_is_found_wherever_it_is(slope):
    for peak in range(97):
        tried = []

        def score_of(i, peak=peak, tried=tried):
            tried.append(i)
            return -slope[0] * max(0, i - peak) - slope[1] * max(0, peak - i)

        assert search(score_of) == (peak, 0)
        assert len(tried) == len(set(tried)) <= 7 + 8


def test_of_equals_the_first_seen_wins():
    assert search(lambda i: 0)[0] == 0
    assert search(lambda i: min(i, 40))[0] == 48


def test_the_first_releases_search_only_moves_to_the_left():
    """It gave the right neighbour the left one's score."""
    assert search(lambda i: -abs(i - 70))[0] == 70
    assert search(lambda i: -abs(i - 70), left_only=True)[0] == 64
    assert search(lambda i: -abs(i - 58), left_only=True)[0] == 56


def test_the_penalty_of_the_smallest_held_out_loss_is_the_one_that_trying_all_of_them_finds():
    g = torch.Generator().manual_seed(1)
    labels = torch.arange(60) % 2
    features = torch.randn(60, 4, generator=g, dtype=torch.float64) + 0.5 * labels[:, None]

    def score_of(place: int) -> float:
        fitted = fit(features[:20], labels[:20], 2, L2[place])
        return -float(torch.nn.functional.cross_entropy(fitted(features[20:]), labels[20:]))

    assert search(score_of)[0] == max(range(97), key=score_of)
    assert 0 < search(score_of)[0] < 96


def test_selecting_is_by_the_mean_over_the_trials_and_then_by_the_loss():
    g = torch.Generator().manual_seed(2)
    labels = torch.arange(40) % 2
    features = torch.randn(40, 4, generator=g, dtype=torch.float64) + 2 * labels[:, None]
    halves = torch.arange(40) < 20, torch.arange(40) >= 20
    trials = [Trial(features[h], labels[h], features[~h], labels[~h]) for h in halves]

    def mean(l2: float) -> tuple[float, float]:
        found = [score(fit(t.features, t.labels, 2, l2)(t.held), t.held_labels, "accuracy") for t in trials]
        value, loss = np.mean(found, 0).tolist()
        return round(value, 9), round(loss, 3)  # fits begin elsewhere there, and end within the tolerance

    chosen = L2.tolist().index(select(trials, 2, "accuracy"))
    places = {*range(0, 97, 16), chosen - 1, chosen + 1} & {*range(97)}
    assert all(mean(L2[chosen]) >= mean(L2[place]) for place in places)
    assert mean(L2[chosen]) > mean(L2[-1])
