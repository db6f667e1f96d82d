"""Relative positions: against loops over pairs written out in Python, timm's BEiT and PIL's resampling."""

import copy
import math

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models.beit import Beit, gen_relative_position_index
from torch import nn

from models.encoder.packed import as_packed
from models.encoder.relative import PositionBias, bias_entries, irpe_buckets
from models.encoder.vit import (
    FullImages,
    MaskedImages,
    Size,
    VisiblePatches,
    build_encoder,
    classify,
    encode,
    eval_logits,
)
from pipeline.errors import InputError
from tests.models.encoder.relative_by_hand import (
    DOUBLE,
    KINDS,
    SMALL,
    build,
    entries_by_hand,
    images,
    plain,
    shuffled,
)


def test_distances_fall_into_the_buckets_of_the_published_formula():
    """g(d) of iRPE's eq. 18 at alpha 1.9, beta 3.8, gamma 15.2, in plain Python."""

    def published(d):
        if abs(d) <= 1.9:
            return d
        grown = round(1.9 + math.log(abs(d) / 1.9) / math.log(15.2 / 1.9) * 1.9)
        return int(math.copysign(min(3.8, grown), d))

    row = torch.arange(21)[None]
    found = irpe_buckets(row, 21, 0)[0] - 7 * 3 - 3
    assert found.tolist() == [[published(query - key) for key in range(21)] for query in range(21)]
    assert found[:, 0].tolist()[:7] == [0, 1, 2, 2, 3, 3, 3]
    assert found[0].tolist()[:7] == [0, -1, -2, -2, -3, -3, -3]
    column = irpe_buckets(row, 1, 0)[0] - 7 * 3 - 3
    assert torch.equal(column, 7 * found)


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_ids_of_any_order_and_grid_have_the_entries_of_a_loop(prefix):
    ids = shuffled(2, 35, 12)
    for number in range(2):
        kept = ids[number].tolist()
        assert torch.equal(irpe_buckets(ids, 7, prefix)[number], entries_by_hand("irpe", (5, 7), kept, prefix))
        assert torch.equal(bias_entries(ids, (5, 7), prefix)[number], entries_by_hand("bias", (5, 7), kept, prefix))


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_entries_of_a_whole_grid_are_beits(grid):
    ids = torch.arange(grid[0] * grid[1])[None]
    assert torch.equal(bias_entries(ids, grid, 1)[0], gen_relative_position_index(grid))


