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

from models.packed import as_packed, compile_blocks
from models.relative import PositionBias, add_relative, bias_entries, irpe_buckets
from models.vit import Chosen, Covered, Part, Size, Whole, build_encoder, classify, encode, look
from pipeline.errors import InputError

DOUBLE = torch.float64
SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5, "pos_embed": "none"}
KINDS = ["irpe", "bias", "block_bias"]
BY_HAND = {0: 0, 1: 1, 2: 2, 3: 2}  # further: 3


def build(kind, pixels=32, **options):
    """A packed timm ViT with tables of `kind`, every weight away from its start."""
    torch.manual_seed(0)
    vit = as_packed(timm.create_model("vit_tiny_patch16_224", img_size=pixels, **SMALL | options))
    add_relative(vit, kind)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for name, parameter in vit.named_parameters():
            if "relative" in name or "rpe_k" in name:
                parameter.normal_()
    return vit.to(DOUBLE)


def images(samples=3, pixels=32):
    return torch.randn(samples, 3, pixels, pixels, dtype=DOUBLE)


def shuffled(samples, patches, kept):
    return torch.rand(samples, patches).argsort(1)[:, :kept]


def piecewise(difference):
    return int(math.copysign(BY_HAND.get(abs(difference), 3), difference))


def entry_by_hand(kind, grid, query, key):
    """Which entry a pair of patches has; None stands for a prefix token."""
    if kind == "irpe":
        if query is None or key is None:
            return 49
        down, over = (a - b for a, b in zip(divmod(query, grid[1]), divmod(key, grid[1]), strict=True))
        return (piecewise(down) + 3) * 7 + piecewise(over) + 3
    last = (2 * grid[0] - 1) * (2 * grid[1] - 1) + 2
    if query is None or key is None:
        return last if query is None and key is None else last - 1 if key is None else last - 2
    down, over = (a - b for a, b in zip(divmod(query, grid[1]), divmod(key, grid[1]), strict=True))
    return (down + grid[0] - 1) * (2 * grid[1] - 1) + over + grid[1] - 1


def entries_by_hand(kind, grid, ids, prefix):
    tokens = [None] * prefix + list(ids)
    return torch.tensor([[entry_by_hand(kind, grid, query, key) for key in tokens] for query in tokens])


