"""A step of every recipe on a GPU that is not there: all of it is on the device, and the host asks for one count."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from models.config.recipe import Optim, Run
from models.config.resolve import named
from models.distributed.precision import precision
from models.distributed.process_group import World
from models.encoder.packed import column
from models.encoder.patches import _scale_and_shift
from models.evaluate.accuracy import hits
from models.evaluate.distribution_shift import share_wrong
from models.evaluate.knn import features
from models.factory import method_class
from models.method import StepInfo
from models.optim.build import build_optimiser
from models.optim.schedule import RunLength
from models.optim.update import FiniteGuard, clip_grad_norm, set_lr
from models.reporting.journal import Journal
from models.reporting.pseudo_label_stats import PseudoLabelCounts
from pipeline.spec import View
from tests.models.config.test_catalogue import CLASSES, TOYS, changed, has, toy, two_batches, with_files
from tests.pretended import NONZERO, Watch, move, pretended_gpu

ONE = World(0, 1, 0, torch.device("cuda"))
LENGTH = RunLength(1000, 0, 0, 1.0, 1.0)


@pytest.fixture(autouse=True)
def nothing_fake_stays():
    yield
    _scale_and_shift.cache_clear()
    column.cache_clear()


def there(batch, mode):
    def moved(part):
        tensors = {name: x if x is None else mode.from_tensor(x).to("cuda") for name, x in vars(part).items()}
        return type(part)(**tensors)

    parts = (None if part is None else moved(part) for part in (batch.labelled, batch.unlabelled))
    return type(batch)(batch.step, *parts)


NUMBERS = {  # that decide what is computed, and not where: of toys that differ in these alone one is enough
    "optim": Optim(lr=1e-3), "data.weak": View(), "data.strong": View(), "data.mask.ratio": 0.5,
    "method.lambda_u": 1.0, "method.class_weight": 1.0, "method.smoothing": 0.0,
}  # fmt: skip


def without_numbers(recipe):
    for dotted, value in NUMBERS.items():
        recipe = changed(recipe, dotted, value)
    return recipe


VARLEN = changed(toy(named("semi_mae:digits")), "encoder.attention", "varlen")
# mpl takes a gradient on its way forward, for which torch's engine wants a driver
ALIKE = {without_numbers(recipe): recipe for recipe, name in TOYS.items() if "mpl:" not in name}
RECIPES = {**{recipe: TOYS[recipe] for recipe in ALIKE.values()}, VARLEN: "one call of attention for every length"}


@pytest.mark.parametrize("recipe", RECIPES, ids=RECIPES.values())
def test_the_host_asks_at_most_how_many_passed(recipe, digits, target_files, tmp_path, monkeypatch):
    recipe = with_files(recipe, digits, target_files)
    method = method_class(recipe)(recipe, CLASSES).train()
    *_, batch = two_batches(recipe, method)
    pseudo_labels, cpu = PseudoLabelCounts(CLASSES), replace(ONE, device=torch.device("cpu"))
    journal = Journal(tmp_path, LENGTH, cpu, log_steps=100, pseudo_labels=pseudo_labels)
    with pretended_gpu(monkeypatch) as mode:
        move(method, mode)
        batch, info = there(batch, mode), StepInfo(10**6, labels_only=False)
        stepper = build_optimiser(method, recipe.optim)
        set_lr(stepper, 1e-3)
        with Watch(), precision(Run(), ONE.device):
            method(batch, info)  # tables that are made once
        with Watch() as watch:
            with precision(Run(), ONE.device):
                loss = method(batch, info)
            for parameter in method.parameters():  # no backward: torch's engine wants a driver
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
            norm = clip_grad_norm(method.parameters(), 1.0)
            FiniteGuard(ONE).step(stepper, loss.total, norm, torch.zeros(4, dtype=torch.int64, device="cuda"), 0)
            method.after_step(0)
            stats = [loss.pseudo_stats] if loss.pseudo_stats is not None else []
            total, parts = loss.total.detach(), loss.parts
            journal.record(1, total, parts, norm, lr=1e-3, images=32, wait_s=0.0, pseudo_stats=stats)
    assert {loss.total.device.type, norm.device.type, *(part.device.type for part in loss.parts.values())} == {"cuda"}
    assert watch.waits == {} or (loss.pseudo_stats is not None and watch.waits == {str(NONZERO): 1})
    assert watch.mixed == watch.unpinned == {}
    exact = has(recipe, "method.reconstruct.target") and recipe.method.reconstruct.target in target_files
    assert watch.products == {torch.bfloat16, *([torch.float32] if exact else [])}  # what is to be predicted is exact


def test_evaluating_asks_nothing_until_all_is_counted(digits, monkeypatch):
    recipe = changed(toy(named("semi_mae:digits")), "data.root", str(digits))
    method = method_class(recipe)(recipe, CLASSES).eval()
    with pretended_gpu(monkeypatch) as mode:
        move(method, mode)
        labels = torch.zeros(8, dtype=torch.int64, device="cuda")
        images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8, device="cuda")
        hits(method, [images], labels[:4])  # tables that are made once
        with Watch() as watch:
            counts, found = hits(method, [images, images], labels), features(method.eval_encoder, [images, images])
    assert (counts.device.type, found.device.type) == ("cuda", "cuda")
    assert watch.waits == watch.mixed == watch.unpinned == {}


def test_shifted_images_are_counted_without_a_wait(monkeypatch):
    with pretended_gpu(monkeypatch):
        images, labels = torch.zeros(4, 3, 16, 16, dtype=torch.uint8, device="cuda"), np.zeros(4, np.int64)
        weight = nn.Parameter(torch.zeros(3 * 16 * 16, 10, device="cuda"))
        method = SimpleNamespace(
            parameters=lambda: iter([weight]), logits=lambda images: images.flatten(1).float() @ weight
        )
        loaded = SimpleNamespace(method=method, recipe=SimpleNamespace(run=Run()))
        with Watch() as watch:
            _, n = share_wrong(loaded, [(images, labels)] * 3, np.arange(5))
    assert n == 12
    assert sum(watch.waits.values()) == 1  # at the end
    assert watch.mixed == watch.unpinned == {}


def test_the_watch_sees_who_waits_what_is_mixed_and_what_is_not_pinned(monkeypatch):
    with pretended_gpu(monkeypatch), Watch() as watch:
        there, here = torch.ones(4, device="cuda"), torch.arange(4)
        assert watch.waits == watch.mixed == watch.unpinned == {}
        there.sum().item(), there.nonzero(), there.cpu()
        assert sum(watch.waits.values()) == 3
        there[here]
        assert sum(watch.mixed.values()) == 1
        here.to("cuda"), here.pin_memory().to("cuda")
        assert sum(watch.unpinned.values()) == 1
