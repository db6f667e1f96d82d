"""A classifier of timm as a network: timm's own forward and layers, one pass for all groups, and what it refuses."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from models.config.recipe import Encoder, Optim
from models.config.resolve import resolve
from models.encoder.build import encoder_of, network_of
from models.encoder.patches import IMAGENET, as_normalised
from models.encoder.timm_classifier import TimmClassifier, check_fields, is_classifier
from models.encoder.vit import (
    FullImages,
    SelectedImages,
    VisiblePatches,
    classifier_inputs,
    classify,
    encode,
    eval_logits,
)
from models.factory import method_class
from models.method import StepInfo
from models.optim.build import build_optimiser, lr_scale
from pipeline.batch import Batch, Labelled
from pipeline.errors import InputError

SMALL, NO_SIZE = "test_resnet", ["--encoder.width", "None", "--encoder.depth", "None", "--encoder.heads", "None"]


def images(n: int, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    ).contiguous(memory_format=torch.channels_last)


def network(name: str = SMALL, **more) -> TimmClassifier:
    torch.manual_seed(0)
    return TimmClassifier(name, 10, size=32, **more)


def test_a_name_is_a_classifiers_unless_its_patches_can_be_packed():
    assert [is_classifier(name) for name in ("resnet50", "resnet50.a1_in1k", "convnext_tiny", SMALL)] == [True] * 4
    vits = ("vit_small_patch16_224", "deit_small_patch16_224", "vit_small_patch16_dinov3", "semiformer_small", None)
    assert [is_classifier(name) for name in vits] == [False] * 5


@pytest.mark.parametrize("name", [SMALL, "test_convnext"])
def test_scores_and_features_are_timms_own(name):
    ours = network(name)
    theirs = timm.create_model(name, num_classes=10).eval()
    theirs.load_state_dict(ours.net.state_dict())
    pixels = as_normalised(images(5), IMAGENET)
    assert torch.allclose(eval_logits(ours, images(5)), theirs(pixels), atol=1e-5)
    theirs.reset_classifier(0)
    ours.eval()
    (features,) = classifier_inputs(ours, encode(ours, [FullImages(images(5))]))
    assert features.shape == (5, ours.num_features)
    assert torch.allclose(features, theirs(pixels), atol=1e-5)
    assert ours.head.in_features == ours.num_features
    assert f"{ours.head_name}.weight" in ours.net.state_dict()


def test_groups_share_the_statistics_of_one_pass_and_rows_choose_images():
    ours, theirs = network(), network()
    rows = torch.tensor([3, 1])
    both = torch.cat([images(4), images(5, seed=1)[rows]])
    expected = theirs(both)
    first, second = classify(ours, encode(ours, [FullImages(images(4)), SelectedImages(images(5, seed=1), rows)]))
    assert torch.allclose(torch.cat([first, second]), expected, atol=1e-5)
    assert torch.allclose(ours.net.bn1.running_mean, theirs.net.bn1.running_mean)
    apart = network()(images(4))
    assert not torch.allclose(first, apart, atol=1e-3)  # batch norm sees the other group, too


def test_patches_are_refused_and_normalised_floats_are_not():
    with pytest.raises(InputError, match="test_resnet reads whole images, and patches were asked for; name a ViT"):
        encode(network(), [VisiblePatches(images(2), torch.zeros(2, 1, dtype=torch.int64))])
    floats = as_normalised(images(2), IMAGENET)
    assert torch.allclose(eval_logits(network(), floats), eval_logits(network(), images(2)), atol=1e-6)


@pytest.mark.parametrize("name", [SMALL, "test_convnext"])
def test_layers_learn_at_timms_shares_of_the_rate(name):
    recipe = resolve("supervised:digits_resnet", ["--encoder.name", name, "--encoder.stem", "own", "--data.size", "32"])
    torch.manual_seed(0)
    method = method_class(recipe)(recipe, 10)
    groups = param_groups_layer_decay(method.encoder.net, layer_decay=0.6)
    theirs = {id(each): group["lr_scale"] for group in groups for each in group["params"]}
    ours = {id(each): lr_scale(key, method, 0.6) for key, each in method.named_parameters() if each.requires_grad}
    assert ours == pytest.approx(theirs)
    assert len(set(ours.values())) > 3
    groups = build_optimiser(method, Optim()).param_groups
    still = {id(each) for group in groups if group["weight_decay"] == 0 for each in group["params"]}
    assert still == {id(each) for each in method.encoder.net.parameters() if each.ndim < 2}


def test_a_small_stem_keeps_the_size_of_the_image_until_the_second_stage():
    own, small = network(), network(stem="small")
    maps = [encode(each.eval(), [FullImages(images(2))])[0].shape[-1] for each in (own, small)]
    assert maps == [1, 4]
    assert isinstance(small.net.maxpool, nn.Identity)
    torch.manual_seed(0)
    whole = TimmClassifier("resnet18", 10, size=32, stem="small")  # its first kernel is of 7 x 7
    assert whole.net.conv1.weight.shape == (64, 3, 3, 3)
    with pytest.raises(InputError, match=r"encoder\.stem small is that of a ResNet, and test_convnext is a ConvNeXt"):
        network("test_convnext", stem="small")
    with pytest.raises(InputError, match=r"encoder\.stem small is that of a ResNet, and the encoder is a ViT"):
        encoder_of(resolve("supervised:digits", ["--encoder.stem", "small"]), 10)


def test_images_of_any_size_and_models_of_a_fixed_one():
    torch.manual_seed(0)
    assert eval_logits(TimmClassifier(SMALL, 10, size=(40, 52)), images(2, 40)[..., :36]).shape == (2, 10)
    with torch.device("meta"):
        assert TimmClassifier("swin_tiny_patch4_window7_224", 7, size=96).arguments == {"img_size": (96, 96)}
    assert network().arguments == {}


def on_meta() -> None:
    with torch.device("meta"):
        TimmClassifier("inception_v3", 10, size=16)


REFUSED = {
    "paths that cannot be dropped": (
        lambda: network("vgg11", drop_path=0.1), "timm cannot build vgg11 with num_classes, drop_path_rate"
    ),
    "too small an image": (on_meta, "inception_v3 does not take images of 16"),
    "a ViT's fields": (
        lambda: check_fields(Encoder("resnet50", patch=4, pool="avg", position="sincos", qkv_bias=False)),
        "encoder.patch is 4, encoder.position is sincos, encoder.pool is avg, encoder.qkv_bias is False, which "
        "resnet50 does not have; add --encoder.patch 16 --encoder.position learned --encoder.pool token "
        "--encoder.qkv-bias",
    ),
    "blocks to adapt": (lambda: check_fields(Encoder("resnet50", adapt=2)), "encoder.adapt is 2, which is for the blo"),
    "sharding": (
        lambda: network_of(resolve("supervised:digits_resnet", ["--run.shard"]), 10), "run.shard spreads the blocks of"
    ),
    "a method that reads patches": (
        lambda: method_class(r := resolve("semi_mae:digits", ["--encoder.name", "resnet50", *NO_SIZE]))(r, 10),
        "semi_mae:digits reads patches of a ViT, and resnet50 is none: it is built by timm.models.resnet; name a ViT",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", list(REFUSED))
def test_what_it_cannot_be_is_refused_in_a_line(what):
    build, said = REFUSED[what]
    with pytest.raises(InputError) as refusal:
        build()
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_more_than_one_row_of_scores_is_refused(monkeypatch):
    class Two(nn.Linear):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return super().forward(images.mean((2, 3))), images

    monkeypatch.setattr(timm, "create_model", lambda *_, **__: Two(3, 10))
    with pytest.raises(InputError, match=r"test_resnet: expected scores \[1, 10\] of an image, got tuple"):
        network()


def test_a_frozen_body_learns_nothing_and_its_statistics_stay():
    recipe = resolve("supervised:digits_resnet", ["--encoder.adapt", "head", "--optim.ema-decay", "None"])
    torch.manual_seed(0)
    method = method_class(recipe)(recipe, 10).train()
    trained = [name for name, each in method.named_parameters() if each.requires_grad]
    assert trained == ["encoder.net.fc.weight", "encoder.net.fc.bias"]
    before = {name: each.clone() for name, each in method.encoder.state_dict().items()}
    batch = Batch(0, Labelled(torch.arange(6), images(6, 16), torch.arange(6)), None)
    method(batch, StepInfo(0, False)).total.backward()
    optimiser = build_optimiser(method, recipe.optim)
    optimiser.param_groups[0]["lr"] = 0.1
    optimiser.step()
    moved = {name for name, each in method.encoder.state_dict().items() if not torch.equal(each, before[name])}
    assert moved == {"net.fc.weight"}
