"""Semi-MAE and SupMAE with every masked branch: the sum of their terms, each from a forward of its own."""

import pytest
import torch
import torch.nn.functional as F

from models.config.resolve import resolve
from models.encoder.vit import evaluating
from models.masked.select import BRANCHES
from models.method import StepInfo, method_class
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


def batch_of(mask, known: int = 4, more: int = 6) -> Batch:
    """As the data path hands it out, with this mask."""
    ids = [
        torch.from_numpy(part)
        for part in masks.draw(mask, rng.keys(0, 0, range(known + more), rng.MASK), 4)
        if part is not None
    ]
    visible, hidden = ids if len(ids) == 2 else (ids[0], None)
    images = images_of(known + 2 * more)
    first, second = (None, None) if hidden is None else (hidden[:known], hidden[known:])
    labelled = Labelled(torch.arange(known), images[:known], torch.arange(known), visible[:known], first)
    weak, strong = images[known:].chunk(2)
    return Batch(0, labelled, Unlabelled(torch.arange(more), weak, strong, visible[known:], second))


def test_there_is_a_recipe_of_every_branch():
    assert set(RECIPES) == set(BRANCHES)
    for kind, name in RECIPES.items():
        assert resolve(name, []).method.branch == kind


@pytest.mark.parametrize("kind", RECIPES)
def test_semi_mae_adds_the_loss_of_its_branch_to_fixmatchs(kind):
    method, recipe = method_of(RECIPES[kind], "--method.pseudo.threshold=0")
    batch, s = batch_of(recipe.data.mask), recipe.method
    known, unknown, own = batch.labelled, batch.unlabelled, method.reconstruction
    teacher = method.ema.module
    with torch.no_grad(), evaluating(teacher):
        guesses = teacher(unknown.weak).argmax(-1)
    label = F.cross_entropy(method.encoder(known.images), known.labels)
    pseudo = F.cross_entropy(method.encoder(unknown.strong), guesses)
    inputs = unknown.weak, unknown.visible, unknown.hidden
    pixels = own(tokens_of(method.encoder, own, *inputs), *inputs)
    loss = method(batch, LATER)
    assert loss.parts["pixels"].item() == pytest.approx(pixels.item(), rel=1e-11)
    assert_same(loss.total, label + s.lambda_u * pseudo + s.mu * pixels, method.encoder, own)


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
    known, own = batch.labelled, method.reconstruction
    own_tokens = tokens_of(method.encoder, own, known.images, known.visible, known.hidden)
    pixels = own(own_tokens, known.images, known.visible, known.hidden)
    read = [[], [], [], []]
    for row, tokens in enumerate(own_tokens):  # two windows an image, one after the other
        read[row // 2] += [tokens[0]] if pool == "token" else list(tokens[-known.visible.shape[2] :])
    label = F.cross_entropy(
        method.head(torch.stack([torch.stack(each).mean(0) for each in read])) / s.temperature, known.labels
    )
    assert_same(method(batch, LATER).total, pixels + s.class_weight * label, method)
