"""T2: every view made on the device from decoded images packed one after another in one buffer."""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.concurrency.transfer import send
from pipeline.errors import InputError
from pipeline.views import crop_flip, rand_augment_torch
from pipeline.views import erase as erasing
from pipeline.views.plan import ViewParams
from pipeline.views.rand_augment import Ops

TOGETHER = 64  # images cut at once, of like reduction: bounds the float intermediates to 0.2 GB at 224 pixels


class Packed(NamedTuple):
    """pixels u8 [pixels, 3] on the device; places i64 [N], the pixel where each image begins; widths i64 [N]."""

    pixels: Tensor
    places: np.ndarray
    widths: np.ndarray


@cache
def check_device(device: torch.device) -> None:
    """Raise InputError where views are to be made on a GPU and Triton, which makes them there, does not start: it
    builds its driver with a C compiler, and keeps what it compiles in a folder."""
    if device.type != "cuda" or not torch.cuda.is_available():  # of a GPU that is not there others say so
        return
    try:
        from triton.runtime import driver

        driver.active.get_current_target()
    except Exception as error:  # whatever it is, it would come again from a thread amid the first batch
        raise InputError(
            f"Triton is to make the views on the GPU and does not start: {' '.join(str(error).split())}; it needs "
            "a C compiler, Python's headers and a TRITON_CACHE_DIR that can be written; or set data.views_on to cpu"
        ) from error


def make_views(packed: Packed, plan: ViewParams, size: int) -> list[Tensor]:
    """Views u8 [N, 3, S, S], one for each of the plan's V; enqueued on the current stream, without a host sync."""
    return change([cut(packed, each, size) for each in cuts(plan)], plan)


def cuts(plan: ViewParams, images: slice = slice(None)) -> list[crop_flip.Cut]:
    """Where some of the images are cut, for each of the plan's views."""
    views = range(len(plan.boxes))
    return [crop_flip.Cut(*(a[v, images] for a in (plan.boxes, plan.insets, plan.flips))) for v in views]


def cut(packed: Packed, where: crop_flip.Cut, size: int) -> Tensor:
    """One view of each packed image, cut and mirrored: u8 [N, 3, S, S], channels last."""
    device = packed.pixels.device
    geometry = np.concatenate([packed.places[:, None], packed.widths[:, None], *where[:2], where.flips[:, None]], 1)
    if device.type == "cuda":
        from pipeline.views import crop_flip_triton  # Triton is there exactly where torch has CUDA

        return crop_flip_triton.cut(packed.pixels, send(geometry, device), size)
    taps = crop_flip.taps(where, size)
    order = np.argsort(taps.prod(1), kind="stable")  # one large image must not cost the others its many taps
    geometry, taps = send(geometry[order], device), taps[order]
    parts = []
    for first in range(0, len(order), TOGETHER):
        most = taps[first : first + TOGETHER].max(0)
        places, widths, boxes, insets, flips = geometry[first : first + TOGETHER].split([1, 1, 4, 4, 1], 1)
        on_device = crop_flip.CutOnDevice(boxes, insets, flips[:, 0].bool(), (int(most[0]), int(most[1])))
        parts.append(crop_flip.cut(packed.pixels, places[:, 0], widths[:, 0], on_device, size))
    return torch.cat(parts)[send(np.argsort(order), device)]


def change(views: list[Tensor], plan: ViewParams) -> list[Tensor]:
    """The colours, geometry and erasing that the plan asks of each view."""
    return [_change(view, plan, v) for v, view in enumerate(views)]


def _change(view: Tensor, plan: ViewParams, v: int) -> Tensor:
    apply_ops, erase = rand_augment_torch.apply_ops, erasing.erase
    if view.device.type == "cuda":
        from pipeline.views import erase_triton, rand_augment_triton

        apply_ops, erase = rand_augment_triton.apply_ops, erase_triton.erase
    fill = tuple(int(level) for level in plan.fill[v])
    view = apply_ops(view, Ops(plan.ops[v], plan.args[v]), nearest=bool(plan.nearest[v]), fill=fill)
    return erase(view, plan.erased[v], plan.noise[v] if plan.noisy[v] else erasing.CUTOUT_FILL)
