import pytest

from models.reporting.stragglers import Stragglers


@pytest.mark.parametrize(
    ("usual_s", "slowest_s", "step_s", "lines"),
    [(0.10, 0.13, 0.3, 1), (0.10, 0.11, 0.3, 0), (0.010, 0.013, 0.3, 0), (0.10, 0.13, None, 0)],
)
def test_a_straggler_is_slow_several_times_running_and_by_an_amount_that_matters(
    usual_s: float, slowest_s: float, step_s: float | None, lines: int
) -> None:
    watch = Stragglers(("a", "a", "b", "b"))
    timing = watch.timing([usual_s, usual_s, slowest_s, usual_s], 100.0)
    assert timing["slowest_rank"] == 2
    assert timing["node_images_per_s"] == 50.0
    said = [watch.warning(timing, step_s) for _ in range(6)]
    assert [line is not None for line in said] == [False, False, bool(lines), False, False, False]
    assert said[2] is None or said[2].startswith("rank 2 on b holds up the others")
    even = watch.timing([usual_s] * 4, None)
    assert "node_images_per_s" not in even
    assert [watch.warning(each, step_s) for each in (timing, even, timing, timing, even)] == [None] * 5
