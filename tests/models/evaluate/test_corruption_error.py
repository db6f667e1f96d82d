"""Scores against the paper's table, a poster's numbers, and sums done by hand."""

from fractions import Fraction

import pytest

from models.evaluate.corruption_error import ALEXNET, combined_score, is_imagenet, mean_corruption_error
from models.evaluate.robustness import summary, table
from pipeline.evaluation.corruptions.corrupt import NAMES

# Hendrycks and Dietterich 2019, table 1's row of AlexNet in per cent, whose mCE is 100 by definition
PUBLISHED = (89, 89, 92, 82, 83, 79, 80, 87, 83, 82, 56, 85, 65, 72, 61)


def test_alexnets_errors_are_the_papers_rounded():
    assert [round(100 * ALEXNET[name]) for name in NAMES] == list(PUBLISHED)
    assert ALEXNET["gaussian_noise"] == pytest.approx(0.886, abs=5e-4)


def test_alexnet_itself_has_an_mce_of_one_and_half_its_errors_a_half():
    itself = {name: [ALEXNET[name]] * 5 for name in NAMES}
    assert mean_corruption_error(itself) == pytest.approx(1)
    assert mean_corruption_error({name: [share / 2 for share in each] for name, each in itself.items()}) == 0.5


def test_mce_by_hand():
    """0.5 everywhere but for snow, whose severities are uneven: 0.1 to 0.9, and gaussian noise: none wrong."""
    errors = {name: [0.5] * 5 for name in NAMES} | {"snow": [0.1, 0.3, 0.5, 0.7, 0.9], "gaussian_noise": [0.0] * 5}
    by_hand = sum(0.5 / ALEXNET[name] for name in NAMES if name != "gaussian_noise") / 15
    assert mean_corruption_error(errors) == pytest.approx(by_hand)


@pytest.mark.parametrize(("mce", "a", "r", "sketch", "score"), [
    ("51.7", "35.9", "48.3", "34.5", "41.8"),  # MAE
    ("47.4", "27.9", "45.3", "32.0", "39.5"),  # DeiT
    ("48.1", "35.5", "51.0", "36.0", "43.6"),  # SupMAE
])  # fmt: skip
def test_the_combined_score_is_supmaes(mce, a, r, sketch, score):
    exact = combined_score(*(Fraction(each) / 100 for each in (mce, a, r, sketch))) * 100
    assert int(exact * 10 + Fraction(1, 2)) == Fraction(score) * 10  # halves go up: MAE's is 41.75, DeiT's 39.45


def test_imagenets_classes_are_a_thousand_wordnet_ids():
    names = [f"n{i:08d}" for i in range(1000)]
    assert is_imagenet(names)
    assert not is_imagenet(names[:200])
    assert not is_imagenet([*names[:-1], "tench"])


def test_the_summary_has_an_mce_only_for_imagenet_in_full():
    errors = {name: [0.4] * 5 for name in NAMES}
    assert summary(0.2, errors, True)["mce"] == mean_corruption_error(errors)
    assert "mce" not in summary(0.2, errors, False)
    assert "mce" not in summary(0.2, {name: each[:4] for name, each in errors.items()}, True)
    assert "mce" not in summary(0.2, {"snow": errors["snow"]}, True)


def test_the_summary_by_hand():
    found = summary(0.2, {"snow": [0.3, 0.5], "fog": [0.2, 0.2], "saturate": [1.0, 1.0]}, False)
    assert found == pytest.approx({
        "mean_corruption_error": 0.3, "clean_error": 0.2, "relative_robustness": 0.7 / 0.8,
        "error_snow": 0.4, "error_fog": 0.2, "error_saturate": 1.0,
    })  # fmt: skip
    assert summary(None, {"saturate": [0.5]}, False) == {"mean_corruption_error": 0.5, "error_saturate": 0.5}
    assert "relative_robustness" not in summary(1.0, {"fog": [1.0]}, False)


def test_the_table_shows_each_severity_and_alexnets_share():
    made = table({"snow": [0.1, 0.3], "saturate": [0.5, 0.5]}, (1, 5), True)
    assert made.head == ("error at severity", "1", "5", "mean", "of AlexNet's")
    assert made.rows == [
        ["snow", "10.0 %", "30.0 %", "20.0 %", "23.1 %"],
        ["saturate", "50.0 %", "50.0 %", "50.0 %", ""],
    ]
    assert len(table({"snow": [0.1]}, (3,), False).rows[0]) == 3