def plain(vit, kind, images, ids, covered=None):
    """[n, prefix + K, C], final-normed, image after image and head after head, with the bias written out."""
    grid = tuple(side // vit.patch_embed.patch_size[0] for side in images.shape[-2:])
    outs = []
    for number, kept in enumerate(ids.tolist()):
        x = vit.patch_embed.proj(images[number][None]).flatten(2)[0].T[kept]
        if covered is not None:
            x = torch.where(covered[number][:, None], 0.5, x)
        prefix = [token[0] for token in (vit.cls_token, vit.reg_token) if token is not None]
        x = torch.cat([*prefix, x])
        entries = entries_by_hand(kind, grid, kept, vit.num_prefix_tokens)
        for block in vit.blocks:
            x = x + block.ls1(attention_by_hand(vit, kind, block.attn, block.norm1(x), entries))
            x = x + block.ls2(block.mlp(block.norm2(x)))
        outs.append(vit.norm(x))
    return torch.stack(outs)


def attention_by_hand(vit, kind, attn, x, entries):
    outs = []
    for q, k, v in attn.qkv(x).unflatten(1, (3, attn.num_heads, -1)).permute(2, 1, 0, 3):
        head = len(outs)
        q, k = attn.q_norm(q), attn.k_norm(k)
        scores = q @ k.T / attn.head_dim**0.5
        if kind == "irpe":
            scores = scores + (q[:, None] * attn.rpe_k.lookup_table_weight[0].T[entries]).sum(-1)
        else:
            held = vit.rel_pos_bias if kind == "bias" else attn
            scores = scores + held.relative_position_bias_table[:, head][entries]
        outs.append(scores.softmax(-1) @ v)
    return attn.proj(torch.cat(outs, 1))


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
    torch.testing.assert_close(look(vit, x), beit.eval()(x), rtol=1e-10, atol=1e-10)


OPTIONS = [{}, {"reg_tokens": 2}, {"class_token": False, "global_pool": "avg", "fc_norm": False}, {"qk_norm": True},
           {"init_values": 0.3}]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_packed_groups_are_the_images_one_by_one(kind, options):
    vit, x, y = build(kind, **options), images(), images(2)
    rows, visible = torch.tensor([2, 0]), shuffled(3, 16, 4)
    window, covered = shuffled(2, 16, 6), torch.rand(2, 6) < 0.5
    all_covered, mask = torch.rand(3, 16) < 0.5, torch.full((32,), 0.5, dtype=DOUBLE)
    groups = [
        Whole(y),
        Chosen(x, rows, pooled=False),
        Chosen(x, rows[:0]),
        Part(x, visible),
        Covered(y, covered, mask, window),
        Covered(x, all_covered, mask),
        Part(x, visible[:2], rows),
    ]
    found = encode(vit, groups)
    assert found[2].shape[0] == 0
    everything = torch.arange(16).expand(3, -1)
    expected = [
        plain(vit, kind, y, everything[:2])[:, : found[0].shape[1]],
        plain(vit, kind, x[rows], everything[:2]),
        found[2].detach(),
        plain(vit, kind, x, visible),
        plain(vit, kind, y, window, covered),
        plain(vit, kind, x, everything, all_covered),
        plain(vit, kind, x[rows], visible[:2]),
    ]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    results = []
    for tokens in (found, expected):
        vit.zero_grad()
        sum(group.sin().sum() for group in tokens).backward()
        results.append({name: p.grad for name, p in vit.named_parameters() if p.grad is not None})
    assert any("relative" in name or "rpe_k" in name for name in results[0])
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_changes_nothing(kind):
    vit, x, visible = build(kind), images(), shuffled(3, 16, 4)
    other = copy.deepcopy(vit)
    other.set_grad_checkpointing()
    results = []
    for each in (vit, other):
        whole, partly = encode(each, [Whole(x[:2]), Part(x, visible)])
        (whole.sin().sum() + partly.sin().sum()).backward()
        results.append([whole, partly, *(parameter.grad for parameter in each.blocks.parameters())])
    torch.testing.assert_close(*results)


# torch 2.13's dynamo asks activations for .grad and hides its own warning in a way that "error" outruns (November 2026)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_graphs_serve_groups_of_any_size_and_change_nothing(kind):
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph

    eager, x = build(kind, depth=3), images(8)
    compiled = copy.deepcopy(eager)
    compile_blocks(compiled, counting)
    for strong in (3, 5, 0):
        results, visible = [], shuffled(8, 16, 4)
        for vit in (eager, compiled):
            tokens = encode(vit, [Whole(x[:2]), Chosen(x, torch.arange(strong)), Part(x, visible)])
            vit.zero_grad()
            torch.cat([group.flatten() for group in tokens]).sin().sum().backward()
            results.append([*tokens, *(block.attn.qkv.weight.grad for block in vit.blocks)])
        torch.testing.assert_close(*results)
    assert 0 < len(graphs) <= 2 * 3  # all rows or the first; a fixed, any and no number of strong images


@pytest.mark.parametrize("kind", KINDS)
def test_patches_in_another_order_give_their_tokens_in_that_order(kind):
    vit, x, ids = build(kind), images(), torch.tensor([[5, 6, 7, 9, 10, 11, 13, 14, 15]]).expand(3, -1)
    order = torch.rand(3, 9).argsort(1)
    nothing = torch.zeros(3, 9, dtype=torch.bool), torch.zeros(32, dtype=DOUBLE)
    first, second = encode(vit, [Covered(x, *nothing, ids), Covered(x, *nothing, ids.gather(1, order))])
    expected = first[:, 1:].gather(1, order[..., None].expand(-1, -1, 32))
    torch.testing.assert_close(second[:, 1:], expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(second[:, 0], first[:, 0], rtol=1e-10, atol=1e-10)


def test_irpe_sees_a_window_as_an_image_of_its_own():
    """Which is why one table serves windows in pre-training and images in fine-tuning, whatever their sizes."""
    vit, x = build("irpe"), images()
    window = torch.tensor([[5, 6, 7, 9, 10, 11, 13, 14, 15]]).expand(3, -1)  # from pixel 8, 8 on
    (cut,) = encode(vit, [Whole(x[..., 8:, 8:], pooled=False)])
    (part,) = encode(vit, [Part(x, window)])
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
    torch.testing.assert_close(look(vit, x), look(none, x))
    plain_vit = timm.create_model("vit_tiny_patch16_224", img_size=32, **SMALL)
    plain_vit.load_state_dict(none.state_dict(), strict=True)
    assert torch.equal(plain_vit.eval()(x), none.eval()(x))


@pytest.mark.parametrize("pixels", [24, 40])
@pytest.mark.parametrize("kind", ["irpe", "bias"])
def test_images_of_another_size(kind, pixels):
    vit, x = build(kind), images(2, pixels)
    grid = (pixels // 8,) * 2
    ids = torch.arange(grid[0] ** 2).expand(2, -1)
    (found,) = encode(vit, [Whole(x, pooled=False)])
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
        (low,) = encode(vit, [Whole(x)])
    (high,) = encode(vit, [Whole(x)])
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
            look(vit, images(2, 24).float())


def test_the_head_reads_what_a_relative_encoder_gives():
    vit, x = build("irpe"), images()
    (logits,) = classify(vit, encode(vit, [Whole(x)]))
    expected = vit.head(plain(vit, "irpe", x, torch.arange(16).expand(3, -1))[:, 0])
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
