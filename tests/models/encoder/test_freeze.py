"""Partial fine-tuning: what is trained, what it costs, and that the rest stays as it was."""

import re

import pytest
import torch

from models.bench.flops import GroupCost, block_flops, classifier_flops, count, encoder_flops
from models.checkpoint import save_load
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


@pytest.mark.parametrize("part", ["head", "half", "1", "bitfit", "lora"])
def test_what_is_frozen_stays_bitwise_as_it_was_loaded_through_steps_decay_average_and_a_stop(
    part, trained_mae, tiny, tmp_path
):
    flags = [f"--run.start={trained_mae}", f"--encoder.adapt={part}", "--optim.weight-decay=0.5",
             "--encoder.drop-path=0.2", "--method.mixup=0.8", "--method.cutmix=1"]  # fmt: skip
    assert tiny("finetune:digits", tmp_path / "run", *flags, "--run.stop-step=5") == 75
    assert tiny("finetune:digits", tmp_path / "run", *flags) == 0
    before = {k: v for k, v in weights(trained_mae).items() if k.startswith("encoder.") and ".norm." not in k}
    after = weights(tmp_path / "run")
    pattern = {"head": "^$", "half": r"\.1\.(norm2|mlp)", "1": r"blocks\.1", "bitfit": "bias$", "lora": "^$"}[part]
    frozen = {name for name in before if not re.search(pattern, name)}
    assert len(frozen) == {"head": 28, "half": 22, "1": 16, "bitfit": 15, "lora": 28}[part]
    for prefix in ("encoder.", "ema.module."):
        held = {name: after[name.replace("encoder.", prefix)] for name in before}
        assert same({n: before[n] for n in frozen}, {n: held[n] for n in frozen})
        assert all(not torch.equal(before[name], held[name]) for name in before.keys() - frozen)
    moments = save_load.load(tmp_path / "run" / "last.pt")["optimiser"]["state"]
    assert len(moments) == 4 + {"head": 0, "half": 6, "1": 12, "bitfit": 13, "lora": 16}[part]  # 4: norm, classifier
    if part in ("half", "lora"):
        assert tiny("finetune:digits", tmp_path / "whole", *flags) == 0
        assert same(weights(tmp_path / "whole"), after)


def test_bitfit_trains_every_bias_and_paths_drop_as_in_training_everything():
    vit = method_of("--encoder.adapt=bitfit", "--encoder.drop-path=0.3").encoder
    names = {name for name, parameter in vit.named_parameters() if parameter.requires_grad}
    biases = {name for name in vit.state_dict() if name.endswith(".bias")}
    assert len(biases) == 1 + 3 * 6 + 2
    assert names == biases | {"fc_norm.weight", "head.weight"}
    assert vit.blocks[0].drop_path1.training
    assert vit.blocks[2].drop_path2.training


@pytest.mark.parametrize("name", ["supervised:digits", "semi_mae:digits", "mae:digits"])
def test_all_is_trained_by_default(name):
    method = method_of(name=name)
    frozen = {part for part, parameter in method.named_parameters() if not parameter.requires_grad}
    assert all(part.startswith("ema.") for part in frozen)


def kept_bytes(adapt: str, images: int) -> int:
    """Bytes of activations that a forward pass of the encoder keeps for the backward pass, weights apart."""
    method = method_of(f"--encoder.adapt={adapt}")
    vit, held = method.encoder, {}
    weights = {each.untyped_storage().data_ptr() for each in vit.state_dict(keep_vars=True).values()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    shown = torch.zeros(images, 3, 16, 16)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        classify(vit, encode(vit, [FullImages(shown)]))
    return sum(held.values())


def test_nothing_of_a_frozen_prefix_is_kept_for_the_backward_pass():
    grown = {adapt: kept_bytes(adapt, 64) - kept_bytes(adapt, 32) for adapt in ("full", "3", "2", "1", "half", "head")}
    block = grown["3"] - grown["2"]
    assert grown["2"] - grown["1"] == block > 0
    assert grown["3"] < grown["full"]
    assert 0 < grown["half"] < grown["1"]
    assert grown["head"] < 0.05 * block


@pytest.mark.parametrize("adapt", ["lora", "bitfit", "1", "half", "head"])
def test_a_probe_trains_no_more_than_its_classifier_and_says_so(adapt):
    with pytest.raises(InputError, match=rf"encoder.adapt is {adapt}, and a probe trains the classifier alone"):
        method_of(f"--encoder.adapt={adapt}", name="probe:digits")


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("semiformer:digits", ["--encoder.adapt=lora"], "encoder.adapt is lora, which a Semiformer does not have"),
        ("finetune:digits", ["--encoder.lora-rank=4"], "encoder.lora_rank is set, and encoder.adapt is full, which"),
        ("finetune:digits", ["--encoder.adapt=2", "--encoder.lora-alpha=4"], "encoder.lora_alpha is set, and encoder"),
        ("finetune:digits", ["--encoder.adapt=lora", "--encoder.lora-rank=0"], "lora_rank is 0, expected at least 1"),
        ("finetune:digits", ["--encoder.adapt=lora", "--encoder.lora-alpha=0"], "lora_alpha is 0, expected above 0"),
        ("finetune:digits", ["--encoder.adapt=lora", "--encoder.lora-layers", "qkv", "qkv"], "expected different"),
        ("finetune:digits", ["--encoder.adapt=lora", "--encoder.lora-layers"], "lora_layers is empty, expected"),
    ],
)
def test_what_cannot_be_adapted_is_refused_in_a_line(name, flags, said):
    with pytest.raises(InputError, match=said):
        method_of(*flags, name=name)
