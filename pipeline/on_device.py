"""T2: every view made on the device, in torch, from decoded images packed one after another in one buffer."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.plan import Stacked
from pipeline.send import send
from pipeline.views import crop_flip, erase
from pipeline.views.rand_augment import Ops
from pipeline.views.rand_augment_torch import apply_ops

TOGETHER = 64  # images cut at once, of like reduction: bounds the float intermediates to 0.2 GB at 224 pixels


class Packed(NamedTuple):
    """pixels u8 [pixels, 3] on the device; places i64 [N], the pixel where each image begins; widths i64 [N]."""

    pixels: Tensor
    places: np.ndarray
    widths: np.ndarray


def make_views(packed: Packed, plan: Stacked, size: int) -> list[Tensor]:
    """Views u8 [N, 3, S, S], one for each of the plan's V; enqueued on the current stream, without a host sync."""
    return [_view(packed, plan, v, size) for v in range(len(plan.boxes))]


def _view(packed: Packed, plan: Stacked, v: int, size: int) -> Tensor:
    device = packed.pixels.device
    n = len(packed.places)
    geometry = np.concatenate(
        [packed.places[:, None], packed.widths[:, None], plan.boxes[v], plan.insets[v], plan.flips[v][:, None]], 1
    )
    taps = crop_flip.taps(crop_flip.Cut(plan.boxes[v], plan.insets[v], plan.flips[v]), size)
    order = np.argsort(taps.prod(1), kind="stable")  # one large image must not cost the others its many taps
    geometry, taps = send(geometry[order], device), taps[order]
    parts = []
    for first in range(0, n, TOGETHER):
        most = taps[first : first + TOGETHER].max(0)
        places, widths, boxes, insets, flips = geometry[first : first + TOGETHER].split([1, 1, 4, 4, 1], 1)
        cut = crop_flip.CutOnDevice(boxes, insets, flips[:, 0].bool(), (int(most[0]), int(most[1])))
        parts.append(crop_flip.cut(packed.pixels, places[:, 0], widths[:, 0], cut, size))
    views = torch.cat(parts)[send(np.argsort(order), device)]
    fill = tuple(int(level) for level in plan.fill[v])
    views = apply_ops(views, Ops(plan.ops[v], plan.args[v]), nearest=bool(plan.nearest[v]), fill=fill)
    return erase.erase(views, plan.erased[v], plan.noise[v] if plan.noisy[v] else erase.CUTOUT_FILL)
