"""RandAugment executed on the CPU, in place, by numba kernels that release the GIL, with Pillow's rounding."""

import numpy as np
from numba import njit

from pipeline.views import rand_augment as ra
from pipeline.views.rand_augment_colour import colour, hue, mean_luma, sharpness
from pipeline.views.rand_augment_levels import autocontrast, blend_levels, equalize, map_levels
from pipeline.views.rand_augment_tables import affine
from pipeline.views.rand_augment_warp import warp


@njit(nogil=True, cache=True)
def apply_ops(image, ops, args, nearest, fill, scratch):
    """Carry out one image's operations on it, in place; for use inside other kernels too.

    image    u8  [S, S, 3]   C-contiguous; changed
    ops      i8  [L]         one row of Ops.ops
    args     f32 [L]
    nearest  bool            geometry reads the nearest pixel; else bilinear
    fill     u8  [3]         colour of what geometry brings in from outside
    scratch  u8  [S, S, 3]   overwritten
    """
    size = image.shape[0]
    flat, spare = image.reshape(image.size), scratch.reshape(image.size)
    for i in range(len(ops)):
        op, arg = ops[i], np.float32(args[i])
        if op == ra.IDENTITY:
            continue
        if op in (ra.INVERT, ra.POSTERIZE, ra.SOLARIZE, ra.SOLARIZE_ADD):
            map_levels(flat, op, arg)
        elif op == ra.BRIGHTNESS:
            blend_levels(flat, 0, arg)
        elif op == ra.CONTRAST:
            blend_levels(flat, mean_luma(flat), arg)
        elif op == ra.AUTOCONTRAST:
            autocontrast(flat)
        elif op == ra.EQUALIZE:
            equalize(flat)
        elif op == ra.COLOUR:
            colour(flat, arg)
        elif op == ra.SHARPNESS:
            sharpness(flat, size, arg)
        elif op == ra.HUE:
            hue(flat, arg)
        else:
            for j in range(flat.size):  # a plain loop: numba's array assignment takes ten times as long
                spare[j] = flat[j]
            a, b, c, d, e, f = affine(op, arg, size)
            warp(spare, flat, size, a, b, c, d, e, f, nearest, fill)
