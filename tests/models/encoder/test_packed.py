"""The packed block, its drop-path, and what it refuses."""

import copy
import shutil

import pytest
import timm
import torch
import torch._inductor.config
from timm.layers import DropPath
from timm.models.vision_transformer import Block, ParallelScalingBlock
from torch.utils._python_dispatch import TorchDispatchMode

from models.distributed.compile import compile_blocks
from models.encoder.layout import Layout
from models.encoder.packed import PackedBlock, as_packed, drop_factors
from models.encoder.vit import FullImages, SelectedImages, Size, VisiblePatches, build_encoder, encode, eval_logits
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
    torch.testing.assert_close(packed(x, layout=LAYOUT, keep=(1, 17, 1, 2)), torch.cat([k.flatten(0, 1) for k in kept]))


def test_gated_attention_is_gated():
    packed, x = block(), torch.randn(LAYOUT.rows, 32, dtype=torch.float64)
    if not hasattr(packed.attn, "gate"):
        pytest.skip("this timm has no gated attention")
    packed.attn.gate = torch.nn.Linear(32, 32).double()
    samples = [sample[None] for group in LAYOUT.split(x) for sample in group]
    expected = torch.cat([Block.forward(packed, sample)[0] for sample in samples])
    torch.testing.assert_close(packed(x, layout=LAYOUT), expected)
    heads = torch.cat([group[:, :1].flatten(0, 1) for group in LAYOUT.split(expected)])
    torch.testing.assert_close(packed(x, layout=LAYOUT, keep=(1, 1, 1, 1)), heads)


def test_nothing_at_all_passes_through():
    x = torch.randn(0, 32, dtype=torch.float64, requires_grad=True)
    empty = Layout(((0, 5),))
    assert block()(x, layout=empty).shape == (0, 32)
    assert block(drop_path=0.5)(x, layout=empty, keep=(1,)).shape == (0, 32)


