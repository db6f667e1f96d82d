"""A Semiformer's cost in closed form: torch's own count on meta tensors, and what is published of its ancestor."""

import pytest
import torch

from models.bench.costs import prepare
from models.bench.flops import count, decoder_flops
from models.bench.semiformer_flops import semiformer_flops, stream_flops
from models.config.resolve import resolve
from models.method import StepInfo
from models.semiformer.model import Semiformer, Shape, eval_logits

META = {"device": "meta"}


def build(shape: Shape, patch: int, grid: int) -> tuple[Semiformer, torch.Tensor]:
    with torch.device("meta"):
        model = Semiformer(shape, patch=patch, grid=(grid, grid), classes=10)
    return model, torch.empty(2, 3, patch * grid, patch * grid, **META)


CASES = [(Shape(), 16, 14), (Shape(48, 4, 3, 8), 8, 4), (Shape(16, 7, 2, 16), 4, 6)]


@pytest.mark.parametrize(("shape", "patch", "grid"), CASES)
def test_both_streams_cost_the_closed_form_exactly(shape, patch, grid):
    model, images = build(shape, patch, grid)
    assert count(lambda: eval_logits(model, images)) == semiformer_flops(model, 2, learns=False)
    assert count(lambda: sum(head.sum() for head in model(images)).backward()) == semiformer_flops(model, 2)


@pytest.mark.parametrize(("shape", "patch", "grid"), CASES)
def test_the_masked_stream_costs_its_visible_tokens_and_the_whole_stem(shape, patch, grid):
    model, images = build(shape, patch, grid)
    visible = torch.empty(2, 5, dtype=torch.int64, **META)
    counted = count(lambda: model.visible_tokens(images, visible).sum().backward())
    assert counted == stream_flops(model, 2, 5)


def test_a_whole_step_is_the_teachers_pass_both_streams_on_labelled_and_strong_images_and_the_decoder():
    recipe = resolve("semiformer:in1k_10pct_mae", ["--encoder.drop-path=0", "--data.ratio=1"])
    method, batch = prepare(recipe, 4, "meta")  # 2 labelled images, 2 unlabelled ones
    expected = (
        semiformer_flops(method.encoder, 2, learns=False)
        + semiformer_flops(method.encoder, 2 + 2)
        + stream_flops(method.encoder, 2, visible=49)
        + decoder_flops(method.branch.mae.decoder, 2, visible=49, predicted=147)
    )
    assert count(lambda: method(batch, StepInfo(0, labels_only=False)).total.backward()) == expected


def test_coupled_as_its_ancestor_it_costs_what_is_published_of_that():
    """Conformer-S: 10.6 GMACs and 37.7 M parameters (its README). It couples at the bottlenecks, a quarter of the
    channels, and projects all cells of a map before it pools them; nothing else differs."""
    with torch.device("meta"):
        small = Semiformer(Shape(), patch=16, grid=(14, 14), classes=1000)
    macs, parameters = semiformer_flops(small, 1, learns=False) / 2, sum(p.numel() for p in small.parameters())
    assert macs / 1e9 == pytest.approx(11.05, abs=0.005)
    for stage in small.stages:
        down, up = stage.down.project.weight.numel(), stage.up.project.weight.numel()
        macs += 196 * (down / 4 * stage.down.pool**2 - down + up / 4 - up)
        parameters -= (down + up) * 3 / 4 + 3 * stage.up.norm.num_features * 3 / 4
    assert round(macs / 1e9, 1) == 10.6
    assert round(parameters / 1e6, 1) == 37.7
