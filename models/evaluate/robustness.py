"""Robustness of a classifier: its errors on corrupted images, and on natural distribution shifts."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, final

import numpy as np
import torch
from torch import Tensor

from models.evaluate.cifar_c import array_errors
from models.evaluate.corruption_error import ALEXNET, combined_score, is_imagenet, mean_corruption_error
from models.evaluate.distribution_shift import already_cropped, corrupted_files, shifted_error
from models.evaluate.evaluator import Evaluator, Result, labels_of
from models.full_precision import full_precision
from models.load import Loaded
from models.reporting.render import Block, Picture, Table, Text
from pipeline.errors import InputError
from pipeline.evaluation.corruptions.corrupt import EXTRA, NAMES, SEVERITIES, corrupt
from pipeline.evaluation.corruptions.stream import CorruptionSettings, CorruptionSpec, stream
from pipeline.evaluation.sweep import sweep
from pipeline.flags import AT_LEAST_1, check_bounds
from pipeline.preview.picture import sheet
from pipeline.store.beton import Beton
from pipeline.text import percent

Errors = dict[str, list[float]]
SIDE = 112  # pixels of an image in the pictures
COLUMNS = 8  # corruptions side by side
DRAWN = (1, 3, 5)  # severities in the pictures
FILES_ONLY = ("spatter",)  # a corruption of both data sets' files that this project does not compute


@final
@dataclass(frozen=True)
class Robustness(Evaluator):
    """ImageNet-C's mCE, on the fly or from files, CIFAR-10-C, ImageNet-A, -R, -Sketch, and the score over all four."""

    corruptions: tuple[str, ...] = NAMES
    """Some of ImageNet-C's 15, and of speckle_noise, gaussian_blur, saturate; with none the other sets are measured."""
    severities: tuple[int, ...] = SEVERITIES
    limit: Annotated[int | None, AT_LEAST_1] = None
    """On the fly: so many images, the first of the file, which is shuffled; all when absent."""
    levels: Literal["auto", "imagenet", "cifar"] = "auto"
    """Strength of the severities: ImageNet-C's, or CIFAR-10-C's, which auto takes for images of up to 64 pixels."""
    as_files: bool = False
    """Pass corrupted images through a JPEG of quality 85, as ImageNet-C's own files are."""
    seed: int = 0
    imagenet_c: str | None = None
    """Folder of NAME/SEVERITY/CLASS/ as downloaded, or of NAME_SEVERITY.beton: these instead of images on the fly."""
    cifar_c: str | None = None
    """CIFAR-10-C's folder of NAME.npy and labels.npy as downloaded, instead of images on the fly."""
    imagenet_a: str | None = None
    """A .beton file, or a folder of class folders; a prediction is the best of the classes that are there."""
    imagenet_r: str | None = None
    imagenet_sketch: str | None = None

    def run(self, loaded: Loaded) -> Result:
        """Measure errors and accuracies as shares.

        mean_corruption_error  the plain mean, which is CIFAR-10-C's number
        mce                    relative to AlexNet's errors, where the run's classes are ImageNet's
        score                  SupMAE's, where all four data sets are measured
        """
        self.check(loaded)
        values: dict[str, float] = {}
        blocks: list[Block] = []
        shifts = {"a": self.imagenet_a, "r": self.imagenet_r, "sketch": self.imagenet_sketch}
        for path in filter(None, (*shifts.values(), self.imagenet_c, self.cifar_c)):  # before anything is measured
            if not Path(path).exists():
                raise InputError(f"{path}: expected a .beton file or a folder, found nothing")
        if self.corruptions:
            from_files = self.imagenet_c or self.cifar_c
            clean, errors, blocks = self.from_files(loaded) if from_files else self.on_the_fly(loaded)
            values |= summary(clean, errors, is_imagenet(loaded.classes))
            blocks = [table(errors, self.severities, "mce" in values), Text(meaning("mce" in values)), *blocks]
        for name, path in shifts.items():
            if path:
                error, n = shifted_error(self, loaded, Path(path))
                values |= {name: 1 - error, f"{name}_images": float(n)}
        if {"mce", *shifts} <= values.keys():
            values["score"] = combined_score(values["mce"], values["a"], values["r"], values["sketch"])
        return Result(values, blocks)

    def check(self, loaded: Loaded) -> None:
        """Raise InputError for a run without a classifier, and for flags that are wrong, alone or together."""
        check_bounds(self, "--")
        if not loaded.method.has_classifier:
            raise InputError(f"{loaded.no_classifier}; fine-tune it first")
        there = (*NAMES, *EXTRA, *(FILES_ONLY if self.imagenet_c or self.cifar_c else ()))
        unknown = [name for name in self.corruptions if name not in there]
        if unknown:
            raise InputError(f"--corruptions: {unknown[0]!r} is none; there are {', '.join(there)}")
        if not self.severities or {*self.severities} - {*SEVERITIES} or len({*self.severities}) < len(self.severities):
            raise InputError(f"--severities: expected some of 1 2 3 4 5, each once, got {self.severities}")
        if len({*self.corruptions}) < len(self.corruptions):
            raise InputError("--corruptions: one is named twice")
        if self.imagenet_c and self.cifar_c:
            raise InputError("--imagenet-c and --cifar-c are both files of corrupted images; give one")
        if (self.imagenet_c or self.cifar_c) and (self.as_files or self.limit):
            given = "--imagenet-c" if self.imagenet_c else "--cifar-c"
            raise InputError(f"--as-files and --limit are for corruptions on the fly; leave them out with {given}")
        if not self.corruptions and not (self.imagenet_a or self.imagenet_r or self.imagenet_sketch):
            raise InputError("nothing to measure: give --corruptions, --imagenet-a, --imagenet-r or --imagenet-sketch")

    def wanted(self) -> list[CorruptionSpec]:
        """List every corruption at every severity."""
        return [CorruptionSpec(name, severity) for name in self.corruptions for severity in self.severities]

    def from_files(self, loaded: Loaded) -> tuple[None, Errors, list[Block]]:
        """Measure errors on the data set's own files. ImageNet-C's images are crops already and are scaled alone;
        CIFAR-10-C's are whole test images and are cut as the run cuts those."""
        if self.cifar_c:
            found = iter(array_errors(self, loaded, Path(self.cifar_c), self.wanted()))
        else:
            places = [corrupted_files(Path(self.imagenet_c or ""), each) for each in self.wanted()]
            cropped = already_cropped(loaded)
            found = iter([shifted_error(self, cropped, place)[0] for place in places])
        return None, {name: [next(found) for _ in self.severities] for name in self.corruptions}, []

    @torch.inference_mode()
    def on_the_fly(self, loaded: Loaded) -> tuple[float, Errors, list[Block]]:
        """Measure errors on clean and corrupted images, each decoded once; errors are counted on the device."""
        beton = self.open(loaded)
        known = labels_of(beton)
        ids = np.asarray(known.ids)[: self.limit]
        device = next(loaded.method.parameters()).device
        labels, wanted = torch.from_numpy(known[ids]).to(device), self.wanted()
        wrong = torch.zeros(len(wanted) + 1, dtype=torch.int64, device=device)
        place = {each: i for i, each in enumerate([None, *wanted])}
        settings = CorruptionSettings(self.levels, self.seed, self.as_files, self.data.threads)
        blocks: list[Block] = []
        for each in stream(self.clean(loaded, beton, ids), ids, wanted, device, settings):
            if not blocks:  # the first batch of the stream is a clean one
                blocks = self.pictures(each.images[0].permute(1, 2, 0).cpu().numpy(), int(ids[0]))
            with full_precision(device):
                predicted = loaded.method.logits(each.images).argmax(1)
            wrong[place[each.spec]] += (predicted != labels[each.first : each.first + len(predicted)]).sum()
        clean, *rest = (wrong.double() / len(ids)).tolist()
        shares = iter(rest)
        return clean, {name: [next(shares) for _ in self.severities] for name in self.corruptions}, blocks

    def clean(self, loaded: Loaded, beton: Beton, ids: np.ndarray) -> Iterator[Tensor]:
        """Yield the evaluation view of images on the host, where they are corrupted: u8 [n, 3, H, W]."""
        data = replace(self.data_of(loaded), backend="ffcv", views_on="cpu")
        return sweep(data, beton, torch.device("cpu"), ids, self.batch)

    def pictures(self, image: np.ndarray, image_id: int) -> list[Block]:
        """Draw one image (u8 [H, W, 3]) under every corruption that is measured, at three severities."""
        made: list[Block] = []
        for first in range(0, len(self.corruptions), COLUMNS):
            names = self.corruptions[first : first + COLUMNS]
            lines = [
                [image, *(corrupt(image, name, s, image_id, self.seed, self.levels, self.as_files) for name in names)]
                for s in DRAWN
            ]
            file = io.BytesIO()
            sheet(lines, ("image", *(name.replace("_", " ") for name in names)), SIDE).save(file, "PNG")
            caption = f"Severities {', '.join(map(str, DRAWN))} from above. Frost is drawn, not photographed."
            made.append(Picture("Corruptions", caption, file.getvalue()))
        return made