@pytest.mark.parametrize("kind", ["bias", "block_bias"])
def test_an_encoder_with_position_bias_is_timms_beit(kind):
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    torch.manual_seed(0)
    beit = Beit(**size, global_pool="token", init_values=0.1, use_abs_pos_emb=False, use_rel_pos_bias=kind != "bias",
                use_shared_rel_pos_bias=kind == "bias").to(DOUBLE)  # fmt: skip
    with torch.no_grad():
        for parameter in beit.parameters():
            parameter.normal_(std=0.3)
    renamed = {"gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    weights = {}
    for name, tensor in beit.state_dict().items():
        before, _, last = name.rpartition(".")
        if last == "q_bias":
            both = [tensor, torch.zeros_like(tensor), beit.state_dict()[f"{before}.v_bias"]]
            weights[f"{before}.qkv.bias"] = torch.cat(both)
        elif last != "v_bias":
            weights[f"{before}.{renamed.get(last, last)}".lstrip(".")] = tensor
    vit = build_encoder(Size(32, 2, 4), image_size=32, patch=8, classes=5, position=kind, layer_scale=0.1).to(DOUBLE)
    vit.load_state_dict(weights, strict=True)
    x = images()
    torch.testing.assert_close(eval_logits(vit, x), beit.eval()(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_patches_in_another_order_give_their_tokens_in_that_order(kind):
    vit, x, ids = build(kind), images(), torch.tensor([[5, 6, 7, 9, 10, 11, 13, 14, 15]]).expand(3, -1)
    order = torch.rand(3, 9).argsort(1)
    nothing = torch.zeros(3, 9, dtype=torch.bool), torch.zeros(32, dtype=DOUBLE)
    first, second = encode(vit, [MaskedImages(x, *nothing, ids), MaskedImages(x, *nothing, ids.gather(1, order))])
    expected = first[:, 1:].gather(1, order[..., None].expand(-1, -1, 32))
    torch.testing.assert_close(second[:, 1:], expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(second[:, 0], first[:, 0], rtol=1e-10, atol=1e-10)


def test_irpe_sees_a_window_as_an_image_of_its_own():
    """Which is why one table serves windows in pre-training and images in fine-tuning, whatever their sizes."""
    vit, x = build("irpe"), images()
    window = torch.tensor([[5, 6, 7, 9, 10, 11, 13, 14, 15]]).expand(3, -1)  # from pixel 8, 8 on
    (cut,) = encode(vit, [FullImages(x[..., 8:, 8:], pooled=False)])
    (part,) = encode(vit, [VisiblePatches(x, window)])
    torch.testing.assert_close(part, cut, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_tables_start_as_no_positions_at_all(kind):
    vit = build_encoder(Size(32, 2, 4), image_size=32, patch=8, classes=5, position=kind)
    none = build_encoder(Size(32, 2, 4), image_size=32, patch=8, classes=5, position="none")
    extra = vit.state_dict().keys() - none.state_dict().keys()
    assert none.pos_embed is vit.pos_embed is None
    assert (
        extra
        == {
            "irpe": {f"blocks.{number}.attn.rpe_k.lookup_table_weight" for number in range(2)},
            "bias": {"rel_pos_bias.relative_position_bias_table"},
            "block_bias": {f"blocks.{number}.attn.relative_position_bias_table" for number in range(2)},
        }[kind]
    )
    none.load_state_dict({name: tensor for name, tensor in vit.state_dict().items() if name not in extra})
    x = images().float()
    torch.testing.assert_close(eval_logits(vit, x), eval_logits(none, x))
    plain_vit = timm.create_model("vit_tiny_patch16_224", img_size=32, **SMALL)
    plain_vit.load_state_dict(none.state_dict(), strict=True)
    assert torch.equal(plain_vit.eval()(x), none.eval()(x))


@pytest.mark.parametrize("pixels", [24, 40])
@pytest.mark.parametrize("kind", ["irpe", "bias"])
def test_images_of_another_size(kind, pixels):
    vit, x = build(kind), images(2, pixels)
    grid = (pixels // 8,) * 2
    ids = torch.arange(grid[0] ** 2).expand(2, -1)
    (found,) = encode(vit, [FullImages(x, pooled=False)])
    if kind == "bias":
        vit = copy.deepcopy(vit)
        vit.rel_pos_bias.relative_position_bias_table = nn.Parameter(by_pil(vit.rel_pos_bias, (4, 4), grid))
    torch.testing.assert_close(found, plain(vit, kind, x, ids), rtol=1e-4, atol=1e-4)


def by_pil(bias, own, wanted):
    """The table resampled by PIL, a picture for each head; f32."""
    table, sizes = bias.relative_position_bias_table.detach(), [2 * side - 1 for side in wanted]
    pictures = table[:-3].T.unflatten(1, [2 * side - 1 for side in own]).float().numpy()
    resized = [np.array(Image.fromarray(p).resize(sizes[::-1], Image.Resampling.BICUBIC)) for p in pictures]
    return torch.cat([torch.from_numpy(np.stack(resized)).flatten(1).T.to(table), table[-3:]])


def test_a_resampled_bias_learns_and_its_own_grid_needs_none():
    bias = PositionBias((4, 4), 2).to(DOUBLE)
    assert bias.table((4, 4)) is bias.relative_position_bias_table
    bias.table((3, 2)).sum().backward()
    gradient = bias.relative_position_bias_table.grad
    assert (gradient[-3:] == 1).all()
    assert gradient[:-3].sum().item() == pytest.approx(2 * 5 * 3)  # each new entry's weights sum to 1


def test_under_autocast_the_bias_follows_its_type():
    vit, x = build("bias").float(), images().float()
    with torch.autocast("cpu", torch.bfloat16):
        (low,) = encode(vit, [FullImages(x)])
    (high,) = encode(vit, [FullImages(x)])
    torch.testing.assert_close(low.float(), high, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_what_relative_positions_cannot_do_is_refused(kind):
    options = {"image_size": 32, "patch": 8, "classes": 5, "position": kind}
    with pytest.raises(InputError, match=f"position {kind} must; choose attention sdpa"):
        build_encoder(Size(32, 2, 4), attention="varlen", **options)
    vit = build_encoder(Size(32, 2, 4), **options)
    with pytest.raises(InputError, match="varlen takes no relative positions"):
        as_packed(vit, "varlen")
    assert as_packed(vit).blocks[0].attention == "sdpa"
    with pytest.raises(InputError, match="runs on groups only"):
        vit(images().float())
    if kind == "block_bias":
        with pytest.raises(InputError, match=r"is of \(4, 4\) patches, got images of \(3, 3\)"):
            eval_logits(vit, images(2, 24).float())


def test_the_head_reads_what_a_relative_encoder_gives():
    vit, x = build("irpe"), images()
    (logits,) = classify(vit, encode(vit, [FullImages(x)]))
    expected = vit.head(plain(vit, "irpe", x, torch.arange(16).expand(3, -1))[:, 0])
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
