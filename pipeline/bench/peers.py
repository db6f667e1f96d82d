"""Choose the peers of pipeline.bench, and define torchvision's cases: the same JPEG bytes in the views of MAE and
USB."""

import io
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from typing import final

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from pipeline.bench.cases import SCALE, Work
from pipeline.bench.jpeg_folder import jpeg_folder
from pipeline.bench.rounds import Case
from pipeline.errors import InputError
from pipeline.spec import Size, both_sides

OPERATIONS = 3  # of RandAugment in USB's ImageNet setting, as in our preset
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WEAK_STRONG = "torchvision: weak + strong, u8, no DataLoader"


@contextmanager
def torchvision_cases(work: Work) -> Generator[dict[str, Case]]:
    """Yield torchvision's cases over a folder of the same bytes, with one worker process for each of our threads."""
    with jpeg_folder(work) as folder:
        yield {
            "torchvision: MAE's one crop, f32, DataLoader": partial(loaded, work, folder, mae(work.size)),
            "torchvision: USB's weak + strong, f32, DataLoader": partial(loaded, work, folder, Two(work.size, True)),
            WEAK_STRONG: partial(in_turn, work, Two(work.size, False)),
        }


def mae(size: Size) -> Callable[[Image.Image], torch.Tensor]:
    """Build MAE's pre-training view (its main_pretrain.py): f32 [3, H, W]."""
    crop = T.RandomResizedCrop(both_sides(size), SCALE, interpolation=T.InterpolationMode.BICUBIC)
    return T.Compose([crop, T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(MEAN, STD)])


@final
class Two:
    """USB's weak and strong views of one image: both [3, H, W], f32 and normalised or u8."""

    def __init__(self, size: Size, normalised: bool):
        crop = T.RandomResizedCrop(both_sides(size), SCALE, interpolation=T.InterpolationMode.BILINEAR)
        cut = [crop, T.RandomHorizontalFlip()]
        last = [T.ToTensor(), T.Normalize(MEAN, STD)] if normalised else [T.PILToTensor()]
        self.weak, self.strong = T.Compose([*cut, *last]), T.Compose([*cut, T.RandAugment(OPERATIONS), *last])

    def __call__(self, image: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the weak and the strong view."""
        return self.weak(image), self.strong(image)


def loaded(work: Work, folder: str, transform: Callable) -> int:
    """Run one epoch of a DataLoader; its workers have ended when it returns, so their CPU time is known."""
    data = ImageFolder(folder, transform)
    cuda = torch.cuda.is_available()
    batches = DataLoader(data, work.batch, shuffle=True, num_workers=work.threads, pin_memory=cuda)
    return sum(len(labels) for _, labels in batches)


def in_turn(work: Work, transform: Callable) -> int:
    """Transform one image after another in this process: the cost of the transforms without a loader."""
    for i in work.ids.tolist():
        transform(Image.open(io.BytesIO(work.jpegs.jpeg(i).tobytes())).convert("RGB"))
    return len(work.ids)


def _ffcv(work: Work) -> AbstractContextManager[dict[str, Case]]:
    from pipeline.bench.peer_ffcv import ffcv_cases  # importing ffcv takes seconds

    return ffcv_cases(work)


def _ffcv_ssl(work: Work) -> AbstractContextManager[dict[str, Case]]:
    from pipeline.bench.peer_ffcv import ffcv_ssl_cases

    return ffcv_ssl_cases(work)


def _dali(work: Work) -> AbstractContextManager[dict[str, Case]]:
    from pipeline.bench.peer_dali import dali_cases

    return dali_cases(work)


def _slipstream(work: Work) -> AbstractContextManager[dict[str, Case]]:
    from pipeline.bench.peer_slipstream import slipstream_cases

    return slipstream_cases(work)


def _spdl(work: Work) -> AbstractContextManager[dict[str, Case]]:
    from pipeline.bench.peer_spdl import spdl_cases

    return spdl_cases(work)


PEERS = {
    "torchvision": ("torchvision", torchvision_cases),
    "ffcv": ("ffcv", _ffcv),
    "ffcv-ssl": ("ffcv", _ffcv_ssl),
    "dali": ("nvidia.dali", _dali),
    "slipstream": ("slipstream", _slipstream),
    "spdl": ("spdl.io", _spdl),
}
"""Of each peer, the package that it needs and a function that makes its cases."""
READ_THE_FILE = "ffcv", "ffcv-ssl"  # the others read JPEG


def unable(names: list[str], work: Work) -> dict[str, str]:
    """Say of those peers that cannot read the data why: FFCV knows no planes, and the others want JPEG."""
    planes = dict.fromkeys(READ_THE_FILE, "stock FFCV refuses planes") if work.beton.store == "yuv420" else {}
    no_jpeg = work.jpegs.store != "jpeg"
    wanting = {name: "needs JPEG: name a .beton of it by --bound" for name in PEERS if name not in READ_THE_FILE}
    return {name: why for name, why in (planes | (wanting if no_jpeg else {})).items() if name in names}


def chosen(against: str | None) -> list[str]:
    """List the peers that `against` names, or those that are installed. Raises InputError for one that is unknown or
    not installed."""
    if against is None:
        return [name for name, (package, _) in PEERS.items() if installed(package)]
    names = [name for name in against.split(",") if name]
    for name in names:
        if name not in PEERS:
            raise InputError(f"--against knows {', '.join(PEERS)}, got {name!r}")
        if not installed(PEERS[name][0]):
            raise InputError(f"--against {name} needs {PEERS[name][0]}, which is not installed")
    return names


def installed(package: str) -> bool:
    """Say whether a package, or a package in a namespace, is installed, without importing it."""
    parent = package.rpartition(".")[0]
    return (not parent or find_spec(parent) is not None) and find_spec(package) is not None


@contextmanager
def peer_cases(names: list[str], work: Work) -> Generator[dict[str, Case]]:
    """Yield the cases of these peers, by name."""
    with ExitStack() as stack:
        cases: dict[str, Case] = {}
        for name in names:
            cases |= stack.enter_context(PEERS[name][1](work))
        yield cases
