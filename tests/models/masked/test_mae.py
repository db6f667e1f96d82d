"""MAE's decoder against the order of operations of its paper."""

import pytest
import torch

from models.bench.baselines import plain_decode
from models.masked.mae import Decoder, predicted_ids
from pipeline.errors import InputError

DOUBLE = torch.float64


def build(prefix=1, **options):
    torch.manual_seed(0)
    options = {"width": 24, "depth": 2, "heads": 3} | options
    return Decoder(32, (4, 4), 8, prefix=prefix, **options).to(DOUBLE)


def seen(prefix=1, samples=3):
    visible = torch.rand(samples, 16).argsort(1)[:, :4]
    return torch.randn(samples, prefix + 4, 32, dtype=DOUBLE), visible.sort(1).values


def rows(predicted, ids):
    return predicted.gather(1, ids[..., None].expand(-1, -1, predicted.shape[-1]))


@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_predictions_equal_the_unshuffled_decoder(prefix, everything, depth):
    decoder, (tokens, visible) = build(prefix, depth=depth), seen(prefix)
    ids = predicted_ids(visible, 16, everything=everything)
    assert ids.shape == (3, 16 if everything else 12)
    predicted = decoder(tokens, visible, ids)
    torch.testing.assert_close(predicted, rows(plain_decode(decoder, tokens, visible), ids), rtol=1e-11, atol=1e-12)


def test_predictions_come_in_the_order_asked_for():
    decoder, (tokens, visible) = build(), seen()
    for everything in (False, True):
        ids = predicted_ids(visible, 16, everything=everything)
        torch.testing.assert_close(decoder(tokens, visible, ids.flip(1)), decoder(tokens, visible, ids).flip(1))


def test_gradients_equal_the_unshuffled_decoder():
    gradients = []
    for ours in (True, False):
        decoder, generator = build(), torch.Generator().manual_seed(3)
        tokens = torch.randn(3, 5, 32, dtype=DOUBLE, generator=generator).requires_grad_()
        visible = torch.rand(3, 16, generator=generator).argsort(1)[:, :4].sort(1).values
        ids = predicted_ids(visible, 16)
        predicted = decoder(tokens, visible, ids) if ours else rows(plain_decode(decoder, tokens, visible), ids)
        predicted.square().sum().backward()
        gradients.append([tokens.grad, *(parameter.grad for parameter in decoder.parameters())])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_the_size_of_maes_decoder_for_vit_base():
    with torch.device("meta"):
        decoder = Decoder(768, (14, 14), 16)
    # embed + mask token + 8 blocks + norm + prediction, written out; positions are fixed and no parameters
    block = 4 * 512 * 512 + 4 * 512 + 2 * 512 * 2048 + 2048 + 512 + 4 * 512
    expected = 768 * 512 + 512 + 512 + 8 * block + 2 * 512 + 512 * 768 + 768
    assert sum(parameter.numel() for parameter in decoder.parameters()) == expected
    assert not any("positions" in name for name in decoder.state_dict())


def test_mask_token_starts_as_maes():
    assert build(width=240, heads=4).mask_token.std().item() == pytest.approx(0.02, rel=0.2)
    assert not build().blocks[0].attn.qkv.bias.any()


def test_other_numbers_of_patches_to_predict_are_refused():
    decoder, (tokens, visible) = build(), seen()
    with pytest.raises(InputError, match="4 of 16 patches are visible: predict the other 12 or all, not 5"):
        decoder(tokens, visible, predicted_ids(visible, 16)[:, :5])


def test_a_decoder_without_blocks_or_with_odd_heads_is_refused():
    with pytest.raises(InputError, match="got 0 blocks"):
        build(depth=0)
    with pytest.raises(InputError, match="5 heads"):
        build(heads=5)
