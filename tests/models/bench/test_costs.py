"""What a pre-training step costs: counts that equal the closed form and the paper's ratios, and a timing that runs."""

import json
from dataclasses import replace

import pytest
import torch

from models.bench import costs
from models.bench.costs import (
    DEEP,
    MASK_TOKENS,
    SHALLOW,
    SUPMAE,
    Comparison,
    Options,
    check,
    gflops,
    main,
    measure,
    recipes,
    report,
)
from models.bench.flops import GroupCost, decoder_flops, encoder_flops
from models.config.sweep import changed
from pipeline.errors import InputError

TINY = Options(counted=(), timed=("vit_tiny_patch16_224",), images=2, rounds=1, device="cpu", precision="bf16")
SMALL = {"encoder.width": 64, "encoder.depth": 1, "encoder.heads": 4, "encoder.name": None, "data.size": 32,
         "encoder.patch": 8, "method.reconstruct.width": 32, "method.reconstruct.heads": 4}  # fmt: skip


ALL = recipes


def small(model: str) -> dict:
    return {name: changed(recipe, SMALL) for name, recipe in ALL(model).items()}


@pytest.fixture
def on_small_ones(monkeypatch):
    monkeypatch.setattr(costs, "recipes", small)


def closed_form(model: str, name: str) -> float:
    """FLOPs of an image."""
    method, _ = costs.prepare(recipes(model)[name], 2, "meta")
    seen = 196 if name == MASK_TOKENS else 49
    flops = encoder_flops(method.encoder, [GroupCost(1, seen)])
    return flops + decoder_flops(method.branch.decoder, 1, visible=seen, predicted=147)


@pytest.mark.parametrize("name", [MASK_TOKENS, DEEP, SHALLOW])
def test_counts_are_the_closed_form(name):
    assert gflops(recipes("vit_tiny_patch16_224")[name]) == pytest.approx(
        closed_form("vit_tiny_patch16_224", name) / 1e9, rel=1e-12
    )


def test_vit_l_with_mask_tokens_costs_the_papers_3_3_times_the_flops():
    with_tokens, without = (closed_form("vit_large_patch16_224", name) for name in (MASK_TOKENS, DEEP))
    assert with_tokens / without == pytest.approx(3.3, abs=0.05)


def test_a_measurement_holds_every_method_and_its_ratios(on_small_ones):
    cost = measure("vit_tiny_patch16_224", TINY)
    assert set(cost.gflops) == set(cost.seconds) == {MASK_TOKENS, DEEP, SHALLOW, SUPMAE}
    assert cost.fewer_flops[MASK_TOKENS] == cost.faster[MASK_TOKENS] == 1
    assert cost.fewer_flops[SHALLOW] == cost.gflops[MASK_TOKENS] / cost.gflops[SHALLOW] > cost.fewer_flops[DEEP] > 1
    assert all(seconds > 0 for seconds in cost.seconds.values())
    text = report(cost)
    assert text.count("faster") == text.count("GFLOP") == 4
    assert "x the time" in text


def test_what_is_not_timed_is_counted_alone_also_as_json(on_small_ones, monkeypatch, capsys):
    words = "--counted vit_tiny_patch16_224 --timed --device cpu --json"
    monkeypatch.setattr("sys.argv", ["costs", *words.split()])
    main()
    found = json.loads(capsys.readouterr().out)
    assert found["where"]["torch"] == torch.__version__
    assert found["costs"][0]["fewer_flops"][MASK_TOKENS] == 1
    assert found["costs"][0]["seconds"] is None
    assert "faster" not in report(Comparison(**found["costs"][0]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (replace(TINY, rounds=0), "--rounds is 0, expected at least 1"),
        (replace(TINY, images=1), "--images is 1, expected at least 2"),
        (replace(TINY, device="cuda"), "use --device cpu"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, said, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check(TINY)
    with pytest.raises(InputError, match=said):
        check(options)


def test_an_encoder_whose_name_says_no_patch_is_refused():
    assert costs.patch_of("vit_huge_patch14_224") == 14
    with pytest.raises(InputError, match="got 'resnet50'"):
        costs.patch_of("resnet50")
