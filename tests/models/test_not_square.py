"""Images that are not square: networks and branches against plain forwards and slow loops, on grids such as 3 x 5."""

from dataclasses import asdict, replace
from math import prod

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from models.bench.baselines import plain_decode
from models.bench.flops import GroupCost, count, decoder_flops, encoder_flops
from models.bench.synthetic import synthetic_batch
from models.config.resolve import flags_of, resolve
from models.encoder.patches import hidden_from_visible
from models.encoder.positions import resampled, sincos_2d
from models.encoder.vit import FullImages, Size, VisiblePatches, build_encoder, encode, eval_logits
from models.factory import method_class
from models.masked.crossmae import CrossMAEBranch
from models.masked.lomar import LoMaRBranch, covering
from models.masked.mae import MAEBranch
from models.masked.settings import Cross, Reconstruct
from models.masked.simmim import SimMIMBranch
from models.masked.targets.fitting import Sample, opened
from pipeline import rng
from pipeline.batch import Unlabelled
from pipeline.errors import InputError
from pipeline.spec import Data, Mask, both_sides, spelt
from pipeline.views import masks
from tests.models.encoder.relative_by_hand import KINDS, build, plain
from tests.models.masked.branch_cases import DOUBLE, moved

PATCH, GRID = 4, (3, 5)
HEIGHT, WIDTH = SIZE = 12, 20
PATCHES = 15


def vit_of(**options) -> nn.Module:
    torch.manual_seed(0)
    return moved(build_encoder(Size(32, 2, 4), image_size=SIZE, patch=PATCH, classes=0, **options))


def images_of(samples: int = 3) -> Tensor:
    return torch.randn(samples, 3, *SIZE, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))


def drawn(mask: Mask, samples: int = 3) -> list[Tensor]:
    found = masks.draw(mask, rng.keys(0, 0, np.arange(samples), rng.MASK), GRID)
    return [torch.from_numpy(part) for part in found if part is not None]


