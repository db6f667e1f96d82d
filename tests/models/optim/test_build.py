import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from models.config.recipe import Optim
from models.encoder.vit import Size, build_encoder
from models.optim.build import build_optimiser, lr_scale
from models.optim.update import set_lr
from pipeline.errors import InputError


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=0)
        self.head = nn.Linear(192, 4)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 8))


def decay_of(method: nn.Module, made: torch.optim.Optimizer) -> dict[str, float]:
    names = {parameter: name for name, parameter in method.named_parameters()}
    return {names[held]: group["weight_decay"] for group in made.param_groups for held in group["params"]}


def test_vectors_biases_and_tokens_do_not_decay() -> None:
    method = Toy()
    decays = decay_of(method, build_optimiser(method, Optim(weight_decay=0.3)))
    assert decays.keys() == dict(method.named_parameters()).keys()
    free = {name for name, decay in decays.items() if decay == 0}
    by_hand = {"encoder.cls_token", "encoder.pos_embed", "mask_token"}
    by_hand |= {name for name in decays if name.endswith(".bias") or ".norm" in name}
    assert free == by_hand
    assert set(decays.values()) == {0.0, 0.3}


def test_tokens_decay_in_mae_pre_training() -> None:
    method = Toy()
    decays = decay_of(method, build_optimiser(method, Optim(weight_decay=0.3, decay_tokens=True)))
    assert decays["encoder.cls_token"] == decays["mask_token"] == 0.3
    assert decays["encoder.blocks.0.norm1.weight"] == decays["encoder.patch_embed.proj.bias"] == 0


def test_frozen_parameters_are_left_out() -> None:
    method = Toy()
    method.encoder.pos_embed.requires_grad_(False)
    assert "encoder.pos_embed" not in decay_of(method, build_optimiser(method, Optim()))
    with pytest.raises(InputError, match="nothing to train"):
        build_optimiser(method.requires_grad_(False), Optim())


@pytest.mark.parametrize(
    ("name", "power"),
    [
        ("encoder.cls_token", 4),
        ("encoder.pos_embed", 4),
        ("encoder.patch_embed.proj.weight", 4),
        ("encoder.blocks.0.attn.qkv.weight", 3),
        ("encoder.blocks.1.norm1.bias", 2),
        ("encoder.blocks.2.mlp.fc2.bias", 1),
        ("encoder.norm.weight", 0),
        ("head.weight", 0),
    ],
)
def test_layer_decay_follows_the_hand_worked_powers(name: str, power: int) -> None:
    assert lr_scale(name, Toy(), 0.65) == pytest.approx(0.65**power)  # d^(depth + 1 - i), depth 3
    assert lr_scale(name, Toy(), None) == 1


def test_layer_decay_of_the_encoder_is_timms_but_for_the_last_norm() -> None:
    method = Toy()
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=4)
    names = {parameter: name for name, parameter in theirs.named_parameters()}
    groups = param_groups_layer_decay(theirs, 0.05, theirs.no_weight_decay(), layer_decay=0.75)
    expected = {names[held]: (group["lr_scale"], group["weight_decay"]) for group in groups for held in group["params"]}
    names = {parameter: name.removeprefix("encoder.") for name, parameter in method.named_parameters()}
    made = build_optimiser(method, Optim(layer_decay=0.75, weight_decay=0.05))
    ours = {
        names[held]: (group["lr_scale"], group["weight_decay"])
        for group in made.param_groups
        for held in group["params"]
    }
    del ours["mask_token"]
    assert ours.keys() == expected.keys()
    for name, pair in ours.items():
        if not name.startswith("norm."):  # timm slows the last norm with the last block; MAE's lr_decay.py does not
            assert pair == pytest.approx(expected[name]), name


@pytest.mark.parametrize(
    ("position", "name", "power"),
    [
        ("irpe", "encoder.blocks.1.attn.rpe_k.lookup_table_weight", 2),
        ("block_bias", "encoder.blocks.1.attn.relative_position_bias_table", 2),
        ("bias", "encoder.rel_pos_bias.relative_position_bias_table", 0),  # BEiT's get_num_layer_for_vit: as the head
    ],
)
def test_tables_of_relative_positions_decay_and_learn_at_the_rate_of_their_block(position, name, power) -> None:
    method = nn.Module()
    method.encoder = build_encoder(
        Size(32, 3, 4), image_size=32, patch=8, classes=0, position=position, layer_scale=0.1
    )
    made = build_optimiser(method, Optim(layer_decay=0.5, weight_decay=0.3))
    assert decay_of(method, made)[name] == 0.3
    assert decay_of(method, made)["encoder.blocks.0.ls1.gamma"] == 0
    assert lr_scale(name, method, 0.5) == 0.5**power


def test_setting_the_rate_gives_each_group_its_share_as_a_number() -> None:
    made = build_optimiser(Toy(), Optim(layer_decay=0.5))
    set_lr(made, 0.2)
    assert {group["lr"] for group in made.param_groups} == {0.2 * 0.5**power for power in range(5)}
    assert all(type(group["lr"]) is float for group in made.param_groups)
    assert made.defaults["fused"]


@pytest.mark.parametrize(("kind", "trust"), [("lars", 0.002), ("sgd", None)])
def test_every_kind_has_the_same_groups_and_rates(kind: str, trust: float | None) -> None:
    method, optim = Toy(), Optim(kind=kind, momentum=0.8, trust=0.002, layer_decay=0.5, weight_decay=0.3)
    made, usual = build_optimiser(method, optim), build_optimiser(method, Optim(layer_decay=0.5, weight_decay=0.3))
    assert decay_of(method, made) == decay_of(method, usual)
    set_lr(made, 0.2)
    set_lr(usual, 0.2)
    assert [group["lr"] for group in made.param_groups] == [group["lr"] for group in usual.param_groups]
    assert {(group["momentum"], group["trust"]) for group in made.param_groups} == {(0.8, trust)}
