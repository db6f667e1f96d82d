"""Windowed encoders and decomposed positions against plain loops of timm's blocks; the pyramid against plain torch."""

import copy
from itertools import pairwise

import pytest
import timm
import torch
import torch.nn.functional as F

from models.config.recipe import Encoder, Optim
from models.dense.feature_pyramid import FeaturePyramid
from models.dense.windows import global_blocks, window_features
from models.distributed.compile import compile_blocks
from models.encoder.axes import add_axes
from models.encoder.build import Size, build_encoder
from models.encoder.freeze import adapt
from models.encoder.lora import is_factor
from models.encoder.packed import as_packed
from models.encoder.relative import add_relative, irpe_buckets
from models.encoder.rotary import as_packed_eva
from models.encoder.vit import FullImages, encode_blocks
from models.optim.build import build_optimiser, lr_scale
from models.pretrained.load_into import without_added
from models.pretrained.weights import Weights
from pipeline.errors import InputError

SMALL = {"embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 0}


def plain(patch=16, sides=(112, 80), **options):
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=sides, patch_size=patch, **SMALL | options)
    return as_packed(vit).double().eval()


def images(n=2, height=112, width=80):
    """Images that are normalised already."""
    return torch.randn(n, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def tokens_of(vit, x):
    """Timm's own embedding without its prefix, as a picture [N, h, w, C]."""
    grid = x.shape[2] // vit.patch_embed.patch_size[0], x.shape[3] // vit.patch_embed.patch_size[0]
    embedded = vit.norm_pre(vit._pos_embed(vit.patch_embed(x)))
    return embedded[:, vit.num_prefix_tokens :].unflatten(1, grid)


def squares(grid, window):
    """The windows of a grid, as two slices each, in any order."""
    return [
        (slice(top, min(top + window, grid[0])), slice(left, min(left + window, grid[1])))
        for top in range(0, grid[0], window)
        for left in range(0, grid[1], window)
    ]


def loop(vit, x, window, whole, attend):
    """Every block on every window of every image, one by one, with timm's parts; attend(block, rows, place) -> rows."""
    out = tokens_of(vit, x).clone()
    for number, block in enumerate(vit.blocks, 1):
        places = [(slice(None), slice(None))] if number in whole else squares(out.shape[1:3], window)
        out = torch.stack([each.clone() for each in out])
        new = torch.empty_like(out)
        for image in range(len(out)):
            for place in places:
                part = out[image][place]
                sides = part.shape[:2]
                new[image][place] = attend(block, part.flatten(0, 1), place, sides).unflatten(0, sides)
        out = new
    return out.permute(0, 3, 1, 2)


def timm_block(block, rows, place, sides):
    return timm.models.vision_transformer.Block.forward(block, rows[None])[0]


@pytest.mark.parametrize(("patch", "options"), [(16, {}), (14, {"reg_tokens": 2}), (16, {"class_token": False,
                         "global_pool": "avg", "qk_norm": True})], ids=["16", "14", "no prefix"])  # fmt: skip
def test_windows_are_timms_blocks_on_each_window_alone(patch, options):
    sides = 7 * patch, 5 * patch
    vit, x = plain(patch, sides, **options), images(2, *sides)
    with torch.no_grad():
        ours = window_features(vit, x, 3, (2, 4))
        torch.testing.assert_close(ours, loop(vit, x, 3, (2, 4), timm_block))
        assert ours.shape == (2, 32, 7, 5)
        even = images(1, 6 * patch, 3 * patch)
        small = plain(patch, (6 * patch, 3 * patch), **options)
        torch.testing.assert_close(window_features(small, even, 3, (4,)), loop(small, even, 3, (4,), timm_block))
        torch.testing.assert_close(window_features(vit, x, 9, (4,)), window_features(vit, x, 9, (1, 2, 3, 4)))


def test_blocks_that_all_attend_over_the_image_are_an_encoder_of_before_and_gradients_are_the_same():
    vit, x = plain(class_token=False, global_pool="avg"), images()
    (last,) = encode_blocks(vit, FullImages(x, pooled=False), (4,))
    ours = window_features(vit, x, 3, (1, 2, 3, 4))
    assert torch.equal(ours, last.transpose(1, 2).unflatten(2, (7, 5)))
    found = []
    for features in (window_features(vit, x, 2, (2,)), loop(vit, x, 2, (2,), timm_block)):
        vit.zero_grad()
        features.sin().sum().backward()
        found.append([parameter.grad for parameter in vit.blocks.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_stochastic_depth_drops_images_and_not_windows(monkeypatch):
    vit, x = plain(drop_path_rate=0.5).train(), images(3)
    drawn = []

    def fixed(parts, rows, layout):
        assert layout.shapes == ((3, 35),)
        drawn.extend(torch.tensor([[2.0], [0.0], [1.5]], dtype=rows.dtype).roll(n, 0) for n in range(len(parts)))
        return drawn[-len(parts) :]

    monkeypatch.setattr("models.encoder.vit.drop_factors", fixed)
    ours = window_features(vit, x, 3, (2, 4))
    factors = iter(drawn)
    out = tokens_of(vit, x)
    for number, block in enumerate(vit.blocks, 1):
        first, second = next(factors)[:, :, None, None], next(factors)[:, :, None, None]
        attended = torch.zeros_like(out)
        for place in [(slice(None), slice(None))] if number in (2, 4) else squares((7, 5), 3):
            part = out[:, place[0], place[1]]
            done = block.attn(block.norm1(part.flatten(1, 2)))
            attended[:, place[0], place[1]] = done.unflatten(1, part.shape[1:3])
        out = out + first * attended
        out = out + second * block.mlp(block.norm2(out))
    torch.testing.assert_close(ours, out.permute(0, 3, 1, 2))


def attention_with(block, rows, bias, turn=None):
    """A block of timm as its equations, scores plus a bias [heads, T, T]; turn(q or k [heads, T, d])."""
    attn, normed = block.attn, block.norm1(rows)
    q, k, v = attn.qkv(normed).unflatten(1, (3, attn.num_heads, attn.head_dim)).permute(1, 2, 0, 3)
    if turn is not None:
        q, k = turn(q), turn(k)
    scores = q @ k.transpose(1, 2) * attn.head_dim**-0.5 + bias(q)
    rows = rows + attn.proj((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
    return rows + block.mlp(block.norm2(rows))


@pytest.mark.parametrize("kind", ["irpe", "bias", "block_bias"])
def test_relative_positions_are_those_of_the_whole_images_patches(kind):
    vit, x = plain(pos_embed="none"), images()
    add_relative(vit, kind)
    vit.double()
    for name, parameter in vit.named_parameters():
        if "table" in name:
            torch.nn.init.normal_(parameter)
    ids = torch.arange(35).view(7, 5)

    def attend(block, rows, place, sides):
        cells = ids[place].flatten()
        down = (cells // 5)[:, None] - (cells // 5)[None]
        across = (cells % 5)[:, None] - (cells % 5)[None]

        def bias(q):
            if kind == "irpe":
                bucket = irpe_buckets(ids.flatten()[None], 5, 0)[0][cells][:, cells]
                each = q @ block.attn.rpe_k.lookup_table_weight
                return each.gather(-1, bucket.expand(2, -1, -1))
            table = block.attn if kind == "block_bias" else vit.rel_pos_bias
            return table.relative_position_bias_table[(down + 6) * 9 + across + 4].permute(2, 0, 1)

        return attention_with(block, rows, bias)

    with torch.no_grad():
        torch.testing.assert_close(window_features(vit, x, 3, (2, 4)), loop(vit, x, 3, (2, 4), attend))


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_small_patch16_rope_mixed_ape_224"])
def test_rotary_positions_are_those_of_the_whole_images_patches(name):
    torch.manual_seed(0)
    options = {"img_size": (112, 80), "embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 0}
    vit = as_packed_eva(timm.create_model(name, dynamic_img_size=True, **options)).double().eval()
    x, prefix = images(), vit.num_prefix_tokens
    with torch.no_grad():
        found, turns = window_features(vit, x, 3, (1, 2, 3, 4)), vit.rope.get_embed(shape=[7, 5])
        whole = rotary_loop(vit, x, turns, 9)
        torch.testing.assert_close(found, whole)
        torch.testing.assert_close(window_features(vit, x, 3, (2, 4)), rotary_loop(vit, x, turns, 3))
    assert prefix > 0


def rotary_loop(vit, x, turns, window):
    """Blocks 2 and 4 on whole images, 1 and 3 on each window with the turns of its patches, by timm's blocks."""
    embedded, _ = vit._pos_embed(vit.patch_embed(x))
    out = embedded[:, vit.num_prefix_tokens :].unflatten(1, (7, 5))
    for number, block in enumerate(vit.blocks, 1):
        table = (turns[number - 1] if vit.rope_mixed else turns).double().unflatten(-2, (7, 5))
        new = torch.empty_like(out)
        for place in [(slice(None), slice(None))] if number in (2, 4) else squares((7, 5), window):
            own = table[..., place[0], place[1], :].flatten(-3, -2)
            part = out[:, place[0], place[1]]
            rows = part.flatten(1, 2)
            old, block.attn.num_prefix_tokens = block.attn.num_prefix_tokens, 0
            done = timm.models.eva.EvaBlock.forward(block, rows, rope=own)
            block.attn.num_prefix_tokens = old
            new[:, place[0], place[1]] = done.unflatten(1, part.shape[1:3])
        out = new
    return out.permute(0, 3, 1, 2)


def with_axes(window=3, whole=(2, 4), **options):
    vit = plain(**options)
    add_axes(vit, window, whole)
    for name, parameter in vit.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(parameter)
    return vit


def axes_formula(block, rows, place, sides):
    y, x = (line.flatten() for line in torch.meshgrid(*map(torch.arange, sides), indexing="ij"))
    h, w = (len(table) // 2 for table in (block.attn.rel_pos_h, block.attn.rel_pos_w))

    def bias(q):
        down = block.attn.rel_pos_h[y[:, None] - y[None] + h]  # [T, T, d]
        across = block.attn.rel_pos_w[x[:, None] - x[None] + w]
        return torch.einsum("htd,tsd->hts", q, down) + torch.einsum("htd,tsd->hts", q, across)

    return attention_with(block, rows, bias)


def test_decomposed_positions_are_their_formula_with_all_pairs_and_begin_at_zero():
    vit, x = with_axes(), images()
    assert {name: tuple(p.shape) for name, p in vit.named_parameters() if "rel_pos_h" in name} == {
        f"blocks.{n}.attn.rel_pos_h": (2 * side - 1, 16) for n, side in enumerate((3, 7, 3, 7))
    }
    assert vit.blocks[1].attn.rel_pos_w.shape == (9, 16)
    found = []
    for features in (window_features(vit, x, 3, (2, 4)), loop(vit, x, 3, (2, 4), axes_formula)):
        vit.zero_grad()
        features.sin().sum().backward()
        found.append([features, *(parameter.grad for parameter in vit.blocks.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    without = plain()
    before = window_features(without, x, 3, (2, 4))
    add_axes(without, 3, (2, 4))
    torch.testing.assert_close(window_features(without, x, 3, (2, 4)), before)


def test_decomposed_positions_of_another_image_are_resampled_linearly_and_those_of_windows_stay():
    vit, other = with_axes(dynamic_img_size=True), images(1, 160, 96)
    resized = copy.deepcopy(vit)
    for block in (resized.blocks[1], resized.blocks[3]):
        for name, side in (("rel_pos_h", 10), ("rel_pos_w", 6)):
            table = getattr(block.attn, name).detach()
            place = ((torch.arange(2 * side - 1) + 0.5) * len(table) / (2 * side - 1) - 0.5).clamp(0, len(table) - 1)
            low, share = place.floor().long(), (place - place.floor())[:, None]
            new = table[low] * (1 - share) + table[(low + 1).clamp(max=len(table) - 1)] * share
            setattr(block.attn, name, torch.nn.Parameter(new.double()))
    with torch.no_grad():
        ours = window_features(vit, other, 3, (2, 4))
        torch.testing.assert_close(ours, loop(resized, other, 3, (2, 4), axes_formula), rtol=1e-5, atol=1e-6)


def test_checkpointing_compiling_autocast_and_lora_change_nothing_but_rounding():
    vit, x = with_axes().float(), images().float()
    expected = window_features(vit, x, 3, (2, 4))
    other = copy.deepcopy(vit)
    other.set_grad_checkpointing(True)
    other.train()
    torch.testing.assert_close(window_features(other, x, 3, (2, 4)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        half = window_features(vit, x, 3, (2, 4))
    assert F.cosine_similarity(half.float().flatten(), expected.flatten(), 0) > 0.99
    lora = plain().float()
    before = window_features(lora, x, 3, (2, 4))
    adapt(lora, Encoder(adapt="lora"))
    torch.testing.assert_close(window_features(lora, x, 3, (2, 4)), before)
    window_features(lora, x, 3, (2, 4)).sum().backward()
    assert sum(p.grad.abs().sum() for name, p in lora.named_parameters() if is_factor(name)) > 0


# torch 2.13's dynamo asks activations for .grad and hides its own warning in a way that "error" outruns (November 2026)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.slow
def test_compiled_blocks_are_the_eager_ones():
    vit, x = with_axes(4, (2,), depth=2).float(), images().float()
    compiled = copy.deepcopy(vit)
    compile_blocks(compiled, "eager")
    torch.testing.assert_close(window_features(compiled, x, 4, (2,)), window_features(vit, x, 4, (2,)))


def test_vectors_are_trained_at_the_rate_of_their_block_and_decay():
    method = torch.nn.Module()
    method.encoder = with_axes()
    assert lr_scale("encoder.blocks.1.attn.rel_pos_h", method, 0.5) == 0.5**3
    groups = build_optimiser(method, Optim(weight_decay=0.1, layer_decay=0.5)).param_groups
    table = method.encoder.blocks[1].attn.rel_pos_w
    (own,) = [group for group in groups if any(parameter is table for parameter in group["params"])]
    assert (own["lr_scale"], own["weight_decay"]) == (0.125, 0.1)
    adapt(method.encoder, Encoder(adapt=2))
    trained = {name for name, p in method.encoder.named_parameters() if p.requires_grad and "rel_pos" in name}
    assert trained == {f"blocks.{n}.attn.rel_pos_{axis}" for n in (2, 3) for axis in "hw"}


def test_a_start_without_vectors_leaves_them_zero_and_one_with_them_is_copied():
    own, start = with_axes().state_dict(), plain().state_dict()
    left, said = without_added(own, Weights(start, "here", "weights"))
    assert left.keys() == start.keys()
    assert said == "relative positions of rows and columns begin at zero"
    assert without_added(own, Weights(own, "here", "weights")) == (own, None)
    assert without_added(start, Weights(start, "here", "weights")) == (start, None)


def test_global_blocks_are_quarters_and_others_are_refused():
    assert global_blocks(12) == (3, 6, 9, 12)
    assert global_blocks(24) == (6, 12, 18, 24)
    assert global_blocks(2) == (1, 2)
    assert global_blocks(12, (5, 12)) == (5, 12)
    for wrong in ((0, 12), (3, 3), (6, 3), (13,)):
        with pytest.raises(InputError, match=r"method\.global_blocks is .*from 1 to 12"):
            global_blocks(12, wrong)


def test_what_is_not_exact_is_refused():
    x = images()
    with pytest.raises(InputError, match="sides of 1 patch or more, got 0"):
        window_features(plain(), x, 0, (4,))
    with pytest.raises(InputError, match="give add_axes and window_features the same"):
        window_features(with_axes(), x, 3, (4,))
    with pytest.raises(InputError, match=r"use models\.dense\.windows"):
        encode_blocks(with_axes(), FullImages(x, pooled=False), (4,))
    relative = plain(pos_embed="none")
    add_relative(relative, "irpe")
    varlen = as_packed(plain(), "varlen")
    rope = build_encoder("vit_small_patch16_dinov3", image_size=32, patch=16, classes=0, position="rope")
    for vit, said in ((relative, "leave them out"), (rope, "leave them out"), (varlen, "choose attention sdpa")):
        with pytest.raises(InputError, match=said):
            add_axes(vit, 3, (4,))
    shaped = build_encoder(Size(32, 2, 2), image_size=32, patch=16, classes=0, position="block_bias")
    with pytest.raises(InputError, match="block_bias is of"):
        window_features(shaped, x.float(), 2, (2,))


def test_the_pyramid_is_plain_torch_on_one_map():
    torch.manual_seed(0)
    net, x = FeaturePyramid(16, 8).double(), torch.randn(2, 16, 6, 5, dtype=torch.float64)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)

    def norm(y, part):
        y = y - y.mean(1, keepdim=True)
        y = y / (y.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return y * part.weight[:, None, None] + part.bias[:, None, None]

    def up(y, part):
        out = torch.einsum("nchw,cdyx->ndhywx", y, part.weight).flatten(4, 5).flatten(2, 3)
        return out + part.bias[:, None, None]

    def smooth(y, one, first, three, second):
        assert (one.bias, three.bias) == (None, None)
        y = norm(F.conv2d(y, one.weight), first)
        return norm(F.conv2d(y, three.weight, padding=1), second)

    quarter = up(F.gelu(norm(up(x, net.fpn1[0]), net.fpn1[1])), net.fpn1[3])
    pooled = x[:, :, :, :4].unflatten(3, (2, 2)).unflatten(2, (3, 2)).amax((3, 5))
    expected = [smooth(quarter, *net.fpn1[4:]), smooth(up(x, net.fpn2[0]), *net.fpn2[1:]), smooth(x, *net.fpn3),
                smooth(pooled, *net.fpn4[1:])]  # fmt: skip
    expected.append(expected[-1][:, :, ::2, ::2])
    levels = net(x)
    for one, other in zip(levels, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert [tuple(level.shape[2:]) for level in levels] == [(24, 20), (12, 10), (6, 5), (3, 2), (2, 1)]
    sides = [level.shape[2] for level in levels[:3]]
    assert all(fine == 2 * coarse for fine, coarse in pairwise(sides))
    assert net.fpn1[0].weight.shape == (16, 8, 2, 2)
    assert net.fpn1[3].weight.shape == (8, 4, 2, 2)
