"""LoMaR's branch and method against its equation, window by window, over plain timm forwards."""

import numpy as np
import pytest
import torch

from models.bench.flops import GroupCost, count, encoder_flops
from models.encoder.patches import hidden_from_visible
from models.encoder.vit import MaskedImages, Size, build_encoder, encode, evaluating
from models.masked.build import build_branch
from models.masked.lomar import LoMaRBranch, covering
from models.masked.settings import Reconstruct
from models.method import StepInfo
from models.methods.lomar import LoMaR, Settings
from pipeline import rng
from pipeline.batch import Batch, Unlabelled
from pipeline.errors import InputError
from pipeline.spec import Mask
from pipeline.views import masks
from tests.models.masked.branch_cases import (
    PATCHES,
    assert_same,
    images_of,
    moved,
    poisoned,
    recipe_of,
    tokens_of,
    vit_of,
)

WINDOWS = Mask("window", 0.6, window=3, windows=2)
NORMALISED = Reconstruct(target="norm_pix")


def windows_of(samples: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Visible [N, 2, 4] and hidden [N, 2, 5] of 3 x 3 patches on a 4 x 4 grid, as the data path draws them."""
    visible, hidden = masks.draw(WINDOWS, rng.keys(0, 0, np.arange(samples), rng.MASK), 4)
    return torch.from_numpy(visible), torch.from_numpy(hidden)


def plain_tokens(vit, own, images, n, ids, covered):
    """One window, [1 + K, C]: its patches in raster order, tokens where they are covered, positions of the image."""
    x = vit.patch_embed(images[n : n + 1])[0]
    rows = [vit.cls_token[0, 0] + vit.pos_embed[0, 0]]
    rows += [(own.mask_token[0, 0] if i in covered else x[i]) + vit.pos_embed[0, 1 + i] for i in ids]
    return vit.norm(vit.blocks(torch.stack(rows)[None]))[0]


def each_window(visible, hidden):
    for n in range(len(visible)):
        for w in range(visible.shape[1]):
            yield n, sorted(visible[n, w].tolist() + hidden[n, w].tolist()), hidden[n, w].tolist()


def paper_loss(own, windows, images, *, normalise):
    """Mean squared error of each masked patch, summed, over their number; windows are (n, ids, covered, tokens)."""
    errors = []
    for n, ids, covered, tokens in windows:
        for i in covered:
            y, x = 4 * (i // 4), 4 * (i % 4)
            truth = images[n, :, y : y + 4, x : x + 4].permute(1, 2, 0).flatten()
            if normalise:
                truth = (truth - truth.mean()) / (truth.var() + 1e-6).sqrt()
            errors.append((own.head(tokens[1 + ids.index(i)]) - truth).square().mean())
    return sum(errors) / len(errors)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("target", ["norm_pix", "pixel"])
def test_the_loss_and_its_gradients_are_the_papers_with_absolute_positions(target, keep):
    vit, images, (visible, hidden) = vit_of(), images_of(), windows_of()
    own = moved(LoMaRBranch(vit, Reconstruct(target=target), 3, keep_visible=keep))
    ours = own(tokens_of(vit, own, images, visible, hidden), images, visible, hidden)
    windows = [(*each, plain_tokens(vit, own, images, *each)) for each in each_window(visible, hidden)]
    assert_same(ours, paper_loss(own, windows, images, normalise=target == "norm_pix"), vit, own)


def test_the_loss_and_its_gradients_are_the_papers_with_relative_positions():
    """Where a window lies does not matter: each is encoded as an image of its own, 12 x 12 pixels, all of it."""
    vit, images, (visible, hidden) = vit_of(position="irpe"), images_of(), windows_of()
    own = moved(LoMaRBranch(vit, NORMALISED, 3))
    ours = own(tokens_of(vit, own, images, visible, hidden), images, visible, hidden)
    windows = []
    for n, ids, covered in each_window(visible, hidden):
        y, x = 4 * (ids[0] // 4), 4 * (ids[0] % 4)
        image = images[n : n + 1, :, y : y + 12, x : x + 12]
        inside = torch.tensor([[i in covered for i in ids]])
        windows.append((n, ids, covered, encode(vit, [MaskedImages(image, inside, own.mask_token[0, 0])])[0][0]))
    assert_same(ours, paper_loss(own, windows, images, normalise=True), vit, own)


def test_the_method_is_its_branch():
    method = moved(LoMaR(recipe_of(Settings(), WINDOWS), 10))
    images, (visible, hidden) = images_of(), windows_of()
    batch = Batch(0, None, Unlabelled(torch.arange(3), images, visible=visible, hidden=hidden))
    loss, own = method(batch, StepInfo(0, labels_only=False)), method.branch
    windows = [(*each, plain_tokens(method.encoder, own, images, *each)) for each in each_window(visible, hidden)]
    assert_same(loss.total, paper_loss(own, windows, images, normalise=True), method)
    assert set(loss.parts) == {"pixels"}


@pytest.mark.parametrize("position", ["learned", "irpe"])
def test_hidden_pixels_and_those_outside_a_window_never_reach_its_tokens(position):
    vit, images, (visible, hidden) = vit_of(position=position), images_of(), windows_of()
    own = moved(LoMaRBranch(vit, NORMALISED, 3, keep_visible=True))
    before = tokens_of(vit, own, images, visible, hidden).unflatten(0, (3, 2))
    for w in (0, 1):
        other = [[i for i in range(PATCHES) if i not in row] for row in visible[:, w].tolist()]
        after = tokens_of(vit, own, poisoned(images, other), visible, hidden).unflatten(0, (3, 2))
        assert torch.equal(after[:, w], before[:, w])
        assert not torch.equal(after[:, 1 - w], before[:, 1 - w])


def test_the_tokens_of_visible_patches_are_handed_back_to_who_asked():
    vit, images, (visible, hidden) = vit_of(), images_of(), windows_of()
    own = moved(LoMaRBranch(vit, NORMALISED, 3, keep_visible=True))
    tokens = tokens_of(vit, own, images, visible, hidden)
    seen, classes = own.visible_tokens(tokens, visible), own.class_tokens(tokens, visible)
    assert seen.shape == (3, 8, 32)
    for number, (n, ids, covered) in enumerate(each_window(visible, hidden)):
        plain, w = plain_tokens(vit, own, images, n, ids, covered), number % 2
        for k, i in enumerate(visible[n, w].tolist()):
            torch.testing.assert_close(seen[n, 4 * w + k], plain[1 + ids.index(i)], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(tokens[number, 0], plain[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(classes, tokens[:, 0].view(3, 2, 32).mean(1))


def test_the_last_block_leaves_out_what_nobody_reads():
    with torch.device("meta"):
        vit = build_encoder(Size(32, 2, 4), image_size=16, patch=4, classes=0)
        own, images = LoMaRBranch(vit, NORMALISED, 3), torch.empty(3, 3, 16, 16)
        visible, hidden = (torch.empty(3, 2, k, dtype=torch.int64) for k in (4, 5))
        group = own.group(images, visible, hidden)
        assert count(lambda: encode(vit, [group])) == encoder_flops(vit, [GroupCost(6, 9, keep=6, learns=False)])


@pytest.mark.parametrize(("grid", "window", "corners"), [
    ((14, 14), 7, [0, 7, 98, 105]), ((4, 4), 3, [0, 1, 4, 5]), ((4, 4), 7, [0]), ((5, 4), 2, [0, 2, 8, 10, 12, 14]),
])  # fmt: skip
def test_windows_of_a_picture_cover_it_edge_to_edge(grid, window, corners):
    ids = covering(grid, window, torch.device("cpu"))
    assert ids[:, 0].tolist() == corners
    assert set(ids.flatten().tolist()) == set(range(grid[0] * grid[1]))


def test_a_picture_is_the_mean_prediction_of_the_windows_that_cover_a_patch():
    vit, images = vit_of(), images_of()
    own = moved(LoMaRBranch(vit, Reconstruct(), 3))
    visible = torch.tensor([[0, 5, 10], [3, 6, 15], [1, 2, 4]])
    hidden = hidden_from_visible(visible, PATCHES)
    found: dict[tuple[int, int], list] = {(n, i): [] for n in range(3) for i in hidden[n].tolist()}
    with evaluating(vit):
        for n in range(3):
            for corner in (0, 1, 4, 5):
                ids = [corner + 4 * y + x for y in range(3) for x in range(3)]
                tokens = plain_tokens(vit, own, images, n, ids, hidden[n].tolist())
                for k, i in enumerate(ids):
                    if (n, i) in found:
                        found[n, i].append(own.head(tokens[1 + k]))
    expected = torch.stack(
        [torch.stack([sum(found[n, i]) / len(found[n, i]) for i in hidden[n].tolist()]) for n in range(3)]
    )
    torch.testing.assert_close(own.predict(vit, images, visible), expected.float())


@pytest.mark.parametrize(("mask", "settings", "says"), [
    (Mask(), Reconstruct(), "branch lomar reads masks of kind window, got random; set --data.mask.kind"),
    (WINDOWS, Reconstruct(patches="all"), "branch lomar predicts hidden patches alone"),
])  # fmt: skip
def test_what_it_cannot_do_is_refused_in_a_line(mask, settings, says):
    with pytest.raises(InputError, match=says) as caught:
        build_branch("lomar", vit_of(), settings, mask)
    assert "\n" not in str(caught.value)


def test_the_method_and_maes_branch_refuse_each_others_masks():
    with pytest.raises(InputError, match="got unit"):
        LoMaR(recipe_of(Settings(), Mask("unit")), 10)
    with pytest.raises(InputError, match="branch mae reads masks of kind random, block, grid, unit, got window"):
        build_branch("mae", vit_of(), Reconstruct(), WINDOWS)
