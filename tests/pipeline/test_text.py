"""How numbers are written for people: as the papers' tables do, by hand."""

import pytest

from pipeline.text import count, is_share, line, measured, number, percent, points, some, table


def test_shares_are_percent_with_one_decimal() -> None:
    assert [percent(share) for share in (0, 0.0004, 0.51, 1)] == ["0.0 %", "0.0 %", "51.0 %", "100.0 %"]
    assert percent(0.75, decimals=0) == "75 %"


def test_several_are_mean_sample_deviation_and_how_many() -> None:
    """0.90, 0.92, 0.94: the deviation is 0.02, by n - 1."""
    assert percent(0.90, 0.92, 0.94) == "92.0 ± 2.0 % (3)"
    assert number(0.010, 0.012, 0.014) == "0.012 ± 0.002 (3)"
    assert number(10_000, 12_000) == "11,000 ± 1,414 (2)"


def test_differences_of_shares_are_points_with_their_sign() -> None:
    assert [points(each) for each in (0.01, -0.0004, 0)] == ["+1.0 points", "-0.0 points", "+0.0 points"]


@pytest.mark.parametrize(
    ("n", "noun", "said"),
    [(0, "image", "0 images"), (1, "image", "1 image"), (1197, "image", "1,197 images"), (2, "class", "2 classes"),
     (1, "class", "1 class"), (3, "box", "3 boxes"), (2, "batch", "2 batches"), (2, "epoch", "2 epochs")],
)  # fmt: skip
def test_one_of_a_thing_has_no_plural(n: int, noun: str, said: str) -> None:
    assert count(n, noun) == said


def test_a_plural_of_another_ending_is_given() -> None:
    assert [count(n, "copy", "copies") for n in (1, 2)] == ["1 copy", "2 copies"]


@pytest.mark.parametrize(
    ("value", "said"), [(0.0123456, "0.01235"), (1.5, "1.5"), (360, "360"), (50_000.0, "50,000"), (1.0e-6, "1e-06")]
)
def test_numbers_have_four_digits_and_no_exponent_where_they_are_large(value: float, said: str) -> None:
    assert number(value) == said


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("top1", 0.512, "51.2 %"), ("nll", 0.512, "0.512"), ("mse_0.75", 0.02, "0.02"), ("images", 1.0, "1"),
     ("mce", 1.2, "1.2"), ("train_gflops", 0.1, "0.1"), ("journal_wait_share", 0.031, "3.1 %"),
     ("top1_difference", 0.0123, "+1.2 points"), ("top1_difference_low", -0.5, "-50.0 points"),
     ("top1_mcnemar_p", 0.03, "0.03"), ("box_ap_small", float("nan"), "–")],
)  # fmt: skip
def test_what_was_measured_is_a_share_by_its_name_and_its_range(name: str, value: float, said: str) -> None:
    assert measured(name, value) == said


def test_of_a_column_one_number_above_1_makes_none_a_share() -> None:
    assert is_share("top1", [0.0, 1.0])
    assert not is_share("x", [0.5, 1.5])


def test_a_table_has_a_rule_under_its_head_and_a_bar_in_a_cell_ends_no_cell() -> None:
    assert table([("a", "b"), ("x|y", "1")]) == "| a | b |\n| --- | ---: |\n| x/y | 1 |\n"
    assert table([("a",)]) + line(["1"]) == "| a |\n| --- |\n| 1 |"


def test_an_aligned_table_has_columns_of_equal_width_with_numbers_to_the_right() -> None:
    lines = table([("run", "b"), ("mae|1", "10.0 %")], aligned=True).splitlines()
    assert lines == ["| run   |      b |", "| ----- | -----: |", "| mae/1 | 10.0 % |"]


def test_a_few_names_and_that_there_are_more() -> None:
    assert [some(names) for names in ("", "a", "abc", "abcd")] == ["", "a", "a, b, c", "a, b, c, ..."]
