"""Partial fine-tuning: what is trained, what it costs, and that the rest stays as it was."""

import re

import pytest
import torch

from models.bench.flops import GroupCost, block_flops, classifier_flops, count, encoder_flops
from models.config.recipe import Encoder
from models.encoder.freeze import adapt
from models.encoder.vit import FullImages, Size, build_encoder, classify, encode
from pipeline.errors import InputError
from tests.conftest import same, weights
from tests.models.methods.test_finetune import CLASSES, method_of

HEAD = {"norm", "fc_norm", "head"}
MLP = {"blocks.2.norm2", "blocks.2.mlp.fc1", "blocks.2.mlp.fc2"}


@pytest.fixture
def trained_mae(trained):
    return trained("mae:digits")


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        ("head", HEAD),
        ("half", HEAD | MLP),
        ("1", HEAD | {"blocks.2"}),
        ("2", HEAD | {"blocks.2", "blocks.1"}),
        ("3", HEAD | {"blocks.2", "blocks.1", "blocks.0"}),
        ("full", {""}),
    ],
)
def test_what_is_trained_is_what_is_asked_for_and_the_rest_drops_no_path(trained, expected):
    vit = method_of(f"--encoder.adapt={trained}", "--encoder.drop-path=0.3").encoder
    names = {name for name, parameter in vit.named_parameters() if parameter.requires_grad}
    assert names == {name for name, _ in vit.named_parameters() if any(name.startswith(part) for part in expected)}
    dropping = {name for name, part in vit.named_modules() if "drop_path" in name and part.training}
    learning = {name for name in vit.state_dict() if any(name.startswith(part) for part in expected)}
    for number in range(3):
        assert (f"blocks.{number}.drop_path1" in dropping) == (f"blocks.{number}.attn.qkv.weight" in learning)
        assert (f"blocks.{number}.drop_path2" in dropping) == (f"blocks.{number}.mlp.fc1.weight" in learning)


def test_more_blocks_than_there_are_are_refused_and_none_is_called_head():
    with pytest.raises(InputError, match="adapt is 4 blocks, the encoder has 3; set 3 or fewer, or full"):
        method_of("--encoder.adapt=4")
    with pytest.raises(InputError, match=r"encoder.adapt is 0, expected at least 1"):
        method_of("--encoder.adapt=0")


@pytest.mark.parametrize("trained", ["head", "half", 1, 2, 3])
def test_what_is_frozen_costs_a_forward_pass_and_no_more(trained):
    vit = build_encoder(Size(32, 3, 2), image_size=16, patch=4, classes=CLASSES, pool="avg", fc_norm=True).to("meta")
    adapt(vit, Encoder(adapt=trained))
    images = torch.empty(5, 3, 16, 16, device="meta")
    group = FullImages(images)
    forward = encoder_flops(vit, [GroupCost(5, 16, learns=False)])
    block = 5 * block_flops(17, 17, 32, 128)
    learned = {"head": 0, "half": 5 * 4 * 17 * 32 * 128}.get(trained) if isinstance(trained, str) else trained * block
    counted = count(lambda: classify(vit, encode(vit, [group]))[0].sum().backward())
    assert counted == forward + 2 * learned + classifier_flops(vit, 5)


@pytest.mark.parametrize("part", ["head", "half", "1"])
def test_what_is_frozen_stays_bitwise_as_it_was_loaded_through_steps_decay_average_and_a_stop(
    part, trained_mae, tiny, tmp_path
):
    flags = [f"--run.start={trained_mae}", f"--encoder.adapt={part}", "--optim.weight-decay=0.5",
             "--encoder.drop-path=0.2", "--method.mixup=0.8", "--method.cutmix=1"]  # fmt: skip
    assert tiny("finetune:digits", tmp_path / "run", *flags, "--run.stop-step=5") == 75
    assert tiny("finetune:digits", tmp_path / "run", *flags) == 0
    before = {k: v for k, v in weights(trained_mae).items() if k.startswith("encoder.") and ".norm." not in k}
    after = weights(tmp_path / "run")
    pattern = {"head": "^$", "half": r"\.1\.(norm2|mlp)", "1": r"blocks\.1"}[part]
    frozen = {name for name in before if not re.search(pattern, name)}
    assert len(frozen) == {"head": 28, "half": 22, "1": 16}[part]
    for prefix in ("encoder.", "ema.module."):
        held = {name: after[name.replace("encoder.", prefix)] for name in before}
        assert same({n: before[n] for n in frozen}, {n: held[n] for n in frozen})
        assert all(not torch.equal(before[name], held[name]) for name in before.keys() - frozen)
    if part == "half":
        assert tiny("finetune:digits", tmp_path / "whole", *flags) == 0
        assert same(weights(tmp_path / "whole"), after)
