"""Which rows belong to whom."""

import pytest
import torch

from models.encoder.layout import Layout, paired_runs

LAYOUT = Layout(((2, 3), (0, 3), (1, 3), (2, 2)))


def test_split_gives_each_group_its_rows_without_copying():
    packed = torch.arange(26.0).view(13, 2)
    groups = LAYOUT.split(packed)
    assert [tuple(group.shape) for group in groups] == [(2, 3, 2), (0, 3, 2), (1, 3, 2), (2, 2, 2)]
    assert torch.equal(torch.cat([group.flatten(0, 1) for group in groups]), packed)
    assert groups[0].data_ptr() == packed.data_ptr()


def test_neighbours_of_equal_length_are_one_run_and_empty_groups_none():
    assert LAYOUT.runs() == ((3, 3), (2, 2))
    assert Layout(((0, 3),)).runs() == ()
    # equal keys but other queries cannot share a call
    assert paired_runs(LAYOUT.trimmed((1, 1, 3, 2)), LAYOUT) == [(2, 1, 3), (1, 3, 3), (2, 2, 2)]


def test_per_token_repeats_each_sample_for_its_tokens():
    sample = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]])
    assert LAYOUT.per_token(sample).flatten().tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("layout", [LAYOUT, Layout(((0, 7),)), Layout(((4, 1),))])
def test_starts_are_the_running_sum_of_lengths(layout):
    lengths = [tokens for samples, tokens in layout.shapes for _ in range(samples)]
    expected = [sum(lengths[:sample]) for sample in range(len(lengths) + 1)]
    starts = layout.cu_seqlens(torch.device("cpu"))
    assert starts.dtype == torch.int32
    assert starts.tolist() == expected
    assert (layout.rows, layout.samples, layout.longest) == (sum(lengths), len(lengths), max(lengths, default=0))


def test_starts_first_asked_for_in_inference_mode_can_still_be_trained_with():
    layout = Layout(((5, 11),))
    with torch.inference_mode():
        layout.cu_seqlens(torch.device("cpu"))
    assert not layout.cu_seqlens(torch.device("cpu")).is_inference()
