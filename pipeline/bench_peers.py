"""What others do to the same JPEG bytes, for pipeline.bench: torchvision as USB uses it, and FFCV's own loader."""

import io
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image
from torchvision import transforms as T

from pipeline.beton import Beton

SCALE = (0.2, 1.0)  # of every crop, ours and the peers': MAE's
OPERATIONS = 3  # USB's ImageNet setting, as in our preset
REPEATS = 4  # passes in one epoch of ffcv.Loader, which allocates its memory again in each epoch


def cases(beton: Beton, ids: np.ndarray, size: int, batch: int, threads: int) -> dict[str, Callable[[], int]]:
    """The peers that are installed, by name; each prepares the images `ids` (i64 [n], 0..n-1) once."""
    found: dict[str, Callable[[], int]] = {"torchvision, weak + strong": partial(torchvision, beton, ids, size)}
    loader = _ffcv_loader(beton, ids, size, batch, threads)
    if loader is not None:
        found["ffcv.Loader, one crop"] = lambda: sum(len(images) for (images,) in loader)
    return found


def torchvision(beton: Beton, ids: np.ndarray, size: int) -> int:
    """USB's two views from one Pillow decode, u8 tensors at the end; without DataLoader's workers and their copies."""
    cut = [T.RandomResizedCrop(size, SCALE, interpolation=T.InterpolationMode.BILINEAR), T.RandomHorizontalFlip()]
    weak = T.Compose([*cut, T.PILToTensor()])
    strong = T.Compose([*cut, T.RandAugment(OPERATIONS), T.PILToTensor()])
    for i in ids:
        image = Image.open(io.BytesIO(beton.jpeg(int(i)).tobytes())).convert("RGB")
        weak(image), strong(image)
    return len(ids)


def _ffcv_loader(beton: Beton, ids: np.ndarray, size: int, batch: int, threads: int):
    try:
        from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
    except ImportError:
        return None
    decoder = RandomResizedCropRGBImageDecoder((size, size), scale=SCALE)
    return Loader(
        str(beton.path), batch, num_workers=threads, os_cache=True, order=OrderOption.SEQUENTIAL,
        indices=np.tile(ids, REPEATS), pipelines={"image": [decoder], "label": None}, drop_last=False,
    )  # fmt: skip
