"""Cut a step into micro-batches whose gradients are accumulated."""

from collections.abc import Sequence

from pipeline.errors import InputError


def micro_batches(batches: Sequence[int], world_size: int, device_images: int | None) -> int:
    """The smallest number of micro-batches a step that fits on the devices and divides each part of the step evenly.

    micro_batches((32, 224), world_size=2, device_images=64)  # 2: 16 + 112 images a rank, 8 + 56 at once

    batches        images of each part of a step over all ranks, such as labelled and unlabelled; zeros are skipped
    device_images  most images on a device at once; None: no limit

    As all micro-batches are equally large, the mean over ranks and micro-batches is the mean over the step. Raises
    InputError if no number fits.
    """
    parts = [images for images in batches if images]
    names = " + ".join(str(images) for images in parts)
    if any(images % world_size for images in parts):
        raise InputError(
            f"a step of {names} images does not divide over {world_size} devices; choose data.batch and data.ratio so "
            "that each part does"
        )
    shares = [images // world_size for images in parts]
    for count in range(1, min(shares) + 1):
        fits = device_images is None or sum(shares) // count <= device_images
        if fits and all(share % count == 0 for share in shares):
            return count
    least = sum(shares) // max(n for n in range(1, min(shares) + 1) if all(share % n == 0 for share in shares))
    raise InputError(
        f"a step of {names} images over {world_size} device(s) divides evenly only down to {least} images at once, "
        f"run.device_images is {device_images}; raise it, or choose data.batch and data.ratio with more divisors"
    )
