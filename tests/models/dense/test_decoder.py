"""Features, UperNet and losses of segmentation against timm, a plain reference in torch and slow loops."""

from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score

from models.dense.drawing import index_png, overlay, palette
from models.dense.pyramid import Pyramid, block_features, four_blocks
from models.dense.scores import count_pixels, ious, listed, mean_scores, recalls
from models.dense.sliding import slide, starts
from models.dense.upernet import POOLS, FCNHead, UperNet, pixel_loss
from models.encoder.build import build_encoder
from models.encoder.patches import as_normalised
from pipeline.batch import IGNORED
from pipeline.errors import InputError


def images(n: int, side: int) -> torch.Tensor:
    return torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_features_of_blocks_are_those_of_timm(name):
    torch.manual_seed(0)
    position = "rope" if "dinov3" in name else "learned"
    own = build_encoder(name, image_size=32, patch=16, classes=0, position=position).eval()
    theirs = timm.create_model(name, img_size=32, num_classes=0).eval()
    own.blocks, theirs.blocks = own.blocks[:4], theirs.blocks[:4]
    theirs.load_state_dict(own.state_dict())
    x = images(2, 32)
    with torch.no_grad():
        ours = block_features(own, x, (1, 2, 4))
        normal = as_normalised(x, own.normalisation)
        expected = theirs.forward_intermediates(normal, indices=[0, 1, 3], intermediates_only=True)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_blocks_are_those_of_beits_configurations_and_others_are_refused():
    assert four_blocks(12) == (4, 6, 8, 12)
    assert four_blocks(24) == (8, 12, 16, 24)
    assert four_blocks(4, (1, 2, 3, 4)) == (1, 2, 3, 4)
    for wrong in ((1, 2, 3), (1, 3, 2, 4), (1, 2, 3, 5), (0, 1, 2, 4), (1, 1, 2, 3)):
        with pytest.raises(InputError, match=r"method\.blocks is .*the last 4"):
            four_blocks(4, wrong)


def plain_conv(x: torch.Tensor, layers: torch.nn.Sequential) -> torch.Tensor:
    conv, norm = layers[0], layers[1]
    y = F.conv2d(x, conv.weight, None, padding=conv.weight.shape[-1] // 2)
    mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
    y = (y - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    return F.relu(y * norm.weight[:, None, None] + norm.bias[:, None, None])


def plain_upernet(net: UperNet, levels: list[torch.Tensor]) -> torch.Tensor:
    """UPerHead as its equations, without its modules."""

    def up(x, like):
        return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)

    top = levels[3]
    pooled = [up(plain_conv(F.adaptive_avg_pool2d(top, s), p), top) for s, p in zip(POOLS, net.pools, strict=True)]
    p5 = plain_conv(torch.cat([top, *pooled], 1), net.pooled)
    l4 = plain_conv(levels[2], net.laterals[2]) + up(p5, levels[2])
    l3 = plain_conv(levels[1], net.laterals[1]) + up(l4, levels[1])
    l2 = plain_conv(levels[0], net.laterals[0]) + up(l3, levels[0])
    outs = [plain_conv(x, s) for x, s in zip((l2, l3, l4), net.smooth, strict=True)] + [p5]
    joined = plain_conv(torch.cat([up(x, outs[0]) for x in outs], 1), net.joined)
    last = net.scores[1]
    return F.conv2d(joined, last.weight, last.bias)


def test_upernet_is_its_equations_and_its_levels_have_the_strides():
    torch.manual_seed(0)
    pyramid, net = Pyramid(8).double(), UperNet(8, 5, 6, dropout=0.0).double()
    levels = pyramid([torch.randn(2, 8, 6, 6, dtype=torch.float64) for _ in range(4)])
    assert [tuple(level.shape[2:]) for level in levels] == [(24, 24), (12, 12), (6, 6), (3, 3)]
    torch.testing.assert_close(net(levels), plain_upernet(net, levels))
    assert FCNHead(8, 5, 4).double()(levels[2]).shape == (2, 5, 6, 6)


def test_the_loss_is_the_mean_over_all_pixels_and_ignored_ones_add_nothing():
    scores = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    classes = torch.randint(3, (2, 4, 4), dtype=torch.uint8)
    classes[0, :2] = IGNORED
    total = 0.0
    for n in range(2):
        for y in range(4):
            for x in range(4):
                if classes[n, y, x] != IGNORED:
                    total -= float(scores.detach()[n, :, y, x].log_softmax(0)[int(classes[n, y, x])])
    loss = pixel_loss(scores, classes)
    assert loss.item() == pytest.approx(total / 32, rel=1e-6)
    loss.backward()
    assert scores.grad[0, :, :2].abs().max() == 0
    assert pixel_loss(scores, torch.full_like(classes, IGNORED)).item() == 0.0


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 5, (7, 9, 11)), rng.integers(0, 5, (7, 9, 11))
    counted = rng.random(true.shape) < 0.8
    held = torch.from_numpy(np.where(counted, true, IGNORED).astype(np.uint8))
    confusion = sum(
        count_pixels(torch.from_numpy(p.astype(np.uint8)), h, 5) for p, h in zip(predicted, held, strict=True)
    )
    y, p = true[counted], predicted[counted]
    assert np.array_equal(confusion.numpy(), confusion_matrix(y, p, labels=range(5)))
    found = mean_scores(confusion)
    assert found["miou"] == pytest.approx(jaccard_score(y, p, average="macro"))
    assert found["macc"] == pytest.approx(recall_score(y, p, average="macro"))
    assert found["aacc"] == pytest.approx(accuracy_score(y, p))


