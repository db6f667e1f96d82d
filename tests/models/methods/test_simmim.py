"""SimMIM's branch and method against its equation, written out over plain timm forwards and whole images."""

import pytest
import torch

from models.bench.flops import GroupCost, count, encoder_flops
from models.encoder.vit import Size, build_encoder, encode, evaluating
from models.masked.build import build_branch
from models.masked.settings import Reconstruct
from models.masked.simmim import SimMIMBranch
from models.method import StepInfo
from models.methods.simmim import Settings, SimMIM
from pipeline.batch import Batch, Unlabelled
from pipeline.errors import InputError
from pipeline.spec import Mask
from tests.models.masked.branch_cases import (
    DOUBLE,
    PATCHES,
    assert_same,
    images_of,
    moved,
    poisoned,
    recipe_of,
    tokens_of,
    vit_of,
)

UNITS = Mask("unit", 0.5, unit=2)
VISIBLE = torch.tensor([[0, 1, 4, 5, 10, 11, 14, 15], [2, 3, 6, 7, 8, 9, 12, 13], [0, 1, 2, 3, 4, 5, 6, 7]])
HIDDEN = [[i for i in range(PATCHES) if i not in row] for row in VISIBLE.tolist()]


def plain_tokens(vit, own, images):
    """[N, 1 + L, C] from timm's modules: project all, put the token where patches are hidden, add positions."""
    x = vit.patch_embed(images)
    rows = [[own.mask_token[0, 0] if i in HIDDEN[n] else x[n, i] for i in range(PATCHES)] for n in range(len(images))]
    x = torch.stack([torch.stack(row) for row in rows])
    x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], 1) + vit.pos_embed
    return vit.norm(vit.blocks(x))


