"""An encoder that sees mask tokens (MAE Table 1c) and the decoder behind it, against plain forwards in raster order."""

import pytest
import torch

from models.bench.flops import GroupCost, count, decoder_flops, encoder_flops
from models.encoder.patches import hidden_from_visible, patchify
from models.encoder.vit import Size, VisiblePatches, build_encoder, encode
from models.masked.mae import Decoder, MAEBranch
from models.masked.settings import Reconstruct
from models.masked.simmim import check_hidden_alone
from models.optim.build import TOKENS
from pipeline.errors import InputError

DOUBLE = torch.float64
SMALL = Reconstruct(depth=2, width=24, heads=3, encoder_mask_tokens=True)


def build(settings: Reconstruct = SMALL, **options) -> tuple[torch.nn.Module, MAEBranch]:
    torch.manual_seed(0)
    vit = build_encoder(Size(32, 2, 4), image_size=32, patch=8, classes=0, position="sincos", **options).to(DOUBLE)
    branch = MAEBranch(vit, settings).to(DOUBLE)
    with torch.no_grad():
        for parameter in (*vit.parameters(), *branch.parameters()):
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return vit, branch


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, 32, 32, generator=g, dtype=DOUBLE), torch.rand(3, 16, generator=g).argsort(1)[:, :4].sort(
        1
    ).values


def plain_loss(vit, branch: MAEBranch, images: torch.Tensor, visible: torch.Tensor, everything: bool) -> torch.Tensor:
    """Mask tokens put in after the embedding, all of it through both networks in raster order."""
    covered = torch.ones(3, 16, dtype=torch.bool).scatter(1, visible, False)
    x = vit.patch_embed(images)
    x = torch.stack(
        [torch.stack([branch.mask_token[0, 0] if covered[n, i] else x[n, i] for i in range(16)]) for n in range(3)]
    )
    x = torch.cat([(vit.cls_token + vit.pos_embed[:, :1]).expand(3, -1, -1), x + vit.pos_embed[:, 1:]], 1)
    x = vit.norm(vit.blocks(x))
    decoder = branch.decoder
    x = decoder.embed(x)
    x = torch.cat([x[:, :1], x[:, 1:] + decoder.positions], 1)
    for block in decoder.blocks:
        x = block(x)
    error = (decoder.predict(decoder.norm(x))[:, 1:] - patchify(images, 8)).square().mean(-1)
    return error.mean() if everything else error[covered].mean()


@pytest.mark.parametrize("everything", [False, True])
def test_the_loss_and_its_gradients_are_those_of_plain_forwards(everything):
    settings = Reconstruct(2, 24, 3, patches="all" if everything else "hidden", encoder_mask_tokens=True)
    (vit, branch), (images, visible) = build(settings), inputs()
    (tokens,) = encode(vit, [branch.group(images, visible)])
    ours, plain = branch(tokens, images, visible), plain_loss(vit, branch, images, visible, everything)
    torch.testing.assert_close(ours, plain, rtol=1e-11, atol=1e-12)
    trained = [p for p in (*vit.parameters(), *branch.parameters()) if p.requires_grad]
    found = zip(torch.autograd.grad(ours, trained), torch.autograd.grad(plain, trained), strict=True)
    for mine, theirs in found:
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


def test_hidden_pixels_reach_neither_network():
    (vit, branch), (images, visible) = build(), inputs()
    poisoned = images.clone()
    cells = poisoned.unflatten(3, (4, 8)).unflatten(2, (4, 8))
    for n, ids in enumerate(hidden_from_visible(visible, 16)):
        cells[n, :, ids // 4, :, ids % 4] = 99.0
    for a, b in zip(*(encode(vit, [branch.group(x, visible)]) for x in (images, poisoned)), strict=True):
        assert torch.equal(a, b)


def test_there_is_one_mask_token_and_it_is_the_encoders():
    _, branch = build()
    assert branch.decoder.mask_token is None
    assert branch.mask_token.shape == (1, 1, 32)
    names = [name.rpartition(".")[2] for name, _ in branch.named_parameters()]
    assert [name for name in names if name in TOKENS] == ["mask_token"]  # decays as MAE's tokens do
    assert MAEBranch(build()[0], Reconstruct(1, 24, 3)).mask_token is None


def test_the_visible_tokens_are_those_of_the_visible_patches():
    (vit, branch), (images, visible) = build(), inputs()
    tokens = torch.arange(17.0).view(1, 17, 1).expand(3, -1, 2)
    assert torch.equal(branch.visible_tokens(tokens, visible)[..., 0], visible + 1.0)
    without = MAEBranch(vit, Reconstruct(1, 24, 3)).to(DOUBLE)
    (seen,) = encode(vit, [without.group(images, visible)])
    assert without.visible_tokens(seen, visible).shape == (3, 4, 32)


def test_the_group_is_left_alone_by_drop_path():
    (vit, branch), (images, visible) = build(drop_path=0.9), inputs()
    vit.train()
    once, twice = (encode(vit, [branch.group(images, visible)])[0] for _ in range(2))
    assert torch.equal(once, twice)


def test_a_step_costs_the_closed_form_of_all_patches():
    with torch.device("meta"):
        vit, x = build_encoder(Size(32, 2, 4), image_size=32, patch=8, classes=0), torch.empty(2, 3, 32, 32)
        branch, visible = MAEBranch(vit, SMALL), torch.empty(2, 4, dtype=torch.int64)

    def step():
        (tokens,) = encode(vit, [branch.group(x, visible)])
        branch(tokens, x, visible).backward()

    expected = encoder_flops(vit, [GroupCost(2, 16)]) + decoder_flops(branch.decoder, 2, visible=16, predicted=12)
    assert count(step) == expected


def test_for_vit_large_they_cost_what_the_paper_says():
    """Table 1c: 3.3 times the FLOPs of the encoder without them."""
    with torch.device("meta"):
        vit = build_encoder("vit_large_patch16_224", image_size=224, patch=16, classes=0)
        without, seen = Decoder(1024, (14, 14), 16), Decoder(1024, (14, 14), 16, mask_tokens=False)
    few = encoder_flops(vit, [GroupCost(1, 49)]) + decoder_flops(without, 1, 49, 147)
    many = encoder_flops(vit, [GroupCost(1, 196)]) + decoder_flops(seen, 1, 196, 147)
    assert round(many / few, 1) == 3.3


def test_the_picture_of_it_is_the_decoders_prediction_of_the_hidden():
    (vit, branch), (images, visible) = build(), inputs()
    (tokens,) = encode(vit, [branch.group(images, visible)])
    hidden = hidden_from_visible(visible, 16)
    expected = branch.decoder(tokens, visible, hidden)
    torch.testing.assert_close(branch.predict(vit, images, visible), expected.float())
    assert isinstance(MAEBranch(vit, Reconstruct(1, 24, 3)).group(images, visible), VisiblePatches)


def test_branches_that_have_them_anyway_refuse_to_be_asked():
    check_hidden_alone("simmim", Reconstruct())
    with pytest.raises(InputError, match="branch simmim has mask tokens in its encoder as it is"):
        check_hidden_alone("simmim", SMALL)