def test_a_class_that_is_nowhere_is_left_out_and_one_that_is_only_predicted_counts():
    confusion = torch.tensor([[3, 0, 1], [0, 0, 0], [0, 0, 0]])  # nothing of class 1; class 2 is predicted wrongly
    assert listed(ious(confusion)) == [0.75, None, 0.0]
    assert listed(recalls(confusion)) == [0.75, None, None]
    assert mean_scores(confusion) == {"miou": 0.375, "macc": 0.75, "aacc": 0.75}


def test_windows_cover_an_image_as_mmsegmentations():
    assert starts(512, 512, 341) == [0]
    assert starts(683, 512, 341) == [0, 171]
    assert starts(1400, 512, 341) == [0, 341, 682, 888]
    for side in range(16, 70):
        held = starts(side, 16, 10)
        assert (held[0], held[-1]) == (0, side - 16)
        assert all(0 < later - earlier <= 10 for earlier, later in pairwise(held))


def test_sliding_averages_what_each_window_says():
    image = images(1, 23)[0][:, :19]
    score = lambda windows: torch.stack([windows.float().sum(1), windows[:, 0].float()], 1)  # noqa: E731
    found = slide(score, image, (8, 8), 5, 2, batch=3)
    expected = torch.stack([image.float().sum(0), image[0].float()])  # each pixel says the same in every window
    torch.testing.assert_close(found, expected)
    tall = slide(score, image[:, :, :5], (8, 8), 5, 2)
    assert tall.shape == (2, 19, 5)
    torch.testing.assert_close(tall, expected[:, :, :5])


def test_overlays_keep_ignored_pixels_and_index_pngs_hold_the_numbers(tmp_path):
    classes = np.array([[0, 1], [IGNORED, 10]], np.uint8)
    picture = np.full((2, 2, 3), 100, np.uint8)
    drawn = overlay(picture, classes)
    assert drawn[1, 0].tolist() == [100] * 3
    assert drawn[0, 1].tolist() == [round(0.45 * 100 + 0.55 * c) for c in palette()[1].tolist()]
    assert len({tuple(colour) for colour in palette(150).tolist()}) == 150
    assert np.array_equal(np.array(Image.open(BytesIO(index_png(classes)))), classes)