def summary(clean: float | None, errors: Errors, imagenet: bool) -> dict[str, float]:
    """Summarise errors: mce where it is defined, the plain mean error, the share of the clean accuracy that remains,
    and each corruption's error.

    The plain mean is over those of ImageNet-C's 15 that are measured; over the validation corruptions if none is.
    """
    means = {name: sum(each) / len(each) for name, each in errors.items()}
    counted = [means[name] for name in means if name in NAMES] or list(means.values())
    values: dict[str, float] = {}
    if imagenet and ALEXNET.keys() <= errors.keys() and all(len(each) == len(SEVERITIES) for each in errors.values()):
        values["mce"] = mean_corruption_error(errors)
    values["mean_corruption_error"] = mean = sum(counted) / len(counted)
    if clean is not None:
        values["clean_error"] = clean
        values |= {"relative_robustness": (1 - mean) / (1 - clean)} if clean < 1 else {}
    return values | {f"error_{name}": mean for name, mean in means.items()}


def meaning(normalised: bool) -> str:
    """Explain what the numbers over all corruptions are relative to."""
    plain = (
        "mean_corruption_error is the plain mean of errors over corruptions and severities, relative to nothing: what "
        "is reported on CIFAR-10-C."
    )
    relative = " mce divides each corruption's by AlexNet's on ImageNet-C before the mean: what is reported there."
    return plain + (
        relative if normalised else " ImageNet-C's mCE, relative to AlexNet's errors, is not measured here."
    )


def table(errors: Errors, severities: tuple[int, ...], normalised: bool) -> Table:
    """Make the table of errors by corruption and severity, and beside them their ratio to AlexNet's."""
    rows = []
    for name, each in errors.items():
        mean = sum(each) / len(each)
        rows.append([name.replace("_", " "), *map(percent, each), percent(mean)])
        if normalised:
            rows[-1].append(percent(mean / ALEXNET[name]) if name in ALEXNET else "")
    return Table(("error at severity", *map(str, severities), "mean", *(["of AlexNet's"] if normalised else [])), rows)
