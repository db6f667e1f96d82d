"""What is read of an encoder, against timm's own forward; and what learns in a copy of it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from models.config.recipe import Encoder, Optim, Recipe
from models.ema import EMA
from models.encoder.patches import IMAGENET
from models.encoder.vit import Size, build_encoder
from models.evaluate.evaluator import labels_of
from models.evaluate.few_shot_protocols.features import FeatureExtractor, FineTuned
from models.evaluate.few_shot_protocols.finetune_loop import FineTuning, train_on_shots
from models.evaluate.few_shot_protocols.shots import draw_shots
from models.methods.presets.small import digits_data
from models.optim.build import build_optimiser
from models.semiformer.model import Semiformer, Shape
from pipeline.errors import InputError
from pipeline.store.beton import open_beton

RECIPE = Recipe(None)


def method(pool="avg", ema=False, **more):
    torch.manual_seed(0)
    encoder = build_encoder(Size(32, 2, 2), image_size=16, patch=4, classes=10, pool=pool, **more)
    kept = EMA(encoder, 0.9) if ema else None
    if ema:
        for parameter in kept.module.parameters():
            parameter.add_(0.01)
    return SimpleNamespace(encoder=encoder, ema=kept, eval_encoder=kept.module if ema else encoder)


def images(n=5):
    return torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def tokens(encoder):
    """By timm's own forward, on pixels normalised here: [5, 17, 32]."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET.mean, IMAGENET.std))
    return encoder.eval().forward_features((images() / 255 - mean) / std)


@pytest.mark.parametrize(("own", "pool", "read"), [
    ("avg", "recipe", "avg"), ("token", "recipe", "token"), ("avg", "token", "token"), ("token", "avg", "avg"),
])  # fmt: skip
@torch.no_grad()
def test_the_features_are_the_recipes_pooling_or_the_one_asked_for(own, pool, read):
    made = method(own)
    expected = tokens(made.encoder)[:, 0] if read == "token" else tokens(made.encoder)[:, 1:].mean(1)
    extractor = FeatureExtractor(made, RECIPE, pool).eval()
    assert torch.allclose(extractor(images()), expected, atol=1e-5)
    assert extractor.width == 32
    assert made.encoder.global_pool == own


@pytest.mark.parametrize("pool", ["token", "avg"])
@torch.no_grad()
def test_a_norm_behind_the_pooling_is_part_of_what_is_read(pool):
    made = method(pool, fc_norm=True)
    for each in made.encoder.fc_norm.parameters():
        torch.nn.init.normal_(each)
    expected = made.encoder.forward_head(tokens(made.encoder), pre_logits=True)  # timm's
    assert torch.allclose(FeatureExtractor(made, RECIPE).eval()(images()), expected, atol=1e-5)


@torch.no_grad()
def test_the_average_is_read_where_there_is_one():
    made = method(ema=True)
    found = FeatureExtractor(made, RECIPE).eval()(images())
    assert torch.allclose(found, tokens(made.ema.module)[:, 1:].mean(1), atol=1e-5)
    assert not torch.allclose(found, tokens(made.encoder)[:, 1:].mean(1), atol=1e-3)


def test_all_can_be_trained_whatever_the_run_froze_but_fixed_positions_stay():
    frozen = method()
    frozen.encoder.requires_grad_(False)  # as a probe's
    assert all(parameter.requires_grad for parameter in FeatureExtractor(frozen, RECIPE).parameters())
    extractor = FeatureExtractor(method(ema=True, position="sincos"), Recipe(None, encoder=Encoder(position="sincos")))
    fixed = [name for name, parameter in extractor.named_parameters() if not parameter.requires_grad]
    assert fixed == ["encoder.pos_embed"]


@torch.no_grad()
def test_of_a_semiformer_both_streams_are_read():
    torch.manual_seed(0)
    encoder = Semiformer(Shape(32, 3, 2, channels=16), patch=16, grid=(2, 2), classes=4)
    made = SimpleNamespace(encoder=encoder, eval_encoder=encoder)
    extractor = FeatureExtractor(made, RECIPE).eval()
    shown = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    found = extractor(shown)
    assert found.shape == (2, extractor.width)
    conv = encoder.head["conv"].in_features
    expected = encoder.eval()(shown)
    assert torch.allclose(encoder.head["conv"](found[:, :conv]), expected[0], atol=1e-5)
    assert torch.allclose(encoder.head["transformer"](found[:, conv:]), expected[1], atol=1e-5)
    with pytest.raises(InputError, match="read as its two heads do"):
        FeatureExtractor(made, RECIPE, "avg")


def test_layers_decay_as_in_a_method_and_the_new_classifier_learns_at_the_whole_rate():
    tuned = FineTuned(FeatureExtractor(method(), RECIPE), 3, 0)
    groups = build_optimiser(tuned, Optim(layer_decay=0.5)).param_groups
    scale = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    named = dict(tuned.named_parameters())
    assert scale[id(named["encoder.patch_embed.proj.weight"])] == 0.125
    assert scale[id(named["encoder.blocks.0.mlp.fc1.weight"])] == 0.25
    assert scale[id(named["encoder.blocks.1.mlp.fc1.weight"])] == 0.5
    assert scale[id(named["classifier.1.weight"])] == 1
    assert len(scale) == len(named)


@pytest.fixture(scope="module")
def learned(digits):
    """A toy network tuned on 4 shots of each digit, one left as it was, and what it saw."""
    torch.manual_seed(3)
    data = replace(digits_data(), root=str(digits), backend="ffcv", threads=1)
    beton = open_beton(digits / "train.beton")
    extractor = FeatureExtractor(method(), RECIPE)
    before = {name: tensor.clone() for name, tensor in extractor.state_dict().items()}
    shots, tuning = draw_shots(labels_of(beton), 4, 0), FineTuning(epochs=15, batch=8, layer_decay=0.9, view="evaluate")

    def one(lr: float) -> FineTuned:
        model = FineTuned(extractor, 10, 0)
        train_on_shots(model, data, beton, shots, tuning, lr, 0)
        return model.eval()

    return SimpleNamespace(
        one=one, tuned=one(3e-3), extractor=extractor, before=before, shots=shots, beton=beton, data=data
    )


def test_tuning_learns_its_shots_and_leaves_the_encoder_that_it_copied(learned):
    from pipeline.evaluation.sweep import sweep

    (seen,) = sweep(learned.data, learned.beton, torch.device("cpu"), learned.shots.ids, 64)
    right = learned.tuned(seen).argmax(1).numpy() == learned.shots.labels
    assert right.mean() > 0.8
    after = learned.extractor.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in learned.before.items())


def test_tuning_is_a_function_of_its_arguments_and_without_a_rate_nothing_moves(learned):
    one, still = learned.tuned.state_dict(), learned.one(0.0).state_dict()
    torch.rand(7)
    again = learned.one(3e-3).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert all(torch.equal(still[f"extractor.{name}"], tensor) for name, tensor in learned.before.items())
    assert not torch.equal(one["encoder.patch_embed.proj.weight"], still["encoder.patch_embed.proj.weight"])
