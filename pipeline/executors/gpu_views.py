"""Make every view on the device from decoded images that lie there one after another in one buffer.

views = make_views(Packed(pixels, places, widths), plan.params, plan.size)     # V of u8 [N, 3, H, W]
"""

import os
import socket
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.executors import crop_flip_torch, erase_torch, rand_augment_torch, resize_torch, yuv420_torch
from pipeline.views.crop_flip import AREA, Cut
from pipeline.views.erase import CUTOUT_FILL
from pipeline.views.plan import ViewParams
from pipeline.views.rand_augment import Ops

GEOMETRY = ("place", "width", "top", "left", "height", "breadth", "before_y", "before_x", "after_y", "after_x", "flip")
"""The columns of what a cut by area takes, i64 [N, 11]: the pixel at which an image begins, pixels in its rows, the box
in it, the view's pixels outside of it, and whether the view is mirrored."""
FRAMED = (*GEOMETRY[:6], "start_y", "start_x", "resized_height", "resized_breadth", "flip")
"""The columns of what an antialiased cut takes: in place of the view's pixels outside, its frame (Cut.frames)."""
PLANES = "place", "height", "width", "target"
"""The columns of what turns planes into RGB, i64 [N, 4]: the byte at which an image begins, its size in pixels, and the
pixel at which it begins as RGB."""


class Packed(NamedTuple):
    """Decoded images in one buffer: pixels u8 [pixels, 3] on the device; places i64 [N], the pixel at which each image
    begins; widths i64 [N]."""

    pixels: Tensor
    places: np.ndarray
    widths: np.ndarray


class Decoded(NamedTuple):
    """Images in one buffer, as RGB or as planes of YUV 4:2:0: data u8 [pixels, 3] on the device; places i64 [N], the
    byte at which each begins; heights and widths i64 [N], in pixels; planes bool [N]. Those of planes lie first."""

    data: Tensor
    places: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    planes: np.ndarray


class Executors(NamedTuple):
    """The functions that carry out a plan on a device; `cut` resizes by area, `resize` antialiased, `to_rgb` turns
    planes into pixels."""

    to_rgb: Callable[[Tensor, np.ndarray], Tensor]
    cut: Callable[[Tensor, np.ndarray, tuple[int, int]], Tensor]
    resize: Callable[[Tensor, np.ndarray, tuple[int, int], int], Tensor]
    apply_ops: Callable[..., Tensor]
    erase: Callable[..., Tensor]


@cache
def executors(device_type: str) -> Executors:
    """Import the executors of a device: Triton's on a GPU, torch's elsewhere and in place of one that disagrees."""
    reference = Executors(
        yuv420_torch.to_rgb, crop_flip_torch.cut, resize_torch.resize, rand_augment_torch.apply_ops, erase_torch.erase
    )
    if device_type != "cuda":
        return reference
    from pipeline.executors import agreement  # with torch's CUDA, as the kernels

    triton = Executors(**agreement.kernels())
    return triton._replace(**{name: getattr(reference, name) for name in agreement.refused(torch.device("cuda"))})


@cache
def check_device(device: torch.device) -> None:
    """Raise InputError where Triton is to make the views on a GPU and does not start: it builds its driver with a C
    compiler, and keeps what it compiles in a folder.

    A line names each kernel that is not used, as its views are not torch's (pipeline.executors.agreement).
    """
    if device.type != "cuda" or not torch.cuda.is_available():  # a GPU that is missing is reported elsewhere
        return
    try:
        from triton.runtime import driver

        driver.active.get_current_target()
    except Exception as error:  # of any kind: else a thread would raise it amid the first batch
        raise InputError(
            f"Triton is to make the views on the GPU and does not start: {' '.join(str(error).split())}; it needs "
            "a C compiler, Python's headers and a TRITON_CACHE_DIR that can be written; or set data.views_on to cpu"
        ) from error
    from pipeline.executors.agreement import refused

    for name, why in refused(torch.device("cuda")).items() if os.environ.get("LOCAL_RANK", "0") == "0" else ():
        gpu = f"{torch.cuda.get_device_name(device)} of {socket.gethostname()}"
        print(f"the Triton kernel of {name} is not used on {gpu}: {why}; torch makes these views, slower", flush=True)


def make_views(packed: Packed, params: ViewParams, size: tuple[int, int]) -> list[Tensor]:
    """Make views u8 [N, 3, H, W], one for each of the plan's V; enqueued on the current stream, without a host sync."""
    views = zip(cuts(params), params.filters.tolist(), strict=True)
    return change([cut(packed, where, size, kind) for where, kind in views], params)


def takes_planes(device_type: str) -> bool:
    """Whether a device turns planes into RGB by one kernel, and not image by image in torch, which takes too long."""
    return device_type != "cuda" or executors(device_type).to_rgb is not yuv420_torch.to_rgb


def as_rgb(images: Decoded) -> Packed:
    """Return images as packed RGB: planes are turned into it on their device, without a host sync."""
    planes, pixels = images.planes, images.data
    if not planes.any():
        return Packed(pixels, images.places // 3, images.widths)
    areas = np.where(planes, images.heights * images.widths, 0)
    targets = np.cumsum(areas) - areas
    geometry = np.stack([images.places, images.heights, images.widths, targets], 1)[planes]
    made = executors(pixels.device.type).to_rgb(pixels.view(-1), geometry)
    if planes.all():
        return Packed(made, targets, images.widths)
    behind = int(images.places[~planes].min()) // 3
    places = np.where(planes, targets, images.places // 3 - behind + len(made))
    return Packed(torch.cat([made, pixels[behind:]]), places, images.widths)


def cuts(params: ViewParams, images: slice = slice(None)) -> list[Cut]:
    """List where some of the images are cut, for each of the plan's views."""
    views = range(len(params.boxes))
    return [Cut(*(a[v, images] for a in (params.boxes, params.insets, params.flips, params.frames))) for v in views]


def cut(packed: Packed, where: Cut, size: tuple[int, int], kind: int = AREA) -> Tensor:
    """Cut and mirror one view of each packed image by a filter, crop_flip.FILTERS: u8 [N, 3, H, W], channels last."""
    on = executors(packed.pixels.device.type)
    begins = packed.places[:, None], packed.widths[:, None], where.boxes
    if kind == AREA:
        return on.cut(packed.pixels, np.concatenate([*begins, where.insets, where.flips[:, None]], 1), size)
    return on.resize(packed.pixels, np.concatenate([*begins, where.frames, where.flips[:, None]], 1), size, kind)


def change(views: list[Tensor], params: ViewParams) -> list[Tensor]:
    """Carry out the colours, geometry and erasing that the plan has drawn for each view."""
    return [_change(view, params, v) for v, view in enumerate(views)]


def _change(view: Tensor, params: ViewParams, v: int) -> Tensor:
    on = executors(view.device.type)
    fill = tuple(int(level) for level in params.fill[v])
    view = on.apply_ops(view, Ops(params.ops[v], params.args[v]), nearest=bool(params.nearest[v]), fill=fill)
    return on.erase(view, params.erased[v], params.noise[v] if params.noisy[v] else CUTOUT_FILL)
