"""Semi-MAE and SupMAE with every masked branch: the sum of their terms, each from a forward of its own."""

import pytest
import torch
import torch.nn.functional as F

from models.config.resolve import resolve
from models.encoder.vit import evaluating
from models.factory import method_class
from models.masked.build import BRANCHES
from models.method import StepInfo
from pipeline import rng
from pipeline.batch import Batch, Labelled, Unlabelled
from pipeline.views import masks
from tests.models.masked.branch_cases import assert_same, images_of, moved, tokens_of

LATER = StepInfo(100, labels_only=False)
TINY = ["--encoder.width=32", "--encoder.depth=2", "--encoder.heads=2"]
RECIPES = {"mae": "semi_mae:digits", "lomar": "semi_mae:digits_lomar", "simmim": "semi_mae:digits_simmim"}


def method_of(name: str, *flags: str):
    torch.manual_seed(0)
    recipe = resolve(name, [*TINY, *flags])
    return moved(method_class(recipe)(recipe, 10)), recipe


def batch_of(mask, n: int = 4, m: int = 6) -> Batch:
    """As the data path hands it out, with this mask."""
    ids = [
        torch.from_numpy(part)
        for part in masks.draw(mask, rng.keys(0, 0, range(n + m), rng.MASK), 4)
        if part is not None
    ]
    visible, hidden = ids if len(ids) == 2 else (ids[0], None)
    images = images_of(n + 2 * m)
    first, second = (None, None) if hidden is None else (hidden[:n], hidden[n:])
    labelled = Labelled(torch.arange(n), images[:n], torch.arange(n), visible[:n], first)
    weak, strong = images[n:].chunk(2)
    return Batch(0, labelled, Unlabelled(torch.arange(m), weak, strong, visible[n:], second))


def test_there_is_a_recipe_of_every_branch():
    assert set(RECIPES) == set(BRANCHES)
    for kind, name in RECIPES.items():
        assert resolve(name, []).method.branch == kind


@pytest.mark.parametrize("kind", RECIPES)
def test_semi_mae_adds_the_loss_of_its_branch_to_fixmatchs(kind):
    method, recipe = method_of(RECIPES[kind], "--method.pseudo.threshold=0")
    batch, s = batch_of(recipe.data.mask), recipe.method
    labelled, unlabelled, branch = batch.labelled, batch.unlabelled, method.branch
    teacher = method.ema.module
    with torch.no_grad(), evaluating(teacher):
        pseudo_labels = teacher(unlabelled.weak).argmax(-1)
    label = F.cross_entropy(method.encoder(labelled.images), labelled.labels)
    pseudo = F.cross_entropy(method.encoder(unlabelled.strong), pseudo_labels)
    inputs = unlabelled.weak, unlabelled.visible, unlabelled.hidden
    pixels = branch(tokens_of(method.encoder, branch, *inputs), *inputs)
    loss = method(batch, LATER)
    assert loss.parts["pixels"].item() == pytest.approx(pixels.item(), rel=1e-11)
    assert_same(loss.total, label + s.lambda_u * pseudo + s.mu * pixels, method.encoder, branch)


@pytest.mark.parametrize("kind", RECIPES)
def test_in_the_labels_only_phase_a_branch_rests(kind):
    method, recipe = method_of(RECIPES[kind])
    early = StepInfo(0, labels_only=True)
    method(batch_of(recipe.data.mask), early).total.backward()
    inactive_params = set(map(id, method.inactive_params(early)))
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert (id(parameter) in inactive_params) == (not parameter.grad.any()), name


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_supmae_reads_the_visible_tokens_of_all_windows(pool):
    flags = ["--method.branch=lomar", f"--method.pool={pool}", "--data.mask.kind=window", "--data.mask.window=3"]
    method, recipe = method_of("supmae:digits", *flags, "--data.mask.windows=2")
    batch, s = batch_of(recipe.data.mask), recipe.method
    labelled, branch = batch.labelled, method.branch
    own_tokens = tokens_of(method.encoder, branch, labelled.images, labelled.visible, labelled.hidden)
    pixels = branch(own_tokens, labelled.images, labelled.visible, labelled.hidden)
    read = [[], [], [], []]
    for row, tokens in enumerate(own_tokens):  # two windows an image, one after the other
        read[row // 2] += [tokens[0]] if pool == "token" else list(tokens[-labelled.visible.shape[2] :])
    label = F.cross_entropy(
        method.head(torch.stack([torch.stack(each).mean(0) for each in read])) / s.temperature, labelled.labels
    )
    assert_same(method(batch, LATER).total, pixels + s.class_weight * label, method)
