"""The convolutional stream's blocks against torchvision's ResNet, and the couplings against loops over cells."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import Bottleneck

from models.semiformer.blocks import ConvBlock, Stem
from models.semiformer.couple import Down, PatchTokens, Up, blanked

DOUBLE = torch.float64


def shaken(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.3)
    return module.to(DOUBLE)


@pytest.mark.parametrize(("channels_in", "stride"), [(16, 1), (16, 2), (8, 1), (8, 2)])
@pytest.mark.parametrize("train", [True, False])
def test_a_conv_block_is_resnets_bottleneck(channels_in, stride, train):
    ours = shaken(ConvBlock(channels_in, 16, stride)).train(train)
    norm = partial(nn.BatchNorm2d, eps=1e-6)
    same = stride == 1 and channels_in == 16
    shortcut = None if same else nn.Sequential(nn.Conv2d(channels_in, 16, 1, stride, bias=False), norm(16))
    theirs = Bottleneck(channels_in, 4, stride, shortcut, norm_layer=norm).to(DOUBLE).train(train)
    names = {"reduce": ("conv1", "bn1"), "mix": ("conv2", "bn2"), "expand": ("conv3", "bn3")}
    for mine, pair in names.items():
        for module, other in zip(getattr(ours, mine), pair, strict=True):
            getattr(theirs, other).load_state_dict(module.state_dict())
    if not same:
        theirs.downsample.load_state_dict(ours.shortcut.state_dict())
    x = torch.randn(3, channels_in, 8, 8, dtype=DOUBLE)
    assert torch.allclose(ours(x), theirs(x), atol=1e-12)


@pytest.mark.parametrize("patch", [4, 8, 16])
def test_a_token_covers_four_cells_of_the_stems_map_along_each_side(patch):
    stem = Stem(8, patch)(torch.randn(2, 3, 2 * patch, 3 * patch))
    assert stem.shape == (2, 8, 8, 12)
    assert PatchTokens(8, 5, patch, (2, 3))(stem).shape == (2, 6, 5)


def test_a_frozen_stem_goes_by_running_statistics_and_leaves_them():
    stem = shaken(Stem(8, 16))
    x = torch.randn(2, 3, 32, 32, dtype=DOUBLE)
    before = stem.norm.running_mean.clone()
    frozen = stem.train()(x, frozen=True)
    assert torch.equal(stem.norm.running_mean, before)
    assert torch.allclose(frozen, stem.eval()(x), atol=1e-12)
    assert not torch.allclose(frozen, stem.train()(x))
    assert not torch.equal(stem.norm.running_mean, before)


def test_a_frozen_pass_can_be_differentiated_after_a_train_mode_pass():
    stem = Stem(8, 4)
    x = torch.randn(2, 3, 8, 8)
    frozen = stem(x, frozen=True)
    stem(x)
    frozen.sum().backward()
    assert stem.conv.weight.grad.abs().sum() > 0


def test_patch_tokens_are_a_strided_convolution_and_visible_ones_some_of_them():
    tokens = shaken(PatchTokens(8, 6, 16, (2, 3)))
    stem = torch.randn(2, 8, 8, 12, dtype=DOUBLE)
    every = tokens(stem)
    assert torch.allclose(every, tokens.proj(stem).flatten(2).transpose(1, 2), atol=1e-12)
    visible = torch.tensor([[0, 4], [2, 5]])
    assert torch.allclose(tokens(stem, visible), torch.stack([every[0, [0, 4]], every[1, [2, 5]]]), atol=1e-12)


@pytest.mark.parametrize("pool", [1, 2, 4])
def test_fcu_down_projects_each_cell_then_takes_the_mean_of_a_tokens_cells(pool):
    down = shaken(Down(8, 6, pool))
    x = torch.randn(2, 8, 2 * pool, 3 * pool, dtype=DOUBLE)
    tokens = down(x)
    assert tokens.shape == (2, 6, 6)
    weight, bias = down.project.weight[:, :, 0, 0], down.project.bias
    for image in range(2):
        for token in range(6):
            row, column = divmod(token, 3)
            cells = [
                weight @ x[image, :, row * pool + i, column * pool + j] + bias for i in range(pool) for j in range(pool)
            ]
            mean = sum(cells) / len(cells)
            expected = F.gelu((mean - mean.mean()) / (mean.var(unbiased=False) + 1e-6).sqrt() * down.norm.weight
                              + down.norm.bias)  # fmt: skip
            assert torch.allclose(tokens[image, token], expected, atol=1e-12)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_fcu_up_gives_each_cell_its_tokens_projection(scale):
    up = shaken(Up(6, 8, scale)).eval()
    tokens = torch.randn(2, 6, 6, dtype=DOUBLE)
    x = up(tokens, (2, 3))
    assert x.shape == (2, 8, 2 * scale, 3 * scale)
    norm = up.norm
    for y in range(2 * scale):
        for column in range(3 * scale):
            token = tokens[:, (y // scale) * 3 + column // scale]
            projected = token @ up.project.weight[:, :, 0, 0].T + up.project.bias
            normed = (projected - norm.running_mean) / (norm.running_var + 1e-6).sqrt() * norm.weight + norm.bias
            assert torch.allclose(x[:, :, y, column], normed.clamp_min(0), atol=1e-12)


def test_blanking_leaves_visible_patches_and_forgets_even_nan_in_the_others():
    x = torch.randn(2, 3, 8, 12, dtype=DOUBLE)
    x[0, 0, 0, 0] = float("nan")
    kept = blanked(x, torch.tensor([[1, 5], [0, 3]]), 4)
    for image, ids in enumerate(([1, 5], [0, 3])):
        for patch in range(6):
            row, column = divmod(patch, 3)
            where = image, slice(None), slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4)
            expected = x[where] if patch in ids else torch.zeros(3, 4, 4, dtype=DOUBLE)
            assert torch.equal(kept[where], expected)
