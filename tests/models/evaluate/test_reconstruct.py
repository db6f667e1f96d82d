"""A decoder that knows the answer gives the image back; what was visible stays as it was."""

import base64
import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from models.checkpoint import save_load
from models.config.recipe import Run
from models.config.resolve import resolve
from models.encoder.vit import Size, build_encoder
from models.evaluate import __main__ as evaluate
from models.evaluate.evaluation_log import read_evaluations
from models.evaluate.reconstruct import (
    KINDS,
    RATIOS,
    SCALES,
    TRUE_SCALE,
    VISIBLE_SCALE,
    Reconstructions,
    keys_of,
    picture,
    reconstruct,
)
from models.factory import method_class
from models.masked.mae import MAEBranch
from pipeline.errors import InputError
from pipeline.preview.views import HIDDEN
from pipeline.spec import Mask

PATCH, GRID, N = 4, 6, 3
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture
def images() -> torch.Tensor:
    side = PATCH * GRID
    return torch.randint(0, 256, (N, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def truth(images: torch.Tensor, i: int, patch: int, target: str) -> np.ndarray:
    """The target of one patch, pixel by pixel in MAE's order."""
    y, x = PATCH * (patch // GRID), PATCH * (patch % GRID)
    values = [
        (images[i, c, y + dy, x + dx].item() / 255 - MEAN[c]) / STD[c]
        for dy in range(PATCH)
        for dx in range(PATCH)
        for c in range(3)
    ]
    values = np.array(values)
    if target == "norm_pix":  # MAE's reference: unbiased variance, 1e-6 beneath the root
        values = (values - values.mean()) / np.sqrt(values.var(ddof=1) + 1e-6)
    return values


def method(target: str, predict) -> SimpleNamespace:
    encoder = build_encoder(Size(24, 1, 3), image_size=PATCH * GRID, patch=PATCH, classes=0)
    branch = SimpleNamespace(patch=PATCH, settings=SimpleNamespace(target=target), predict=predict)
    return SimpleNamespace(encoder=encoder, branch=branch)


def oracle(target: str):
    def predict(_, images: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        rows = [
            [truth(images, i, patch, target) for patch in range(GRID * GRID) if patch not in shown]
            for i, shown in enumerate(visible.tolist())
        ]
        return torch.tensor(np.array(rows), dtype=torch.float32)

    return predict


def black(_, images: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    return torch.full((len(images), GRID * GRID - visible.shape[1], 3 * PATCH * PATCH), -100.0)


def cells(picture: np.ndarray) -> np.ndarray:
    """u8 [S, S, 3] -> [patches, PATCH, PATCH, 3]."""
    return np.array([picture[y : y + PATCH, x : x + PATCH] for y in range(0, GRID * PATCH, PATCH)
                     for x in range(0, GRID * PATCH, PATCH)])  # fmt: skip


@pytest.mark.parametrize("target", ["pixel", "norm_pix"])
def test_a_decoder_that_knows_the_target_gives_back_the_image(images, target):
    made = reconstruct(method(target, oracle(target)), images, Mask(ratio=0.75)).filled
    assert np.array_equal(made["" if target == "pixel" else TRUE_SCALE], images.permute(0, 2, 3, 1).numpy())


def test_the_visible_scale_is_that_of_the_visible_patches_and_reads_no_hidden_pixel(images):
    """norm_pix against a slow loop in numpy: a known target, scaled back by what the visible patches show."""
    made = reconstruct(method("norm_pix", oracle("norm_pix")), images, Mask(ratio=0.75))
    for i in range(N):
        original = cells(images[i].permute(1, 2, 0).numpy())
        values = (original.reshape(GRID * GRID, -1, 3) / 255 - MEAN) / STD
        shown = ~(cells(made.masked[i]) == HIDDEN).all((1, 2, 3))
        mean = np.mean([each.mean() for each in values[shown]])
        spread = np.mean([np.sqrt(each.var(ddof=1) + 1e-6) for each in values[shown]])
        for patch in np.flatnonzero(~shown):
            own = (values[patch] - values[patch].mean()) / np.sqrt(values[patch].var(ddof=1) + 1e-6)
            wanted = np.clip((own * spread + mean) * STD + MEAN, 0, 1) * 255
            found = cells(made.filled[VISIBLE_SCALE][i])[patch].reshape(-1, 3)
            assert np.abs(found - wanted).max() <= 0.51
    changed = images.clone()
    changed[(torch.from_numpy(made.masked) == HIDDEN).all(-1)[:, None].expand_as(images)] = 7
    zeros = [
        reconstruct(method("norm_pix", constant(0.0)), each, Mask(ratio=0.75)).filled for each in (images, changed)
    ]
    assert np.array_equal(zeros[0][VISIBLE_SCALE], zeros[1][VISIBLE_SCALE])
    assert not np.array_equal(zeros[0][TRUE_SCALE], zeros[1][TRUE_SCALE])


@pytest.mark.parametrize(("target", "columns"), [("pixel", 3), ("norm_pix", 4)])
def test_the_page_says_whose_mean_and_spread_a_normalised_prediction_has(images, target, columns):
    made = picture(method(target, oracle(target)), images, (0.75,))
    width = Image.open(io.BytesIO(made.png)).width
    assert width // 96 == columns
    assert (SCALES in made.caption) == (target == "norm_pix")


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.9])
def test_visible_patches_are_unchanged_and_the_others_predicted(images, ratio):
    seen, filled = reconstruct(method("pixel", black), images, Mask(ratio=ratio))
    (made,) = filled.values()
    originals = images.permute(0, 2, 3, 1).numpy()
    visible = int(GRID * GRID * (1 - ratio) + 1e-9)
    for original, shown, predicted in zip(originals, seen, made, strict=True):
        same = (cells(shown) == cells(original)).all((1, 2, 3))
        assert same.sum() == visible
        assert (cells(shown)[~same] == HIDDEN).all()
        assert (cells(predicted)[same] == cells(original)[same]).all()
        assert (cells(predicted)[~same] == 0).all()  # clipped, not wrapped


def test_the_patches_shown_depend_on_the_seed_and_the_image(images):
    seen = [reconstruct(method("pixel", black), images, Mask(ratio=0.75), seed)[0] for seed in (0, 0, 1)]
    assert np.array_equal(seen[0], seen[1])
    shown = [(cells(picture) == HIDDEN).all((1, 2, 3)) for picture in (seen[0][0], seen[0][1], seen[2][0])]
    assert (shown[0] != shown[1]).any()
    assert (shown[0] != shown[2]).any()


def test_where_a_prediction_is_no_picture_there_is_none(images):
    assert reconstruct(method("tokens", lambda *_: None), images, Mask(ratio=0.75)) is None


RECIPES = {
    "mae:digits": (), "mae:digits, mask tokens": ("--method.reconstruct.encoder-mask-tokens",), "crossmae:digits": (),
    "simmim:digits": (), "lomar:digits": (), "mae:digits, normalised": ("--method.reconstruct.target=norm_pix",),
    "crossmae:digits, normalised": ("--method.reconstruct.target=norm_pix", "--method.reconstruct.no-every-layer"),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_every_masked_method_draws_whatever_its_decoder_sees(name):
    small = ["--encoder.width=32", "--encoder.depth=2", "--encoder.heads=2"]
    recipe = resolve(name.split(",")[0], [*small, *RECIPES[name]])
    made = method_class(recipe)(recipe, 10)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for ratio in (0.5, 0.9):
        seen, filled = reconstruct(made, images, Mask(ratio=ratio))
        shown = (seen == images.permute(0, 2, 3, 1).numpy()).all(-1)
        assert list(filled) == ([TRUE_SCALE, VISIBLE_SCALE] if "normalised" in name else [""])
        assert all((predicted[shown] == seen[shown]).all() for predicted in filled.values())
        assert shown.any() and not shown.all()  # noqa: PT018


def loaded(made: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(recipe=SimpleNamespace(run=Run()), method=made)


def constant(value: float):
    """Every pixel of every hidden patch, normalised."""
    return lambda _, images, visible: torch.full((len(images), GRID * GRID - visible.shape[1], 3 * PATCH**2), value)


def test_errors_are_those_of_a_slow_loop(images):
    asked, ids = Reconstructions(ratios=(0.5, 0.75)), np.array([4, 0, 9])
    assert asked.ratios is not None
    found = asked.errors(loaded(method("pixel", constant(0.5))), images, ids)
    pixels = images.permute(0, 2, 3, 1).numpy() / 255
    assert list(found) == ["mse_0.5", "blank_0.5", "mse_0.75", "blank_0.75"]
    for ratio in asked.ratios:
        row = [float(found[f"{what}_{ratio:g}"]) for what in ("mse", "blank")]
        seen, _ = reconstruct(method("pixel", black), images, Mask(ratio=ratio), ids=ids)
        errors, blanks = [], []
        for image, shown in zip(pixels, seen, strict=True):
            hidden = (shown == HIDDEN).all(-1)
            mean = image[~hidden].mean(0)
            errors.append(np.mean([(image[hidden][:, c] - (0.5 * STD[c] + MEAN[c])) ** 2 for c in range(3)]))
            blanks.append(np.mean([(image[hidden][:, c] - mean[c]) ** 2 for c in range(3)]))
        assert row == pytest.approx([sum(errors), sum(blanks)], rel=1e-5)


@pytest.mark.parametrize("target", ["pixel", "norm_pix"])
def test_a_decoder_that_knows_the_target_has_no_error(images, target):
    found = Reconstructions(ratios=(0.75,)).errors(loaded(method(target, oracle(target))), images, np.arange(N))
    how = "" if target == "pixel" else f"_{TRUE_SCALE}"
    assert found[f"mse{how}_0.75"] == pytest.approx(0, abs=1e-9)
    assert found[f"blank{how}_0.75"] > 0.01
    assert target == "pixel" or found[f"mse_{VISIBLE_SCALE}_0.75"] > 0.001  # mean and spread are not the patch's


def test_a_blank_normalised_patch_is_its_mean(images):
    """A prediction of zeros, put back on each patch's mean, or on the visible ones'."""
    asked = Reconstructions(ratios=(0.75,))
    found = asked.errors(loaded(method("norm_pix", constant(0.0))), images, np.arange(N))
    assert list(found) == [f"{what}_{how}_0.75" for how in (VISIBLE_SCALE, TRUE_SCALE) for what in ("mse", "blank")]
    for how in (TRUE_SCALE, VISIBLE_SCALE):
        assert found[f"mse_{how}_0.75"] == found[f"blank_{how}_0.75"]


def hidden_patches(made: np.ndarray) -> np.ndarray:
    """bool [N, GRID, GRID] of pictures u8 [N, S, S, 3] as a mask leaves them."""
    return np.array([(cells(each) == HIDDEN).all((1, 2, 3)).reshape(GRID, GRID) for each in made])


def test_block_and_grid_masks_hide_what_their_names_say(images):
    """Drawn pictures: a grid leaves the upper left of each 2 x 2 patches, a block hides a whole rectangle, both as many
    patches as asked for."""
    grid, block, random = (
        hidden_patches(reconstruct(method("pixel", black), images, shown).masked)
        for shown in (Mask("grid"), Mask("block", ratio=0.5), Mask(ratio=0.5))
    )
    wanted = np.ones((GRID, GRID), bool)
    wanted[::2, ::2] = False
    assert all((each == wanted).all() for each in grid)
    assert [each.sum() for each in block] == [each.sum() for each in random] == [GRID * GRID // 2] * N

    def largest(hidden: np.ndarray) -> int:
        corners = [(y, x) for y in range(GRID) for x in range(GRID)]
        return max((b - y + 1) * (r - x + 1) for y, x in corners for b, r in corners
                   if b >= y and r >= x and hidden[y : b + 1, x : r + 1].all())  # fmt: skip

    assert np.mean([largest(each) for each in block]) > np.mean([largest(each) for each in random])


@pytest.mark.parametrize(
    ("kinds", "ratios", "wanted"),
    [
        ((), None, [("random", ratio) for ratio in RATIOS]),
        ((), (0.75, 0.85, 0.95), [("random", 0.75), ("random", 0.85), ("random", 0.95)]),  # MAE Figure 4
        (("random", "block", "grid"), None, [("random", 0.75), ("block", 0.5), ("grid", 0.75)]),  # MAE Figure 6
        (("random", "block"), (0.5, 0.9), [(kind, ratio) for kind in ("random", "block") for ratio in (0.5, 0.9)]),
        (("block:0.5", "grid", "block:0.75"), (0.75,), [("block", 0.5), ("grid", 0.75), ("block", 0.75)]),
    ],
)
def test_masks_are_every_kind_at_every_ratio_or_at_its_own(kinds, ratios, wanted, images):
    run = loaded(method("pixel", constant(0.5)))
    found = Reconstructions(mask=kinds, ratios=ratios).masks(run)
    assert [(shown.kind, shown.ratio) for shown in found] == wanted
    errors = Reconstructions(mask=kinds, ratios=ratios).errors(run, images, np.arange(N))
    names = [f"{'' if kind == 'random' else f'{kind}_'}{ratio:g}" for kind, ratio in wanted]
    assert list(errors) == [f"{what}_{name}" for name in names for what in ("mse", "blank")]


def test_a_unit_is_as_large_as_in_the_runs_recipe(images):
    run = loaded(method("pixel", constant(0.5)))
    run.recipe.data = SimpleNamespace(mask=Mask("unit", unit=3))
    (shown,) = Reconstructions(mask=("unit:0.5",)).masks(run)
    hidden = hidden_patches(reconstruct(run.method, images, shown).masked)
    assert {each.sum() for each in hidden} == {18}
    assert all(len({*half.flat}) == 1 for each in hidden for row in np.vsplit(each, 2) for half in np.hsplit(row, 2))
    assert "window" not in KINDS


def test_a_mask_depends_on_the_image_not_on_its_batch():
    assert np.array_equal(keys_of(np.arange(10), 3)[[7]], keys_of(np.array([7]), 3))
    assert keys_of(np.array([7]), 3) != keys_of(np.array([7]), 4)


def evaluated(folder, *flags: object) -> dict:
    evaluate.measure("reconstruct", str(folder), [str(flag) for flag in flags])
    return read_evaluations(folder)[-1]["values"]


@pytest.mark.parametrize("recipe", ["mae:digits", "semi_mae:digits"])
def test_pictures_and_errors_of_a_run_are_kept(recipe, trained):
    folder = trained(recipe)
    values = evaluated(folder, "--measured", 20, "--batch", 8, "--chosen", 5, 2, "--device", "cpu")
    assert values["images"] == 20
    assert list(values)[1:] == [f"{what}_{ratio:g}" for ratio in RATIOS for what in ("mse", "blank")]
    assert all(0 < value < 2 for value in list(values.values())[1:])
    assert evaluated(folder, "--measured", 20, "--batch", 20, "--device", "cpu") == pytest.approx(values, rel=1e-4)
    assert "Reconstructions" in (folder / "evaluate-reconstruct.html").read_text()


def test_a_page_has_a_pair_of_columns_for_each_mask(trained):
    folder = trained("mae:digits")
    values = evaluated(
        folder, "--measured", 20, "--pictures", 2, "--mask", "random", "block", "grid", "--device", "cpu"
    )
    assert list(values)[1:] == [f"{what}_{name}" for name in ("0.75", "block_0.5", "grid_0.75")
                                for what in ("mse", "blank")]  # fmt: skip
    (coded,) = re.findall(r'data:image/png;base64,([^"]+)"', (folder / "evaluate-reconstruct.html").read_text())
    assert Image.open(io.BytesIO(base64.b64decode(coded))).width // 96 == 7


def test_errors_and_page_of_normalised_pixels_name_the_scale(trained, tmp_path):
    state = save_load.load(trained("mae:digits") / "last.pt")
    state["recipe"]["method"]["reconstruct"]["target"] = "norm_pix"  # of the same tensors
    folder = save_load.save(tmp_path, state).parent
    values = evaluated(folder, "--measured", 20, "--ratios", 0.5, "--device", "cpu")
    scales = [VISIBLE_SCALE, TRUE_SCALE]
    assert list(values)[1:] == [f"{what}_{how}_0.5" for how in scales for what in ("mse", "blank")]
    page = (folder / "evaluate-reconstruct.html").read_text()
    assert "no hidden pixel is used" in page
    assert "mse_visible_scale_0.5" in page


@pytest.mark.parametrize(("recipe", "flags", "said"), [
    ("supervised:digits", [], "has no masked branch; give a run of mae"),
    ("mae:digits", ["--ratios", 0.5, 1], "--ratios: mask ratio 1 leaves 0 of 16 patches visible; choose a lower one"),
    ("mae:digits", ["--ratios", 0], "mask ratio 0 leaves 16 of 16 patches"),
    ("mae:digits", ["--chosen", 3, 300], r"numbers from 0 to 299, .*got \[300\]"),
    ("mae:digits", ["--pictures", 0], "--pictures is 0, expected at least 1"),
    ("mae:digits", ["--ratios"], "--ratios: expected a mask ratio or more"),
    ("mae:digits", ["--mask", "blocks"], "called 'blocks'; did you mean block"),
    ("mae:digits", ["--mask", "window"], "over a whole image is called 'window'"),
    ("mae:digits", ["--mask", "block:half"], "--mask block:half: expected KIND or KIND:RATIO, as in block:0.75"),
    ("mae:digits", ["--mask", "block:nan"], "--mask block:nan: expected KIND"),
    ("mae:digits", ["--mask", "grid", "--ratios", 0.5], "--mask grid: a grid mask keeps a quarter"),
    ("mae:digits", ["--mask", "block", "block:0.5"], "one mask is there twice"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_said(recipe, flags, said, trained):
    with pytest.raises(InputError, match=said):
        evaluated(trained(recipe), *flags)


def test_a_run_whose_predictions_are_no_pictures_says_so(trained, monkeypatch):
    monkeypatch.setattr(MAEBranch, "predict", lambda *_: None)
    with pytest.raises(InputError, match="of which there is no picture"):
        evaluated(trained("mae:digits"))
