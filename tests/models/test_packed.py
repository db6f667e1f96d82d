"""The packed block, its drop-path, and what it refuses."""

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.models.vision_transformer import Block, ParallelScalingBlock

from models.layout import Layout
from models.packed import PackedBlock, as_packed, compile_blocks, packed_drop_path
from pipeline.errors import InputError

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
LAYOUT = Layout(((1, 17), (3, 17), (0, 17), (4, 5)))


def block(attention="sdpa", **options):
    torch.manual_seed(0)
    made = PackedBlock(32, 4, **{"qkv_bias": True} | options).double()
    made.attention = attention
    return made


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"init_values": 0.1}, {"scale_attn_norm": True}], ids=str)
def test_packed_rows_equal_the_same_samples_one_by_one(options):
    packed, x = block(**options), torch.randn(LAYOUT.rows, 32, dtype=torch.float64)
    samples = [sample[None] for group in LAYOUT.split(x) for sample in group]
    expected = torch.cat([Block.forward(packed, sample)[0] for sample in samples])
    torch.testing.assert_close(packed(x, layout=LAYOUT), expected)
    trimmed = LAYOUT.trimmed((1, 17, 1, 2))
    kept = [group[:, :tokens] for group, (_, tokens) in zip(LAYOUT.split(expected), trimmed.shapes, strict=True)]
    torch.testing.assert_close(
        packed(x, layout=LAYOUT, heads=(1, 17, 1, 2)), torch.cat([k.flatten(0, 1) for k in kept])
    )


def test_gated_attention_is_gated():
    packed, x = block(), torch.randn(LAYOUT.rows, 32, dtype=torch.float64)
    if not hasattr(packed.attn, "gate"):
        pytest.skip("this timm has no gated attention")
    packed.attn.gate = torch.nn.Linear(32, 32).double()
    samples = [sample[None] for group in LAYOUT.split(x) for sample in group]
    expected = torch.cat([Block.forward(packed, sample)[0] for sample in samples])
    torch.testing.assert_close(packed(x, layout=LAYOUT), expected)
    heads = torch.cat([group[:, :1].flatten(0, 1) for group in LAYOUT.split(expected)])
    torch.testing.assert_close(packed(x, layout=LAYOUT, heads=(1, 1, 1, 1)), heads)


def test_nothing_at_all_passes_through():
    x = torch.randn(0, 32, dtype=torch.float64, requires_grad=True)
    empty = Layout(((0, 5),))
    assert block()(x, layout=empty).shape == (0, 32)
    assert block(drop_path=0.5)(x, layout=empty, heads=(1,)).shape == (0, 32)


def test_drop_path_draws_once_a_sample_with_timms_law():
    layout = Layout(((3, 5), (4000, 3), (2, 2)), drop_path=(True, True, False))
    dropped = packed_drop_path(DropPath(0.3).train(), torch.ones(layout.rows, 2), layout)
    groups = layout.split(dropped)
    assert all(torch.equal(group, group[:, :1, :1].expand_as(group)) for group in groups)
    assert set(groups[1].unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    assert groups[1][:, 0, 0].mean().item() == pytest.approx(1.0, abs=0.05)  # 4.8 standard errors
    assert groups[1][:, 0, 0].ne(0).float().mean().item() == pytest.approx(0.7, abs=0.035)
    assert groups[2].eq(1).all()


def test_drop_path_does_nothing_in_eval_at_rate_zero_or_where_no_group_wants_it():
    y = torch.ones(LAYOUT.rows, 2)
    nobody = Layout(LAYOUT.shapes, (False,) * 4)
    assert packed_drop_path(DropPath(0.9).eval(), y, LAYOUT) is y
    assert packed_drop_path(DropPath(0.0).train(), y, LAYOUT) is y
    assert packed_drop_path(DropPath(0.9).train(), y, nobody) is y


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("vit_tiny_patch16_224", {**SMALL, "block_fn": ParallelScalingBlock}, "ParallelScalingBlock"),
        ("vit_tiny_patch16_224", {**SMALL, "attn_layer": "diff"}, "DiffAttention"),
        ("vit_tiny_patch16_224", {**SMALL, "patch_drop_rate": 0.5}, "PatchDropout"),
        ("vit_tiny_patch16_224", {**SMALL, "in_chans": 1}, "3 channels"),
        ("eva02_tiny_patch14_224", {"depth": 1}, "Eva"),
        ("deit_tiny_distilled_patch16_224", {"depth": 1}, "VisionTransformerDistilled"),
    ],
)
def test_models_that_packing_would_change_are_refused(name, options, found):
    model = timm.create_model(name, **options)
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(InputError, match=found):
        as_packed(model)
    assert [type(module) for module in model.modules()] == kinds


def test_packing_twice_is_packing_once():
    vit = as_packed(as_packed(timm.create_model("vit_tiny_patch16_224", **SMALL)), "varlen")
    assert [(type(b), b.attention) for b in vit.blocks] == [(PackedBlock, "varlen")] * 2
    with pytest.raises(InputError, match="one of sdpa, varlen, got 'flash'"):
        as_packed(vit, "flash")


def test_varlen_is_refused_where_it_cannot_run():
    with pytest.raises(InputError, match="choose attention sdpa"):
        block("varlen")(torch.randn(LAYOUT.rows, 32, dtype=torch.float64), layout=LAYOUT)


@pytest.mark.gpu
def test_varlen_equals_sdpa_on_a_gpu():
    x = torch.randn(LAYOUT.rows, 32, device="cuda", dtype=torch.bfloat16)
    results = []
    for attention in ("sdpa", "varlen"):
        packed = block(attention).to("cuda", torch.bfloat16)
        leaf = x.clone().requires_grad_()
        y = packed(leaf, layout=LAYOUT)
        z = packed(y, layout=LAYOUT, heads=(1, 1, 1, 5))
        z.float().square().sum().backward()
        results.append((z, leaf.grad))
    for sdpa, varlen in zip(*results, strict=True):
        torch.testing.assert_close(sdpa.float(), varlen.float(), rtol=5e-2, atol=5e-2)


@pytest.mark.slow
def test_two_graphs_serve_every_number_of_strong_images_and_one_more_none():
    packed, graphs = block().float(), []

    def counting(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(packed, backend=counting, fullgraph=True)
    for strong in (3, 5, 2, 7, 4, 1, 6, 0, 8):
        layout = Layout(((2, 17), (strong, 17), (7, 5)), (True, True, False))
        x, y = (torch.randn(layout.rows, 32).requires_grad_() for _ in range(2))
        y.data.copy_(x.data)
        ours, theirs = compiled(x, layout=layout), packed(y, layout=layout)
        torch.testing.assert_close(ours, theirs)
        ours.square().sum().backward(), theirs.square().sum().backward()
        torch.testing.assert_close(x.grad, y.grad)
    assert len(graphs) <= 3


@pytest.mark.slow
def test_compiled_blocks_give_what_eager_blocks_give():
    import copy
    import shutil

    if not shutil.which("g++"):
        pytest.skip("torch.compile on a CPU needs g++")
    packed, x = block().float(), torch.randn(LAYOUT.rows, 32)
    compiled = copy.deepcopy(packed)
    compile_blocks(compiled)
    assert set(compiled.state_dict()) == set(packed.state_dict())
    for heads in (None, (1, 1, 1, 5)):
        torch.testing.assert_close(
            compiled(x, layout=LAYOUT, heads=heads), packed(x, layout=LAYOUT, heads=heads), rtol=1e-5, atol=1e-5
        )