def patch_of(images: Tensor, n: int, i: int) -> Tensor:
    """Pixels of a patch, (y, x, channel), cut by hand."""
    y, x = PATCH * (i // GRID[1]), PATCH * (i % GRID[1])
    return images[n, :, y : y + PATCH, x : x + PATCH].permute(1, 2, 0).flatten()


def squared(prediction: Tensor, images: Tensor, ids: Tensor) -> Tensor:
    """Mean squared error of predictions [N, M, patch² · 3] of patches `ids`, one after another."""
    errors = [
        (prediction[n, m] - patch_of(images, n, int(i))).square().mean()
        for n, row in enumerate(ids)
        for m, i in enumerate(row)
    ]
    return torch.stack(errors).mean()


def test_an_encoder_of_a_name_is_timms_of_both_sides():
    ours = build_encoder("vit_tiny_patch16_224", image_size=(224, 112), patch=16, classes=7).eval()
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=(224, 112), num_classes=7).eval()
    theirs.load_state_dict(ours.state_dict())
    assert ours.pos_embed.shape == (1, 1 + 98, 192)
    x = torch.randn(2, 3, 224, 112, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(eval_logits(ours, x), theirs(x), rtol=1e-5, atol=1e-5)


def test_a_patch_that_divides_one_side_is_refused_with_the_nearest_sizes():
    for size, near in (
        ((224, 100), "224 x 96 or 112"),
        ((100, 224), "96 or 112 x 224"),
        ((90, 40), "80 or 96 x 32 or 48"),
    ):
        says = f"patches of 16 pixels do not divide images of {size[0]} x {size[1]}; set the image size to {near}"
        with pytest.raises(InputError, match=f"^{says}$"):
            build_encoder(Size(32, 1, 2), image_size=size, patch=16, classes=0)
        recipe = resolve("semiformer:digits", ["--data.size", *map(str, size), "--encoder.patch=16"])
        with pytest.raises(InputError, match=f"^{says}$"):
            method_class(recipe)(recipe, 10)


@pytest.mark.parametrize("position", ["learned", "sincos"])
def test_visible_patches_are_encoded_as_the_plain_model_does_and_others_are_not_read(position):
    vit, x, (visible,) = vit_of(position=position), images_of(), drawn(Mask(ratio=0.6))
    if position == "sincos":
        table = sincos_2d(32, GRID)
        vit.pos_embed.data = torch.cat([torch.zeros(1, 32, dtype=DOUBLE), table])[None]
    tokens, whole = encode(vit, [VisiblePatches(x, visible), FullImages(x, pooled=False)])
    embedded = torch.stack([torch.stack([vit.patch_embed.proj(x[n : n + 1]).flatten(2)[0, :, i] for i in row])
                            for n, row in enumerate(visible.tolist())])  # fmt: skip
    embedded = embedded + vit.pos_embed[0, 1:][visible]
    first = (vit.cls_token + vit.pos_embed[:, :1]).expand(3, -1, -1)
    torch.testing.assert_close(tokens, vit.norm(vit.blocks(torch.cat([first, embedded], 1))), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(whole, vit.forward_features(x), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_relative_positions_are_those_of_loops_over_pairs(kind):
    """Full images, visible patches in any order, and smaller images in the proportion."""
    vit = build(kind, pixels=(24, 40))
    x = torch.randn(2, 3, 24, 40, dtype=DOUBLE)
    every, some = torch.arange(15).expand(2, -1), torch.rand(2, 15).argsort(1)[:, :6]
    full, part = encode(vit, [FullImages(x, pooled=False), VisiblePatches(x, some)])
    torch.testing.assert_close(full, plain(vit, kind, x, every), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(part, plain(vit, kind, x, some), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mask", [Mask(ratio=0.6), Mask("block", 0.6)])
def test_maes_loss_is_that_of_the_decoder_in_raster_order(mask):
    vit, x, (visible,) = vit_of(position="sincos"), images_of(), drawn(mask)
    branch = moved(MAEBranch(vit, Reconstruct(depth=2, width=24, heads=3, target="pixel")))
    torch.testing.assert_close(branch.decoder.positions.double(), sincos_2d(24, GRID), rtol=1e-6, atol=1e-6)
    tokens = encode(vit, [branch.group(x, visible)])[0]
    hidden = hidden_from_visible(visible, PATCHES)
    predicted = plain_decode(branch.decoder, tokens, visible)
    predicted = predicted.gather(1, hidden[..., None].expand(-1, -1, predicted.shape[-1]))
    torch.testing.assert_close(branch(tokens, x, visible), squared(predicted, x, hidden), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(branch.predict_patches(vit, x, visible, hidden), predicted, rtol=1e-10, atol=1e-11)


def test_simmims_loss_is_that_of_mask_tokens_in_the_image():
    vit, x = vit_of(), images_of()
    visible = torch.tensor([[0, 1, 5, 6, 14], [2, 3, 7, 8, 10], [9, 11, 12, 13, 14]])
    branch = moved(SimMIMBranch(vit, Reconstruct(target="pixel")))
    tokens, hidden = encode(vit, [branch.group(x, visible)])[0], hidden_from_visible(visible, PATCHES)
    covered = torch.ones(3, PATCHES, dtype=torch.bool).scatter(1, visible, False)
    embedded = torch.where(covered[..., None], branch.mask_token, vit.patch_embed(x)) + vit.pos_embed[:, 1:]
    first = (vit.cls_token + vit.pos_embed[:, :1]).expand(3, -1, -1)
    plainly = vit.norm(vit.blocks(torch.cat([first, embedded], 1)))[:, 1:]
    expected = branch.head(plainly[covered].unflatten(0, (3, -1)))
    torch.testing.assert_close(branch.predict_patches(vit, x, visible, hidden), expected, rtol=1e-10, atol=1e-11)
    assert branch(tokens, x, visible).isfinite()
    assert hidden.shape == (3, 10)


def test_lomars_windows_are_encoded_by_themselves():
    vit, x = vit_of(), images_of()
    visible, hidden = drawn(Mask("window", 0.6, window=3, windows=2))
    branch = moved(LoMaRBranch(vit, Reconstruct(target="pixel"), 3))
    tokens = encode(vit, [branch.group(x, visible, hidden)])[0]
    errors = []
    for n in range(3):
        for w in range(2):
            ids, covered = sorted([*visible[n, w].tolist(), *hidden[n, w].tolist()]), set(hidden[n, w].tolist())
            embedded = vit.patch_embed(x[n : n + 1])[0]
            rows = [vit.cls_token[0, 0] + vit.pos_embed[0, 0]]
            rows += [(branch.mask_token[0, 0] if i in covered else embedded[i]) + vit.pos_embed[0, 1 + i] for i in ids]
            plainly = vit.norm(vit.blocks(torch.stack(rows)[None]))[0]
            errors += [(branch.head(plainly[1 + ids.index(i)]) - patch_of(x, n, i)).square().mean() for i in covered]
    torch.testing.assert_close(branch(tokens, x, visible, hidden), torch.stack(errors).mean(), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("grid", [(3, 5), (4, 2), (2, 7)])
def test_windows_that_cover_a_grid_leave_no_patch_out(grid):
    side = min(2, *grid)
    found = covering(grid, side, torch.device("cpu"))
    assert set(found.flatten().tolist()) == set(range(prod(grid)))
    assert all((row % grid[1]).max() - (row % grid[1]).min() == side - 1 for row in found)


def test_crossmaes_predictions_do_not_depend_on_each_other():
    vit, x, (visible,) = vit_of(), images_of(), drawn(Mask(ratio=0.6))
    branch = moved(CrossMAEBranch(vit, Cross(depth=2, width=24, heads=3, predict=0.4, target="pixel"), 0))
    torch.testing.assert_close(branch.decoder.positions.double(), sincos_2d(24, GRID), rtol=1e-6, atol=1e-6)
    hidden = hidden_from_visible(visible, PATCHES)
    predicted = branch.predict_patches(vit, x, visible, hidden)
    assert predicted.shape == (3, 9, PATCH * PATCH * 3)
    some = branch.predict_patches(vit, x, visible, hidden[:, [4, 2]])
    torch.testing.assert_close(some, predicted[:, [4, 2]], rtol=1e-11, atol=1e-12)
    loss = branch.loss(vit, Unlabelled(torch.arange(3), x, visible=visible), 0)
    assert loss.isfinite()


def test_positions_of_a_smaller_image_span_the_whole_table():
    """Sizes that grow in proportion: the same as an encoder of the smaller size with a table resampled."""
    vit = vit_of()
    small = moved(build_encoder(Size(32, 2, 4), image_size=(24, 40), patch=PATCH, classes=0))
    small.load_state_dict(vit.state_dict() | {"pos_embed": resampled(vit.pos_embed, GRID, (6, 10), 1).detach()})
    x = torch.randn(2, 3, 24, 40, dtype=DOUBLE)
    groups = [FullImages(x, pooled=False)]
    torch.testing.assert_close(encode(vit, groups)[0], encode(small, groups)[0], rtol=1e-10, atol=1e-11)


def test_flops_are_counted_by_the_patches_of_both_sides():
    with torch.device("meta"):
        vit = build_encoder(Size(32, 2, 4), image_size=SIZE, patch=PATCH, classes=0)
        branch = MAEBranch(vit, Reconstruct(depth=2, width=24, heads=3))
        x, visible = torch.empty(2, 3, *SIZE), torch.zeros(2, 6, dtype=torch.long)
    cost = encoder_flops(vit, [GroupCost(2, 6)]) + decoder_flops(branch.decoder, 2, 6, 9)
    assert count(lambda: branch(encode(vit, [branch.group(x, visible)])[0], x, visible).backward()) == cost


def test_a_semiformer_couples_maps_and_tokens_of_both_sides():
    recipe = resolve("semiformer:digits", ["--data.size", "16", "8", "--encoder.position", "learned"])
    torch.manual_seed(0)
    method = method_class(recipe)(recipe, 10).eval()
    x = torch.randn(2, 3, 16, 8)
    with torch.no_grad():
        scores = method.logits(x)
        assert scores.shape == (2, 10)
        visible = torch.tensor([[0, 3, 5], [1, 2, 7]])
        tokens = method.encoder.visible_tokens(x, visible)
        assert tokens.shape[:2] == (2, 4)
        poisoned = x.clone()
        poisoned[0, :, 0:4, 4:8] += 100.0  # patch 1 of the first image, which is hidden
        torch.testing.assert_close(method.encoder.visible_tokens(poisoned, visible), tokens)
        poisoned[0, :, 4:8, 4:8] += 100.0  # and patch 3, which is not
        assert (method.encoder.visible_tokens(poisoned, visible)[0] - tokens[0]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["semi_mae:digits", "mae:digits", "supmae:digits"])
def test_random_batches_of_benches_have_both_sides(name):
    recipe = resolve(name, ["--data.size", "16", "8"])
    batch = synthetic_batch(recipe, 16, 10, torch.device("cpu"))
    part = batch.unlabelled or batch.labelled
    assert (part.weak if batch.unlabelled else part.images).shape[-2:] == (16, 8)
    assert part.visible.max() < 8


def test_a_target_is_fitted_on_patches_of_both_sides(digits):
    found = opened(Sample(str(digits / "train.beton"), "mae:digits", size=(16, 8), images=6))
    assert found.count == 6 * 8
    assert sum(len(part) for part in found.parts) == 6 * 8
    with pytest.raises(InputError, match="1 or more, got 6, \\(16, 0\\)"):
        opened(Sample(str(digits / "train.beton"), "mae:digits", size=(16, 0), images=6))


def test_a_size_is_spelt_with_as_few_numbers_as_it_needs():
    assert both_sides(224) == both_sides((224, 224)) == (224, 224)
    assert (spelt(224), spelt((224, 224)), spelt((224, 112))) == ("224", "224", "224 x 112")
    assert Data(size=(224, 224)) == Data(size=224)
    assert asdict(Data(size=(96, 96)))["size"] == 96
    assert replace(Data(size=96), size=(96, 48)).size == (96, 48)


@pytest.mark.parametrize("words", [["16", "8"], ["8", "16"], ["32"]])
def test_the_command_of_a_recipe_names_its_size_again(words):
    recipe = resolve("mae:digits", ["--data.size", *words])
    assert flags_of(recipe) == ["--data.size", *words]
    assert resolve("mae:digits", flags_of(recipe)) == recipe
    assert flags_of(resolve("mae:digits", ["--data.size", "16", "16"])) == []


@pytest.mark.parametrize(("words", "says"), [
    (["16", "0"], "data.size is 0, expected at least 1"),
    (["-3", "8"], "data.size is -3, expected at least 1"),
    (["16", "8", "3"], r"--data.size is 16 8 3; expected --data.size INT\|{INT INT}"),
    (["wide"], r"--data.size is wide; expected --data.size INT"),
])  # fmt: skip
def test_a_size_of_other_numbers_is_refused_in_a_line(words, says):
    with pytest.raises(InputError, match=says) as caught:
        resolve("mae:digits", ["--data.size", *words])
    assert "\n" not in str(caught.value)