def paper_loss(own, tokens, images, *, squared=False, normalise=False):
    """||y_M - x_M||_1 / Omega(x_M), eq. of section 3.4: pixel by pixel, on whole images."""
    total, masked = 0.0, 0
    for n, ids in enumerate(HIDDEN):
        for i in ids:
            y, x = 4 * (i // 4), 4 * (i % 4)
            truth = images[n, :, y : y + 4, x : x + 4]
            if normalise:
                truth = (truth - truth.mean()) / (truth.var() + 1e-6).sqrt()
            guess = own.head(tokens[n, 1 + i]).view(4, 4, 3).permute(2, 0, 1)
            difference = (guess - truth).abs()
            total = total + (difference**2 if squared else difference).sum()
            masked += difference[0].numel()
    return total / masked / 3


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(("target", "error"), [("pixel", None), ("norm_pix", "absolute"), ("pixel", "squared")])
def test_the_loss_and_its_gradients_are_the_papers(target, error, keep):
    vit, images = vit_of(), images_of()
    own = moved(SimMIMBranch(vit, Reconstruct(target=target, error=error), keep_visible=keep))
    ours = own(tokens_of(vit, own, images, VISIBLE), images, VISIBLE)
    tokens = plain_tokens(vit, own, images)
    assert_same(
        ours, paper_loss(own, tokens, images, squared=error == "squared", normalise=target != "pixel"), vit, own
    )


def test_the_method_is_its_branch_with_stochastic_depth():
    method = moved(SimMIM(recipe_of(Settings(), UNITS, drop_path=0.9), 10))
    images = images_of()
    batch = Batch(0, None, Unlabelled(torch.arange(3), images, visible=VISIBLE))
    with evaluating(method):
        loss = method(batch, StepInfo(0, labels_only=False))
        tokens = plain_tokens(method.encoder, method.branch, images)
        assert_same(loss.total, paper_loss(method.branch, tokens, images), method)
    assert set(loss.parts) == {"pixels"}
    drawn = {method(batch, StepInfo(0, labels_only=False)).total.item() for _ in range(8)}
    assert len(drawn) > 1
    quiet = build_branch("simmim", method.encoder, Reconstruct(), UNITS).double()
    assert len({tokens_of(method.encoder, quiet, images, VISIBLE).sum().item() for _ in range(8)}) == 1


@pytest.mark.parametrize("position", ["learned", "bias", "irpe"])
def test_relative_positions_are_kept_in_raster_order_and_the_loss_is_the_same_either_way(position):
    vit, images = vit_of(position=position), images_of()
    own = moved(SimMIMBranch(vit, Reconstruct()))
    assert own.hidden_first == (position == "learned")
    losses = []
    for own.hidden_first in (True, False):
        tokens = tokens_of(vit, own, images, VISIBLE)
        assert tokens.shape[1] == (9 if own.hidden_first else 17)
        losses.append(own(tokens, images, VISIBLE))
    assert_same(*losses, vit, own)


@pytest.mark.parametrize("keep", [False, True])
def test_hidden_pixels_never_reach_the_encoder_and_visible_ones_do(keep):
    vit, images = vit_of(), images_of()
    own = moved(SimMIMBranch(vit, Reconstruct(), keep_visible=keep))
    before = tokens_of(vit, own, images, VISIBLE)
    assert torch.equal(tokens_of(vit, own, poisoned(images, HIDDEN), VISIBLE), before)
    assert not torch.allclose(tokens_of(vit, own, poisoned(images, [[15], [2], [0]]), VISIBLE), before)


def test_the_tokens_of_visible_patches_are_handed_back_to_who_asked():
    vit, images = vit_of(), images_of()
    own = moved(SimMIMBranch(vit, Reconstruct(), keep_visible=True))
    tokens, plain = tokens_of(vit, own, images, VISIBLE), plain_tokens(vit, own, images)
    seen = torch.stack([plain[n, 1 + VISIBLE[n]] for n in range(3)])
    torch.testing.assert_close(own.visible_tokens(tokens, VISIBLE), seen, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(own.class_tokens(tokens, VISIBLE), plain[:, 0], rtol=1e-11, atol=1e-11)


def test_a_picture_is_the_prediction_of_each_hidden_patch():
    vit, images = vit_of(drop_path=0.5), images_of()
    own = moved(SimMIMBranch(vit, Reconstruct(), drop_path=True))
    predicted = own.predict(vit, images, VISIBLE)
    with evaluating(vit):
        plain = own.head(plain_tokens(vit, own, images))
    expected = torch.stack([plain[n, [1 + i for i in HIDDEN[n]]] for n in range(3)])
    torch.testing.assert_close(predicted, expected.float())
    assert vit.training


def test_images_of_another_size_have_their_own_grid():
    vit, images = vit_of(), images_of(pixels=24)
    own = moved(SimMIMBranch(vit, Reconstruct()))
    visible = torch.arange(12).expand(3, -1)
    loss = own(tokens_of(vit, own, images, visible), images, visible)
    predicted = own.predict(vit, images, visible)
    assert predicted.shape == (3, 24, 48)
    from models.encoder.patches import patchify

    assert loss.item() == pytest.approx((predicted - patchify(images, 4)[:, 12:]).abs().mean().item(), rel=1e-5)


def test_the_last_block_leaves_out_what_nobody_reads():
    with torch.device("meta"):
        vit = build_encoder(Size(32, 2, 4), image_size=16, patch=4, classes=0)
        own, images = SimMIMBranch(vit, Reconstruct()), torch.empty(2, 3, 16, 16)
        visible = torch.empty(2, 4, dtype=torch.int64)
        group = own.group(images, visible)
        assert count(lambda: encode(vit, [group])) == encoder_flops(vit, [GroupCost(2, 16, keep=13, learns=False)])


@pytest.mark.parametrize(("mask", "settings", "says"), [
    (Mask("window"), Reconstruct(), "branch simmim reads masks of kind random, block, grid, unit, got window"),
    (UNITS, Reconstruct(patches="all"), "branch simmim predicts hidden patches alone"),
    (UNITS, Reconstruct(target="pca", error="absolute"), "error is absolute, which compares pixels; target pca"),
])  # fmt: skip
def test_what_it_cannot_do_is_refused_in_a_line(mask, settings, says):
    with pytest.raises(InputError, match=says) as caught:
        build_branch("simmim", vit_of(), settings, mask)
    assert "\n" not in str(caught.value)


def test_the_method_refuses_windows_too():
    with pytest.raises(InputError, match=r"got window; set --data\.mask\.kind"):
        SimMIM(recipe_of(Settings(), Mask("window")), 10)
    assert SimMIM(recipe_of(Settings(), Mask()), 10).double().encoder.cls_token.dtype == DOUBLE
