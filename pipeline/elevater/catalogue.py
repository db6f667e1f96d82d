"""The 20 data sets of ELEVATER's image classification benchmark, as its toolkit publishes them.

CATALOGUE["caltech-101"].images     # {"train": 3060, "test": 6084}

Names, metrics, numbers of classes and of images, and the files of each set's archive are those of
`vision_benchmark/resources/datasets` in the toolkit (Elevater_Toolkit_IC, commit 00d0af7): `vision_datasets.json` and a
YAML for each set. A val split is part of an archive, but the toolkit neither learns from it nor selects on it: it
selects on a fifth of the shots.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

Metric = Literal["accuracy", "per_class", "map_11_points", "roc_auc"]
"""Share of images; the mean over the classes of each one's share ("mean-per-class"); the mean over the classes of the
11-point average precision ("11point_mAP"); the area under the ROC curve of the second of two classes."""
Split = Literal["train", "val", "test"]


@final
@dataclass(frozen=True)
class BenchmarkSet:
    """Facts of one data set.

    folder       of the archive, in the folder `classification` of the toolkit's storage
    images       the published number of images of each split
    index        the file that lists the images of each split
    class_names  the file with a class a line; None where the index, a JSON in COCO's form, names them
    multi_label  whether an image may have several labels
    """

    name: str
    folder: str
    metric: Metric
    classes: int
    images: Mapping[Split, int]
    index: Mapping[Split, str]
    class_names: str | None = "labels.txt"
    multi_label: bool = False


def _set(
    name: str,
    folder: str,
    classes: int,
    images: tuple[int, int | None, int],
    index: tuple[str, str, str] = ("train.txt", "val.txt", "test.txt"),
    metric: Metric = "accuracy",
    class_names: str | None = "labels.txt",
    *,
    multi_label: bool = False,
) -> BenchmarkSet:
    splits: tuple[Split, ...] = ("train", "val", "test")
    numbers: dict[Split, int] = {split: n for split, n in zip(splits, images, strict=True) if n is not None}
    files: dict[Split, str] = {split: file for split, file in zip(splits, index, strict=True) if split in numbers}
    return BenchmarkSet(name, folder, metric, classes, numbers, files, class_names, multi_label)


_VALID = ("train.txt", "valid.txt", "test.txt")
_META = ("train_meta.json", "validation_meta.json", "test_meta.json")
CATALOGUE: Mapping[str, BenchmarkSet] = {
    each.name: each
    for each in (
        _set("caltech-101", "caltech_101_20211007", 102, (3060, None, 6084), metric="per_class"),
        _set("cifar-10", "cifar_10_20211007", 10, (50_000, None, 10_000)),
        _set(
            "cifar-100", "cifar100_20200721", 100, (50_000, None, 10_000), ("train_images.txt", "", "test_images.txt")
        ),
        _set("country211", "country211_20210924", 211, (31_650, 10_550, 21_100), _VALID),
        _set("dtd", "dtd_20211007", 47, (1880, 1880, 1880)),
        _set("eurosat_clip", "eurosat_clip_20210930", 10, (5000, 5000, 5000)),
        _set("fer-2013", "fer_2013_20211008", 7, (28_709, 3589, 3589)),
        _set(
            "fgvc-aircraft-2013b-variants102",
            "fgvc_aircraft_2013b_variants102_20211007",
            100,
            (3334, 3333, 3333),
            metric="per_class",
        ),
        _set("food-101", "food_101_20211007", 101, (75_750, None, 25_250)),
        _set("gtsrb", "gtsrb_20210923", 43, (26_640, 12_569, 12_630), class_names="labelmap.txt"),
        _set("hateful-memes", "hateful_memes_20211014", 2, (8500, None, 500), _META, "roc_auc", None),
        _set("kitti-distance", "kitti_distance_20210923", 4, (6347, 423, 711), _META, class_names=None),
        _set("mnist", "mnist_20211008", 10, (60_000, None, 10_000)),
        _set("oxford-flower-102", "oxford_flower_102_20211007", 102, (1020, 1020, 6149), metric="per_class"),
        _set("oxford-iiit-pets", "oxford_iiit_pets_20211007", 37, (3680, None, 3669), metric="per_class"),
        _set("patch-camelyon", "patch_camelyon_20211007", 2, (262_144, 32_768, 32_768)),
        _set("rendered-sst2", "rendered_sst2_20210924", 2, (6920, 827, 1821), _VALID),
        _set(
            "resisc45_clip",
            "resisc45_clip_20210924",
            45,
            (3150, 3150, 25_200),
            ("train.json", "val.json", "test.json"),
            class_names=None,
        ),
        _set("stanford-cars", "stanford_cars_20211007", 196, (8144, None, 8041)),
        _set(
            "voc-2007-classification",
            "voc2007_20211007",
            20,
            (2501, 2510, 4952),
            ("train_ic.txt", "val_ic.txt", "test_ic.txt"),
            "map_11_points",
            multi_label=True,
        ),
    )
}
"""The 20 sets by the toolkit's names, in alphabetical order."""
