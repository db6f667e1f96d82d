"""Mask R-CNN's heads against torchvision's own assembly, slow loops, and cases that are known."""

import copy
from itertools import product
from math import floor, log2, sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection import MaskRCNN as TheirMaskRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, box_iou, roi_align

from models.dense.mask_rcnn import Anchors, MaskRCNN, mask_targets, paste, pooled
from pipeline.errors import InputError


def heads(**options):
    torch.manual_seed(0)
    net = MaskRCNN(3, **{"channels": 8, "anchors": (8, 16, 32, 64, 128)} | options)
    for name, parameter in net.named_parameters():  # the outputs of initial weights are all alike
        if name.endswith(("bbox_pred.weight", "cls_score.weight", "logits.weight")):
            nn.init.normal_(parameter, std=0.1)
    return net


def levels_of(size=(128, 96), n=2, patch=16, channels=8):
    generator = torch.Generator().manual_seed(1)
    sides = [(4 * size[0] // patch, 4 * size[1] // patch)]
    while len(sides) < 5:
        sides.append(tuple(max(1, side // 2) for side in sides[-1]))
    return [torch.randn(n, channels, *each, generator=generator) for each in sides]


def masks_of(boxes, size):
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (left, top, right, lower) in zip(masks, boxes.long().tolist(), strict=True):
        mask[top:lower, left : (left + right) // 2] = 1
    return masks


def targets_of(size=(128, 96)):
    boxes = torch.tensor([[10.0, 20.0, 60.0, 70.0], [40.0, 5.0, 56.0, 30.0], [0.0, 64.0, 90.0, 128.0]])
    labels = torch.tensor([1, 3, 2])
    one = {"boxes": boxes, "labels": labels, "masks": masks_of(boxes, size)}
    return [one, {name: each[1:2] for name, each in one.items()}]


def no_targets(size, n=2):
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    return [none | {"masks": torch.zeros(0, *size, dtype=torch.uint8)} for _ in range(n)]


def level_of(box, stride):
    left, top, right, lower = box.tolist()
    return min(max(floor(4 + log2(sqrt((right - left) * (lower - top)) / (56 * stride))) - 2, 0), 3)


class SlowPool(MultiScaleRoIAlign):
    """A box at a time, by torchvision's roi_align on the level that FPN's rule names."""

    def __init__(self, stride, side):
        super().__init__(["0", "1", "2", "3"], side, 0)
        self.stride, self.side = stride, side

    def forward(self, features, boxes, image_shapes):
        found = []
        for image, own in enumerate(boxes):
            for box in own:
                number = level_of(box, self.stride)
                level = list(features.values())[number][image : image + 1]
                scale = 1 / (self.stride * 2**number)
                found.append(roi_align(level, [box[None]], self.side, scale, sampling_ratio=0, aligned=True))
        return torch.cat(found) if found else next(iter(features.values())).new_zeros(0, 8, self.side, self.side)


class WithBackground(nn.Module):
    def __init__(self, predictor):
        super().__init__()
        self.predictor = predictor

    def forward(self, x):
        return F.pad(self.predictor(x), (0, 0, 0, 0, 1, 0))


class Given(nn.Module):
    """A backbone that returns given levels, and seeds what is drawn behind it."""

    out_channels = 8

    def __init__(self, levels):
        super().__init__()
        self.levels = levels

    def forward(self, x):
        torch.manual_seed(7)
        return {str(number): level for number, level in enumerate(self.levels)}


def theirs(net, levels, size):
    """torchvision's MaskRCNN of the same weights; anchors and pooling are tested on their own."""
    height, width = size
    return TheirMaskRCNN(
        Given(levels), min_size=min(height, width), max_size=max(height, width), image_mean=[0, 0, 0],
        image_std=[1, 1, 1], rpn_anchor_generator=net.rpn.anchor_generator, rpn_head=net.rpn.head,
        rpn_post_nms_top_n_train=1000, box_roi_pool=SlowPool(4.0, 7), box_head=net.roi.box_head,
        box_predictor=net.roi.box_predictor, mask_roi_pool=SlowPool(4.0, 14), mask_head=net.mask[0],
        mask_predictor=WithBackground(net.mask[1]), size_divisible=1,
    )  # fmt: skip


def test_losses_are_those_of_torchvisions_assembly():
    net, size = heads().train(), (128, 96)
    levels, targets = levels_of(size), targets_of(size)
    expected = theirs(net, levels, size).train()([torch.zeros(3, *size)] * 2, copy.deepcopy(targets))
    torch.manual_seed(7)
    ours = net.losses(levels, size, torch.tensor([size, size]), targets)
    names = {"objectness": "loss_objectness", "proposals": "loss_rpn_box_reg", "classes": "loss_classifier",
             "boxes": "loss_box_reg"}  # fmt: skip
    for own, name in names.items():
        torch.testing.assert_close(ours[own], expected[name])
        assert ours[own] > 0
    assert list(ours) == [*names, "masks"]
    assert expected["loss_mask"].item() == pytest.approx(
        ours["masks"].item(), rel=0.1
    )  # whose targets are cut otherwise
    assert list(heads(masks=False).losses(levels, size, torch.tensor([size, size]), targets)) == list(names)


def test_detections_are_those_of_torchvisions_assembly():
    net, size = heads(score_threshold=0.3, nms_threshold=0.4, detections=20).eval(), (128, 96)
    levels, small = levels_of(size), (100, 96)
    other = theirs(net, levels, size).eval()
    other.roi_heads.score_thresh, other.roi_heads.nms_thresh, other.roi_heads.detections_per_img = 0.3, 0.4, 20
    features = other.backbone(None)
    images = ImageList(torch.zeros(2, 3, *size), [size, small])
    with torch.no_grad():
        expected, _ = other.roi_heads(features, other.rpn(images, features)[0], images.image_sizes)
    ours = net.detect(levels, size, torch.tensor([size, small]))
    for found, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(found.boxes, wanted["boxes"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found.scores, wanted["scores"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.masks, wanted["masks"][:, 0], rtol=1e-3, atol=1e-3)
        assert found.classes.equal(wanted["labels"] - 1)
        assert 0 < len(found.boxes) <= 20
        assert found.scores.diff().max() <= 0
    assert ours[1].boxes[:, 3].max() <= 100
    assert heads(masks=False).eval().detect(levels, size, torch.tensor([size, size]))[0].masks is None


@pytest.mark.parametrize("patch", [14, 16])
def test_anchors_stand_at_exact_strides_with_exact_sides(patch):
    size = 8 * patch, 6 * patch
    levels = levels_of(size, patch=patch)
    made = Anchors((8, 16, 32, 64, 128))(ImageList(torch.zeros(2, 3, *size), [size, size]), levels)
    expected = []
    for number, level in enumerate(levels):
        stride, side = patch / 4 * 2**number, 8 * 2**number
        for row, column in product(range(level.shape[2]), range(level.shape[3])):
            for aspect in (0.5, 1.0, 2.0):
                width, height, x, y = side / sqrt(aspect), side * sqrt(aspect), column * stride, row * stride
                expected.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    assert len(made) == 2
    torch.testing.assert_close(made[1], torch.tensor(expected))


@pytest.mark.parametrize("patch", [14, 16])
def test_a_box_is_read_of_the_level_of_its_size(patch):
    size = 32 * patch, 32 * patch
    levels, stride = levels_of(size, patch=patch), patch / 4
    sides = [patch * share for share in (0.5, 6.9, 7.1, 13.9, 14.1, 27.9, 28.1, 31)]
    boxes = [torch.tensor([[1.0, 2.0, 1 + side, 2 + side] for side in own]) for own in (sides[::2], sides[1::2])]
    assert [level_of(box, stride) for box in boxes[0]] == [0, 1, 2, 3]
    assert [level_of(box, stride) for box in boxes[1]] == [0, 1, 2, 3]
    slow = SlowPool(stride, 7)({str(n): level for n, level in enumerate(levels)}, boxes, None)
    torch.testing.assert_close(pooled(levels[:4], stride, boxes, 7), slow)
    empty = [torch.zeros(0, 4), torch.zeros(0, 4)]
    assert pooled(levels[:4], stride, empty, 7).shape == (0, 8, 7, 7)


def gradients(net, losses):
    net.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    return {name: parameter.grad for name, parameter in net.named_parameters()}


def test_every_parameter_has_a_gradient_without_boxes_and_without_proposals(monkeypatch):
    size = 128, 96
    net, levels, sides = heads().train(), levels_of(size), torch.tensor([size, size])
    levels = [level.requires_grad_() for level in levels]
    some = [targets_of()[0], no_targets(size)[0]]
    for targets in (targets_of(), some, no_targets(size)):
        losses = net.losses(levels, size, sides, targets)
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert all(grad is not None for grad in gradients(net, losses).values())
    assert losses["masks"] == losses["boxes"] == losses["proposals"] == 0
    monkeypatch.setattr(net.rpn, "filter_proposals", lambda boxes, *_: ([boxes.new_zeros(0, 4)] * 2, []))
    losses = net.losses(levels, size, sides, no_targets(size))
    found = gradients(net, losses)
    assert all(torch.isfinite(grad).all() for grad in found.values())
    assert losses["classes"] == 0
    assert losses["objectness"] > 0
    assert all(level.grad is not None for level in levels)
    nothing = net.eval().detect(levels, size, sides)
    assert [(len(each.boxes), tuple(each.masks.shape)) for each in nothing] == [(0, (0, 28, 28))] * 2
    with pytest.raises(InputError, match=r"got \[5\.0, 5\.0, 5\.0, 9\.0\]"):
        net.train().losses(levels, size, sides, [{**some[1], "boxes": torch.tensor([[5.0, 5.0, 5.0, 9.0]])}])
    with pytest.raises(InputError, match="anchors are 5, one for each level, got 2"):
        MaskRCNN(3, anchors=(8, 16))


def test_losses_and_boxes_are_float32_under_autocast():
    net, size = heads().train(), (64, 64)
    levels, sides = [level.bfloat16() for level in levels_of(size, 1)], torch.tensor([size])
    with torch.autocast("cpu", torch.bfloat16):
        losses = net.losses(levels, size, sides, targets_of(size)[1:])
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        (found,) = net.eval().detect(levels, size, sides)
    assert {found.boxes.dtype, found.scores.dtype, found.masks.dtype} == {torch.float32}


def test_targets_of_masks_are_their_boxes_half_covered_places():
    box = torch.tensor([[8.0, 4.0, 64.0, 60.0]])  # two pixels a place
    mask = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)).gt(0.4).to(torch.uint8)
    wanted = mask[2, 4:60, 8:64].float().unflatten(1, (28, 2)).unflatten(0, (28, 2)).mean((1, 3)) >= 0.5
    assert mask_targets(mask, box, torch.tensor([2]))[0].equal(wanted.float())
    assert 0 < wanted.float().mean() < 1


def test_a_mask_is_pasted_where_its_box_is():
    generator = torch.Generator().manual_seed(0)
    masks = F.avg_pool2d(torch.rand(20, 28, 28, generator=generator), 3, 1, 1)
    corners = torch.rand(20, 2, generator=generator) * 60 - 10
    boxes = torch.cat([corners, corners + torch.rand(20, 2, generator=generator) * 50 + 0.5], 1)
    drawn = paste(masks, boxes, 48, 64)
    for mask, (left, top, right, lower), own in zip(masks, boxes.tolist(), drawn, strict=True):
        y = (torch.arange(48) + 0.5 - top) / (lower - top) * 2 - 1
        x = (torch.arange(64) + 0.5 - left) / (right - left) * 2 - 1
        places = torch.stack([x.expand(48, -1), y[:, None].expand(-1, 64)], 2)
        expected = F.grid_sample(mask[None, None], places[None], align_corners=False)[0, 0]
        assert (own == (expected >= 0.5))[(expected - 0.5).abs() > 1e-4].all()
    whole = paste(torch.ones(1, 28, 28), torch.tensor([[10.0, 5.0, 40.0, 25.0]]), 48, 64)[0]
    inside = torch.zeros(48, 64, dtype=torch.bool)
    inside[5:25, 10:40] = True
    assert whole.equal(inside)
    assert paste(torch.zeros(0, 28, 28), torch.zeros(0, 4), 48, 64).shape == (0, 48, 64)


@pytest.mark.parametrize("patch", [14, 16])
def test_what_is_found_are_proposals_moved_by_the_deltas_of_their_class(patch):
    net, size, inside = heads(detections=30).eval(), (4 * patch, 6 * patch), (3 * patch, 5 * patch)
    predict = net.roi.box_predictor
    for layer in (net.rpn.head.cls_logits, net.rpn.head.bbox_pred, predict.cls_score, predict.bbox_pred,
                  net.mask[1].mask_fcn_logits):  # fmt: skip
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        predict.cls_score.bias[2] = 3.0
        predict.bbox_pred.bias[8:12] = torch.tensor([1.0, 2.0, 0.0, 0.0])  # a tenth of the width, a fifth of the height
        net.mask[1].mask_fcn_logits.bias.copy_(torch.tensor([-1.0, 0.5, 2.0]))
    levels = levels_of(size, 1, patch)
    (found,) = net.detect(levels, size, torch.tensor([inside]))
    limits = torch.tensor([inside[1], inside[0]] * 2)
    anchors = net.rpn.anchor_generator(ImageList(torch.zeros(1, 3, *size), [inside]), levels)[0]
    proposals = anchors.clamp(min=0).minimum(limits)
    width, height = (proposals[:, 2:] - proposals[:, :2]).unbind(1)
    moved = (proposals + torch.stack([width / 10, height / 5] * 2, 1)).clamp(min=0).minimum(limits)
    assert ((found.boxes[:, None] - moved).abs().amax(2).amin(1) < 1e-3).all()
    assert 10 < len(found.boxes) <= 30
    assert box_iou(found.boxes, found.boxes).fill_diagonal_(0).max() <= 0.5
    torch.testing.assert_close(found.scores, torch.tensor([0.0, 0, 3, 0]).softmax(0)[2].expand(len(found.boxes)))
    assert found.classes.unique().tolist() == [1]
    torch.testing.assert_close(found.masks, torch.tensor(0.5).sigmoid().expand_as(found.masks))