def test_drop_path_draws_once_a_sample_with_timms_law():
    layout = Layout(((3, 5), (4000, 3), (0, 3), (2, 2)), drop_path=(True, True, True, False))
    (factors,) = drop_factors([DropPath(0.3).train()], torch.ones(layout.rows, 2), layout)
    assert factors.shape == (4005, 1)
    drawn, spared = factors[:4003, 0], factors[4003:]
    assert set(drawn.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    assert drawn.mean().item() == pytest.approx(1.0, abs=0.05)  # 4.8 standard errors
    assert drawn.ne(0).float().mean().item() == pytest.approx(0.7, abs=0.035)
    assert spared.eq(1).all()


def test_a_dropped_sample_passes_a_block_unchanged_whole_and_no_other_does():
    packed, x = block(drop_path=0.5).train(), torch.randn(LAYOUT.rows, 32, dtype=torch.float64)
    changed = {
        (factors[0, 0].item(), bool((after != before).any()))
        for factors, after, before in _samples_of(packed, x, Layout(LAYOUT.shapes, (True, True, True, False)))
    }
    assert changed == {(0.0, False), (2.0, True), (1.0, True)}


def _samples_of(packed, x, layout):
    """(factor of both branches, rows after, rows before) of each sample, over enough draws to see every kind."""
    for _ in range(8):
        state = torch.get_rng_state()
        first, second = drop_factors((packed.drop_path1, packed.drop_path2), x, layout)
        torch.set_rng_state(state)
        after = packed(x, layout=layout)
        rows = [(a, b) for a, b in zip(layout.split(after), layout.split(x), strict=True)]
        pairs = [(a, b) for group in rows for a, b in zip(*group, strict=True)]
        for one, two, (a, b) in zip(first, second, pairs, strict=True):
            if one == two:
                yield one[None], a, b


def test_nothing_is_dropped_in_eval_at_rate_zero_or_where_no_group_wants_it():
    x = torch.ones(LAYOUT.rows, 2)
    nobody = Layout(LAYOUT.shapes, (False,) * 4)
    assert drop_factors([DropPath(0.9).eval(), DropPath(0.0).train()], x, LAYOUT) == [None, None]
    assert drop_factors([DropPath(0.9).train()], x, nobody) == [None]
    first, second = drop_factors([torch.nn.Identity(), DropPath(0.9).train()], x, LAYOUT)
    assert [first is None, second is None] == [True, False]


def test_all_branches_are_drawn_at_once_each_by_its_own_rate_and_independently():
    rates, layout = (0.1, 0.5, 0.8), Layout(((20_000, 1),))
    parts = [DropPath(rate).train() for rate in rates]
    with Calls() as calls:
        drawn = torch.cat(drop_factors(parts, torch.ones(layout.rows, 2), layout), 1)
    assert calls.random == 1
    kept = drawn.ne(0).double()
    assert kept.mean(0).tolist() == pytest.approx([0.9, 0.5, 0.2], abs=0.02)
    assert [drawn[:, n].max().item() for n in range(3)] == pytest.approx([1 / 0.9, 2, 5])
    assert torch.corrcoef(kept.T).sub(torch.eye(3)).abs().max() < 0.04  # 5 standard errors of independent draws


class Calls(TorchDispatchMode):
    """Counts the calls that draw random numbers."""

    random = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.random += torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


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
        z = packed(y, layout=LAYOUT, keep=(1, 1, 1, 5))
        z.float().square().sum().backward()
        results.append((z, leaf.grad))
    for sdpa, varlen in zip(*results, strict=True):
        torch.testing.assert_close(sdpa.float(), varlen.float(), rtol=5e-2, atol=5e-2)


def test_a_copy_of_a_compiled_encoder_runs_its_own_weights():
    vit = build_encoder(Size(32, 2, 4), image_size=32, patch=8, classes=5)
    compile_blocks(vit, "eager")
    teacher, x = copy.deepcopy(vit), torch.randn(2, 3, 32, 32)
    before = eval_logits(teacher, x)
    with torch.no_grad():
        for parameter in vit.blocks.parameters():
            parameter.add_(1.0)
    assert torch.equal(eval_logits(teacher, x), before)
    assert set(vit.state_dict()) == set(build_encoder(Size(32, 2, 4), image_size=32, patch=8, classes=5).state_dict())


def assert_compiling_changes_nothing(compiler, depth, counts, whole=True):
    """With `whole`, images with few visible patches are encoded, too, and the network is evaluated."""
    eager = build_encoder(Size(32, depth, 4), image_size=32, patch=8, classes=5, drop_path=0.2).train()
    compiled, x = copy.deepcopy(eager), torch.randn(8, 3, 32, 32)
    compile_blocks(compiled, compiler)
    for strong in counts:
        results = []
        for vit in (eager, compiled):
            torch.manual_seed(strong)
            groups = [FullImages(x[:2]), SelectedImages(x, torch.arange(strong))]
            groups += [VisiblePatches(x, torch.arange(4).expand(8, -1))] if whole else []
            tokens = encode(vit, groups)
            vit.zero_grad()
            torch.cat([group.flatten() for group in tokens]).sin().sum().backward()  # squares of normed rows: constant
            scores = [eval_logits(vit, x)] if whole else []
            results.append([*scores, *tokens, *(block.attn.qkv.weight.grad for block in vit.blocks)])
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


# torch 2.13's dynamo asks activations for .grad and hides its own warning in a way that "error" outruns (November 2026)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.slow
def test_graphs_are_shared_by_all_blocks_and_group_sizes_and_change_nothing():
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph  # traced, not compiled: that is what the next test is about

    assert_compiling_changes_nothing(counting, depth=4, counts=(3, 5, 1, 0))
    # first block (no drop-path), middle, last (trimmed), each: fixed, any, no and one strong image; two of eval_logits,
    # and two of the patch projection, if no test before has compiled it
    assert len(graphs) <= 3 * 4 + 2 + 2


# as above; and torch 2.13's inductor itself imports the deprecated torch.jit.script_method (November 2026)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.slow
def test_inductor_copes_with_group_sizes_that_vary():
    if not shutil.which("g++"):
        pytest.skip("torch.compile on a CPU needs g++")
    # one block and two groups, and no graph for the first sizes alone, as g++ takes seconds for each part of a graph;
    # the test above has all of them
    varying = torch._dynamo.config.patch(assume_static_by_default=False)
    with varying, torch._inductor.config.patch({"cpp.simdlen": 1}):  # else a program for each instruction set to try
        assert_compiling_changes_nothing("inductor", depth=1, counts=(3, 5, 7), whole=False)
