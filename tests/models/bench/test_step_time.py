"""Steps on random images: in the loader's shapes, of the FLOPs that the closed form says, and they change no weight."""

from dataclasses import replace

import pytest
import torch

from models.bench import step_time
from models.bench.flops import GroupCost, classifier_flops, encoder_flops
from models.bench.step_time import FixedShare, StepCost
from models.bench.synthetic import random_batch, synthetic_batch
from models.bench.timing import StepTime, interleaved, spread, times_faster
from models.config.recipe import Recipe
from models.config.resolve import resolve
from models.factory import method_class
from pipeline.errors import InputError

CPU = torch.device("cpu")
TINY = ["--encoder.width=32", "--encoder.depth=2", "--encoder.heads=2", "--data.ratio=3"]
RECIPES = ["supervised:digits", "fixmatch:digits", "mae:digits", "semi_mae:digits", "supmae:digits", "lomar:digits",
           "simmim:digits", "crossmae:digits"]  # fmt: skip


def tiny(name: str) -> Recipe:
    return resolve(name, TINY)


@pytest.mark.parametrize("name", RECIPES)
def test_every_method_takes_its_noise_and_keeps_its_weights(name):
    recipe = tiny(name)
    method = method_class(recipe)(recipe, 10)
    method.set_dataset_size(8, 6)
    batch = synthetic_batch(recipe, 8, 10, CPU)
    parts = [part for part in (batch.labelled, batch.unlabelled) if part is not None]
    assert sum(len(part.ids) for part in parts) == 8
    before = {key: value.clone() for key, value in method.named_parameters()}
    step_time.training_step(recipe, method, batch)()
    assert all(torch.equal(before[key], value) for key, value in method.named_parameters())
    inference = step_time.inference_step(recipe, method, 3, CPU)
    inference()
    assert step_time.gflops_per_image(inference, 3) > 0


def test_flops_of_a_supervised_step_and_of_inference_are_the_closed_form():
    recipe = tiny("supervised:digits")
    method = method_class(recipe)(recipe, 10)
    patches, vit = 16, method.encoder
    keep = 1 if vit.global_pool == "token" else None
    run = step_time.training_step(recipe, method, synthetic_batch(recipe, 4, 10, CPU))
    learnt = encoder_flops(vit, [GroupCost(4, patches, keep)]) + classifier_flops(vit, 4)
    assert step_time.gflops_per_image(run, 4) == pytest.approx(learnt / 4 / 1e9)
    seen = encoder_flops(vit, [GroupCost(4, patches, keep, learns=False)]) + classifier_flops(vit, 4, learns=False)
    assert step_time.gflops_per_image(step_time.inference_step(recipe, method, 4, CPU), 4) == pytest.approx(
        seen / 4 / 1e9
    )


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_flops_of_a_probes_step_are_a_forward_pass_and_its_linear_layer(pool):
    """By hand: a frozen forward pass of 4 images, and twice the matrix, as its input's gradient is not computed."""
    recipe = tiny("probe:digits")
    recipe = replace(recipe, encoder=replace(recipe.encoder, pool=pool))
    method = method_class(recipe)(recipe, 10)
    width, (tokens, mlp), depth = recipe.encoder.width, (17, 4 * recipe.encoder.width), recipe.encoder.depth
    kept = 1 if pool == "token" else tokens  # rows that leave the last block
    blocks = [tokens] * (depth - 1) + [kept]
    each = sum(4 * tokens * width**2 + 4 * n * width**2 + 4 * n * tokens * width + 4 * n * width * mlp for n in blocks)
    pixels, matrix = 2 * 16 * 3 * 16 * width, 2 * width * 10
    run = step_time.training_step(recipe, method, synthetic_batch(recipe, 4, 10, CPU))
    assert step_time.gflops_per_image(run, 4) == pytest.approx((pixels + each + 2 * matrix) / 1e9)
    assert step_time.gflops_per_image(step_time.inference_step(recipe, method, 4, CPU), 4) == pytest.approx(
        (pixels + each + matrix) / 1e9
    )


