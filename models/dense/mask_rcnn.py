"""Mask R-CNN (He et al. 2017) on the five levels of a pyramid: objects in, losses or what is found out.

    heads = MaskRCNN(classes=80)
    losses = heads.losses(levels, (1024, 1024), sides, targets)     # a step
    found = heads.eval().detect(levels, (1024, 1024), sides)        # what is found, an entry an image

Made of torchvision's parts, with the numbers of detectron2's mask_rcnn_vitdet. Strides are exact here, those of patches
of 14 pixels, too, which torchvision rounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import roi_align

from pipeline.errors import InputError

ASPECTS = 0.5, 1.0, 2.0
"""Height over width of the anchors of each place."""
READ = 4
"""Of the five levels, the finest so many are read for the content of a box; proposals come from all."""
BOX_SIDE, MASK_SIDE, HIDDEN = 7, 14, 1024
"""Places a side of what is read of a box for its class, and for its mask, which is twice as fine; width of fc."""
PASTED_AT_ONCE = 16


@final
@dataclass(frozen=True, eq=False)
class Found:
    """What is found in an image, the surest first.

    boxes    f32 [k, 4]        left, top, right, lower, pixels
    classes  i64 [k]           from 0
    scores   f32 [k]           0..1
    masks    f32 [k, 28, 28]   0..1 over the box; bool [k, H, W] once pasted; None without
    """

    boxes: Tensor
    classes: Tensor
    scores: Tensor
    masks: Tensor | None


@final
class MaskRCNN(nn.Module):
    """Heads of Mask R-CNN: proposals of two convolutions; boxes of four and a layer of 1024; masks of four and one that
    doubles the side, with norms over channels in both (detectron2: mask_rcnn_vitdet).

    classes          of objects, without the background
    anchors          side in pixels of the anchors of each of the five levels, three aspects each
    samples          proposals of an image that boxes are learned of, a quarter of them objects
    score_threshold  of what is found; nms_threshold: the overlap from which of two boxes of a class one is left out;
                     detections: of an image at most; all three of `detect`

    Anchors, sampling (256 anchors, half of them objects; 512 boxes), thresholds, boxes' coding, pooling (ROI
    align with half-pixel offsets, as many samples as pixels), initial weights and targets of masks are detectron2's.
    torchvision's are, and differ: boxes are learned by smooth L1 with beta 1/9, not L1; the losses of proposals are
    divided by the anchors that were sampled, not by 256 an image; the background has (unread) box outputs, too;
    proposals below 1e-3 pixels, and what is found below 1e-2, are left out. Boxes are clipped to the image without its
    padding, in training, too. The level of a box is chosen by its side in patches, 14 at the patches' stride, which is
    FPN's 224 pixels for patches of 16.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 256,
        masks: bool = True,
        anchors: Sequence[float] = (32, 64, 128, 256, 512),
        samples: int = 512,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        detections: int = 100,
    ) -> None:
        """Raises InputError unless there are five anchors."""
        super().__init__()
        if len(anchors) != READ + 1:
            raise InputError(f"anchors are {READ + 1}, one for each level, got {len(anchors)}: {tuple(anchors)}")
        self.rpn = RegionProposalNetwork(
            Anchors(anchors),
            ProposalHead(channels, len(ASPECTS), conv_depth=2),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 2000, "testing": 1000},
            post_nms_top_n={"training": 1000, "testing": 1000},
            nms_thresh=0.7,
        )
        self.roi = RoIHeads(
            None,  # pooling is by `pooled`, with exact strides
            FastRCNNConvFCHead((channels, BOX_SIDE, BOX_SIDE), [channels] * 4, [HIDDEN], LayerNorm2d),
            FastRCNNPredictor(HIDDEN, classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=samples,
            positive_fraction=0.25,
            bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=detections,
        )
        self.mask = None
        if masks:
            convolutions = MaskRCNNHeads(channels, [channels] * 4, 1, LayerNorm2d)
            self.mask = nn.Sequential(convolutions, MaskRCNNPredictor(channels, channels, classes))
        self._initialise()

    def losses(
        self, levels: Sequence[Tensor], size: tuple[int, int], sides: Tensor, targets: Sequence[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Compute the five losses (four without masks), f32 [] each, in training mode: objectness and proposals (of
        anchors), classes, boxes and masks.

        levels   float [N, channels, h_i, w_i], the finest first, each half as fine as the one before
        size     height and width of the images with their padding
        sides    i64 [N, 2]  height and width of each without it
        targets  of each image: boxes f32 [m, 4] in pixels, labels i64 [m] from 1, masks u8 [m, H, W]; m may be 0

        Every parameter gets a gradient, zeros where there is nothing to learn from, as DDP waits for it.

        Raises InputError for a box without width or height, which would be infinitely far from any other.
        """
        _check(targets)
        each = list(targets)
        proposals, found = self.rpn(*_inputs(levels, size, sides), each)
        proposals, matched, labels, wanted = self.roi.select_training_samples(proposals, each)
        stride = size[0] / levels[0].shape[2]
        scores, deltas = self._boxes(levels, stride, proposals)
        if sum(map(len, labels)):
            classes, boxes = fastrcnn_loss(scores, deltas, labels, wanted)
        else:  # a mean of nothing is not a number
            classes, boxes = scores.sum() * 0, deltas.sum() * 0
        losses = {"objectness": found["loss_objectness"], "proposals": found["loss_rpn_box_reg"]}
        losses |= {"classes": classes, "boxes": boxes}
        if self.mask is not None:
            objects = [torch.where(own > 0)[0] for own in labels]
            inside = [boxes[rows] for boxes, rows in zip(proposals, objects, strict=True)]
            whose = [own[rows] for own, rows in zip(matched, objects, strict=True)]
            kinds = torch.cat([own[rows] for own, rows in zip(labels, objects, strict=True)]) - 1
            shapes = [mask_targets(t["masks"], b, m) for t, b, m in zip(each, inside, whose, strict=True)]
            losses["masks"] = mask_loss(self._masks(levels, stride, inside), kinds, torch.cat(shapes))
        return losses

    @torch.no_grad()
    def detect(self, levels: Sequence[Tensor], size: tuple[int, int], sides: Tensor) -> list[Found]:
        """Find objects, in eval mode: an entry an image. Arguments are those of `losses`; boxes lie within `sides`."""
        images, features = _inputs(levels, size, sides)
        proposals, _ = self.rpn(images, features)
        stride = size[0] / levels[0].shape[2]
        scores, deltas = self._boxes(levels, stride, proposals)
        found = self.roi.postprocess_detections(scores, deltas, proposals, images.image_sizes)
        boxes, confidence, labels = found
        masks: Sequence[Tensor | None] = [None] * len(boxes)
        if self.mask is not None:
            logits, kinds = self._masks(levels, stride, boxes), torch.cat(labels) - 1
            masks = of_class(logits, kinds).sigmoid().split([len(each) for each in boxes])
        return [Found(b, c - 1, s, m) for b, c, s, m in zip(boxes, labels, confidence, masks, strict=True)]

    def _boxes(self, levels: Sequence[Tensor], stride: float, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Scores f32 [R, classes + 1] and deltas f32 [R, 4 (classes + 1)] of boxes; the background is 0."""
        scores, deltas = self.roi.box_predictor(self.roi.box_head(pooled(levels[:READ], stride, boxes, BOX_SIDE)))
        return scores.float(), deltas.float()

    def _masks(self, levels: Sequence[Tensor], stride: float, boxes: Sequence[Tensor]) -> Tensor:
        """Logits f32 [R, classes, 28, 28] of the masks of boxes, one for each class that they may be of."""
        assert self.mask is not None
        return self.mask(pooled(levels[:READ], stride, boxes, MASK_SIDE)).float()

    def _initialise(self) -> None:
        """Give detectron2's initial weights to layers that torchvision's parts begin otherwise."""
        hidden = [layer for layer in self.roi.box_head if isinstance(layer, nn.Linear)]
        predict = self.roi.box_predictor
        for layer in hidden:
            nn.init.kaiming_uniform_(layer.weight, a=1)
        small = [(predict.cls_score, 0.01), (predict.bbox_pred, 0.001)]
        layers = [*hidden, predict.cls_score, predict.bbox_pred]
        if self.mask is not None:
            last = self.mask[1]
            small.append((last.mask_fcn_logits, 0.001))
            layers += [last.conv5_mask, last.mask_fcn_logits]
        for layer, std in small:
            nn.init.normal_(layer.weight, std=std)
        for layer in layers:
            nn.init.zeros_(layer.bias)


@final
class ProposalHead(RPNHead):
    """torchvision's head of proposals, whose outputs are float32 under autocast, too, as boxes are computed of them."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Compute objectness [N, 3, h_i, w_i] and deltas [N, 12, h_i, w_i] of each level."""
        scores, deltas = super().forward(x)
        return [each.float() for each in scores], [each.float() for each in deltas]


@final
class Anchors(AnchorGenerator):
    """torchvision's anchors at exact strides, with exact sides, f32: both are rounded to whole pixels there."""

    def __init__(self, sizes: Sequence[float]) -> None:
        super().__init__(tuple((size,) for size in sizes), (ASPECTS,) * len(sizes))

    def generate_anchors(self, scales, aspect_ratios, dtype=torch.float32, device=torch.device("cpu")) -> Tensor:  # noqa: B008
        """The anchors of one place, around 0: f32 [aspects, 4]; area scale², height over width aspect."""
        (side,), aspects = scales, torch.tensor(aspect_ratios, dtype=dtype, device=device)
        widths, heights = side / aspects.sqrt(), side * aspects.sqrt()
        return torch.stack([-widths, -heights, widths, heights], 1) / 2

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """The anchors of all places of all levels, f32 [A, 4] an image; the first place of each level is at 0, 0
        (detectron2: offset 0)."""
        first = image_list.tensors.shape[-2] / feature_maps[0].shape[-2]
        grids = [list(level.shape[-2:]) for level in feature_maps]
        strides = [[first * 2**number] * 2 for number in range(len(grids))]
        self.set_cell_anchors(torch.float32, feature_maps[0].device)
        anchors = torch.cat(self.grid_anchors(grids, strides))
        return [anchors] * len(image_list.image_sizes)


def pooled(levels: Sequence[Tensor], stride: float, boxes: Sequence[Tensor], side: int) -> Tensor:
    """Read what lies in boxes, of the level that fits their size: f32 [R, channels, side, side].

    pooled(levels, 4.0, [boxes], 7)

    levels  float [N, channels, h_i, w_i], the finest first
    stride  of the finest, in pixels
    boxes   f32 [R_n, 4] of each image, pixels

    The level is floor(2 + log2(s / (56 stride))) for the square root s of the box's area, at least the finest and at
    most the coarsest (Lin et al. 2017, eq. 1, whose 224 pixels are 56 strides of 4).
    """
    image = torch.cat([torch.full_like(own[:, :1], number) for number, own in enumerate(boxes)])
    rois = torch.cat([image, torch.cat(list(boxes))], 1)
    area = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
    level = (2 + (area.sqrt() / (56 * stride) + 1e-8).log2()).floor().clamp(0, len(levels) - 1).long()
    order = level.argsort(stable=True)
    parts = rois[order].split(level.bincount(minlength=len(levels)).tolist())
    read = [
        roi_align(features.float(), part, side, 1 / (stride * 2**number), sampling_ratio=0, aligned=True)
        for number, (features, part) in enumerate(zip(levels, parts, strict=True))
    ]
    found = torch.cat(read)
    return torch.zeros_like(found).index_copy(0, order, found)


def mask_targets(masks: Tensor, boxes: Tensor, whose: Tensor) -> Tensor:
    """Cut masks out of boxes: f32 [P, 28, 28], 1 where at least half of the place is of the object (detectron2).

    masks  u8 [m, H, W]
    boxes  f32 [P, 4]
    whose  i64 [P]   the mask of each box
    """
    rois = torch.cat([whose[:, None].to(boxes.dtype), boxes], 1)
    cut = roi_align(masks[:, None].to(boxes.dtype), rois, 2 * MASK_SIDE, 1.0, sampling_ratio=0, aligned=True)
    return (cut[:, 0] >= 0.5).to(boxes.dtype)


def mask_loss(logits: Tensor, classes: Tensor, wanted: Tensor) -> Tensor:
    """Mean binary cross-entropy of the masks of each object's own class; 0, with gradients, of none.

    logits  f32 [P, classes, 28, 28]
    classes i64 [P], from 0
    wanted  f32 [P, 28, 28]
    """
    if not len(classes):
        return logits.sum() * 0
    return F.binary_cross_entropy_with_logits(of_class(logits, classes), wanted)


def of_class(logits: Tensor, classes: Tensor) -> Tensor:
    """Take the mask of each object's class: [P, classes, 28, 28] and i64 [P] -> [P, 28, 28]."""
    return logits[torch.arange(len(classes), device=classes.device), classes]


@torch.no_grad()
def paste(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Draw masks into an image: bool [k, height, width], whether a pixel's centre has 0.5 or more.

    paste(found.masks, found.boxes, 480, 640)

    masks  f32 [k, 28, 28]
    boxes  f32 [k, 4]   pixels; what lies outside of the image is cut off

    Between the centres of a mask's places values are bilinear, and 0 outside of it (detectron2: paste_masks_in_image).
    """
    drawn = torch.zeros(len(masks), height, width, dtype=torch.bool, device=masks.device)
    for first in range(0, len(masks), PASTED_AT_ONCE):
        part, box = masks[first : first + PASTED_AT_ONCE].float(), boxes[first : first + PASTED_AT_ONCE].float()
        down = _weights(box[:, 1], box[:, 3], height, part.shape[1])
        across = _weights(box[:, 0], box[:, 2], width, part.shape[2])
        drawn[first : first + PASTED_AT_ONCE] = down @ part @ across.transpose(1, 2) >= 0.5
    return drawn


def _weights(begin: Tensor, end: Tensor, pixels: int, places: int) -> Tensor:
    """How much of each place each pixel has along an axis, by linear interpolation: f32 [k, pixels, places]."""
    centre = torch.arange(pixels, device=begin.device) + 0.5
    at = (centre - begin[:, None]) / (end - begin)[:, None] * places - 0.5
    return (1 - (at[:, :, None] - torch.arange(places, device=begin.device)).abs()).clamp(min=0)


def _inputs(levels: Sequence[Tensor], size: tuple[int, int], sides: Tensor) -> tuple[ImageList, dict[str, Tensor]]:
    """What torchvision's proposals take; of the images they read sizes alone."""
    inside = [(height, width) for height, width in sides.tolist()]
    images = levels[0].new_empty(()).expand(len(inside), 3, *size)
    return ImageList(images, inside), {str(number): level for number, level in enumerate(levels)}


def _check(targets: Sequence[dict[str, Tensor]]) -> None:
    boxes = torch.cat([each["boxes"] for each in targets])
    flat = ~(boxes[:, 2:] > boxes[:, :2]).all(1)
    if flat.any():
        raise InputError(f"boxes have a width and a height, got {boxes[flat][0].tolist()}; leave such objects out")
