"""What a plan depends on, how views of different lengths are stacked, and in which order things happen."""

import numpy as np
import pytest
import torch

from pipeline import rng
from pipeline.errors import InputError
from pipeline.executors.erase_torch import erase
from pipeline.executors.rand_augment_torch import apply_ops
from pipeline.sampling.sampler import SampleIds
from pipeline.spec import Data, Mask, View
from pipeline.train_data import labelled_spec, unlabelled_spec
from pipeline.views import masks
from pipeline.views import rand_augment as ra
from pipeline.views.erase import CUTOUT_FILL
from pipeline.views.plan import Plan, ViewSpec, draw

SIZE, N = 32, 200
WEAK = View()
JITTER = (0.4, 0.4, 0.2, 0.1)


def plan_of(views: dict[str, tuple[View, int]], mask: Mask | None = None, ids: np.ndarray | None = None) -> Plan:
    ids = np.arange(N) if ids is None else ids
    heights, widths = 40 + ids % 50, 45 + ids % 37
    return draw(ViewSpec(views, SIZE, mask, patch=8), SampleIds(ids, np.zeros_like(ids)), heights, widths, seed=3)


def test_labelled_and_unlabelled_streams_see_the_same_image_differently():
    data = Data(size=SIZE, labelled_view="weak", weak=WEAK)
    samples = SampleIds(np.arange(N), np.zeros(N, np.int64))
    sides = np.full(N, 60)
    known, unknown = (
        draw(spec, samples, sides, sides, 3)
        for spec in (labelled_spec(data, 8, True), unlabelled_spec(data, 8, False, True))
    )
    assert (known.visible != unknown.visible).any(1).mean() > 0.99
    assert (known.params.boxes[0] != unknown.params.boxes[0]).any(1).mean() > 0.9
    # 4 of 16 patches each: two independent draws share 4 * 4 / 16 = 1 on average (hypergeometric, variance 0.6)
    shared = [len(np.intersect1d(a, b)) for a, b in zip(known.visible, unknown.visible, strict=True)]
    assert abs(np.mean(shared) - 1) < 5 * np.sqrt(0.6 / N)


def test_a_strong_view_beside_it_does_not_change_the_weak_one():
    alone = plan_of({"weak": (WEAK, rng.WEAK)}, Mask())
    strong = View(augment="timm", erase="random", jitter=JITTER)
    beside = plan_of({"weak": (WEAK, rng.WEAK), "strong": (strong, rng.STRONG)}, Mask())
    assert alone.names == ("weak",)
    assert beside.names == ("weak", "strong")
    assert np.array_equal(alone.visible, beside.visible)
    for name in ("boxes", "insets", "flips", "erased", "noise"):
        assert np.array_equal(getattr(alone.params, name)[0], getattr(beside.params, name)[0])


def test_an_images_plan_is_its_own():
    views = {"weak": (WEAK, rng.WEAK), "strong": (View(augment="usb", erase="cutout"), rng.STRONG)}
    whole, some = plan_of(views, Mask()), np.array([77, 5, 130])
    few = plan_of(views, Mask(), some)
    assert np.array_equal(whole.visible[some], few.visible)
    for name, array in few.params._asdict().items():
        everyone = getattr(whole.params, name)
        assert np.array_equal(array, everyone if name in ("nearest", "fill", "noisy", "filters") else everyone[:, some])


def test_shorter_lists_of_operations_are_filled_up_with_identity():
    usb, timm = View(augment="usb"), View(augment="timm", jitter=JITTER)
    views = {"plain": (WEAK, rng.WEAK), "usb": (usb, rng.STRONG), "timm": (timm, rng.LABELLED)}
    together = plan_of(views).params
    assert together.ops.shape == together.args.shape == (3, N, 6)  # four of jitter, two of timm
    for v, (name, length) in enumerate({"plain": 0, "usb": 3, "timm": 6}.items()):
        assert (together.ops[v, :, length:] == ra.IDENTITY).all()
        assert (together.args[v, :, length:] == 0).all()
        alone = plan_of({name: views[name]}).params
        assert np.array_equal(together.ops[v, :, :length], alone.ops[0])
        assert np.array_equal(together.args[v, :, :length], alone.args[0])
    assert together.nearest.tolist() == [False, True, False]
    images = torch.randint(0, 256, (N, 3, SIZE, SIZE), dtype=torch.uint8)
    same = apply_ops(images, ra.Ops(together.ops[0], together.args[0]), nearest=False, fill=(0, 0, 0))
    assert torch.equal(same, images)


def test_jitter_comes_before_rand_augment():
    jittered = View(jitter=JITTER, jitter_probability=1.0, augment="usb")
    ops = plan_of({"strong": (jittered, rng.STRONG)}).params.ops[0]
    assert ops.shape == (N, 7)
    four = np.sort([ra.BRIGHTNESS, ra.CONTRAST, ra.COLOUR, ra.HUE])
    assert (np.sort(ops[:, :4], axis=1) == four).all()
    assert (ops[:, 4:] != ra.HUE).all()  # only jitter turns the hue
    without = plan_of({"strong": (View(augment="usb"), rng.STRONG)}).params.ops[0]
    assert np.array_equal(ops[:, 4:], without)


def test_cutout_is_grey_and_always_and_random_erasing_is_noise_a_quarter_of_the_time():
    kinds = {"none": View(), "cutout": View(erase="cutout"), "random": View(erase="random")}
    found = {name: plan_of({name: (view, rng.STRONG)}).params for name, view in kinds.items()}
    share = {name: (plan.erased[0, :, 2] > 0).mean() for name, plan in found.items()}
    assert share["none"] == 0
    assert share["cutout"] == 1
    assert abs(share["random"] - 0.25) < 5 * np.sqrt(0.25 * 0.75 / N)
    assert {name: bool(plan.noisy[0]) for name, plan in found.items()} == {
        "none": False, "cutout": False, "random": True,
    }  # fmt: skip
    black = torch.zeros(N, 3, SIZE, SIZE, dtype=torch.uint8)
    grey = erase(black.clone(), found["cutout"].erased[0], CUTOUT_FILL)
    noise = erase(black.clone(), found["random"].erased[0], found["random"].noise[0])
    assert {tuple(pixel) for pixel in grey.permute(0, 2, 3, 1).reshape(-1, 3).tolist()} == {(0, 0, 0), CUTOUT_FILL}
    assert len(noise.unique()) > 200


def test_the_mask_leaves_maes_count():
    assert masks.visible_count(Mask(ratio=0.75), 14) == 49
    assert masks.visible_count(Mask(ratio=0.8), 10) == 20
    plan = plan_of({"weak": (WEAK, rng.WEAK)}, Mask(ratio=0.5))
    assert plan.visible.shape == (N, 8)
    assert (np.diff(plan.visible) > 0).all()
    assert plan_of({"weak": (WEAK, rng.WEAK)}).visible is None


@pytest.mark.parametrize("ratio", [0.0, 1.0, 0.99])
def test_a_mask_that_hides_nothing_or_everything_is_refused(ratio):
    with pytest.raises(InputError, match="of 16 patches visible"):
        masks.visible_count(Mask(ratio=ratio), 4)