@pytest.mark.parametrize("name", ["fixmatch:digits", "semi_mae:digits"])
def test_what_passes_is_paid_for_by_the_view_whatever_the_confidence(name):
    """Of 8 images 2 are labelled; each of the 6 strong views costs what one image's forward and backward pass does."""
    recipe = tiny(name)
    method = method_class(recipe)(recipe, 10)
    counted = []
    for passed in (0.0, 0.5, 1.0):
        step_time.fix_pass_rate(method, passed)
        counted.append(
            8
            * step_time.gflops_per_image(
                step_time.training_step(recipe, method, synthetic_batch(recipe, 8, 10, CPU)), 8
            )
        )
    heads = 1 if method.encoder.global_pool == "token" else None
    view = (encoder_flops(method.encoder, [GroupCost(1, 16, heads)]) + classifier_flops(method.encoder, 1)) / 1e9
    assert counted[1] - counted[0] == pytest.approx(3 * view)
    assert counted[2] - counted[0] == pytest.approx(6 * view)


@pytest.mark.parametrize("name", ["fixmatch:digits", "semi_mae:digits"])
def test_a_step_on_labels_alone_costs_a_supervised_one(name):
    recipe = tiny(name)
    method = method_class(recipe)(recipe, 10)
    run = step_time.training_step(recipe, method, synthetic_batch(recipe, 4, 10, CPU, labels_only=True))
    heads = 1 if method.encoder.global_pool == "token" else None
    supervised = encoder_flops(method.encoder, [GroupCost(4, 16, heads)]) + classifier_flops(method.encoder, 4)
    assert step_time.gflops_per_image(run, 4) == pytest.approx(supervised / 4 / 1e9)


def test_a_step_without_one_of_its_parts_is_refused():
    with pytest.raises(InputError, match="leaves 0 labelled images"):
        synthetic_batch(tiny("fixmatch:digits"), 1, 10, CPU)
    recipe = tiny("mae:digits")
    recipe = replace(recipe, data=replace(recipe.data, mask=replace(recipe.data.mask, ratio=0.99)))
    with pytest.raises(InputError, match="mask ratio"):
        synthetic_batch(recipe, 2, 10, CPU)


def test_random_batches_repeat_and_have_the_counts_asked_for_in_the_loaders_layout():
    recipe = tiny("semi_mae:digits")
    one, again = (random_batch(recipe, 2, 5, 10, CPU) for _ in range(2))
    assert (len(one.labelled.ids), len(one.unlabelled.ids)) == (2, 5)
    for name in ("weak", "strong", "visible"):
        assert torch.equal(getattr(one.unlabelled, name), getattr(again.unlabelled, name))
    assert one.unlabelled.weak.is_contiguous(memory_format=torch.channels_last)
    assert len({tuple(image.flatten().tolist()) for image in one.unlabelled.weak}) == 5
    assert random_batch(recipe, 2, 0, 10, CPU).unlabelled is None


def test_spread_and_ratios_are_those_of_the_medians():
    assert spread([2.0, 5.0, 4.0]) == 0.75
    assert times_faster([1.0, 2.0, 4.0], [3.0, 4.0, 4.0]) == 2.0


def test_rates_are_medians_of_the_rounds():
    one = StepCost(10, [StepTime(2.0, 1.0), StepTime(5.0, 2.0), StepTime(4.0, 4.0)], 1.0)
    assert one.images_per_s == 2.5
    assert one.spread == 0.75
    assert one.work_s == 0.2


def test_rounds_take_turns_after_one_that_warms_up():
    seen: list[str] = []
    found = interleaved({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 2, 3, CPU)
    assert "".join(seen) == "aaabbb" * 3
    assert [len(times) for times in found.values()] == [2, 2]
    assert all(each.wall_s >= 0 and each.work_s > 0 for times in found.values() for each in times)


def test_the_number_that_passes_varies_by_the_binomial_law_where_it_should():
    confidence, classes = torch.zeros(112), torch.zeros(112, dtype=torch.int64)
    fixed, varying = FixedShare(0.3), FixedShare(0.3, varying=True)
    assert {int(fixed.weigh(confidence, classes).sum()) for _ in range(5)} == {34}
    drawn = torch.tensor([varying.weigh(confidence, classes).sum() for _ in range(2000)])
    assert drawn.mean().item() == pytest.approx(112 * 0.3, abs=0.44)  # 4 standard errors
    assert drawn.var().item() == pytest.approx(112 * 0.3 * 0.7, rel=0.13)
    assert [FixedShare(share, varying=True).weigh(confidence, classes).sum() for share in (0.0, 1.0)] == [0, 112]
