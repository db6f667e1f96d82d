"""Settings of the data path: views, masks and the data of a run, as frozen dataclasses.

Data(root="data/imagenet", split="10-percent", strong=View(augment="timm", erase="random"), mask=Mask(ratio=0.75))
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pipeline.flags import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, SHARE

Size = int | tuple[int, int]
"""Of images, in pixels, or of their grid, in patches: the side of a square, or height and width."""

HW_DECODER_LOAD = 0.65
"""Share of a batch that a GPU's own JPEG engine decodes for DALI: DALI's default, an optimum that NVIDIA found on an
A100."""


def both_sides(size: Size) -> tuple[int, int]:
    """Return height and width of a size, of which a single number is both.

    both_sides(224)  # (224, 224)
    """
    return size if isinstance(size, tuple) else (size, size)


def spelt(size: Size) -> str:
    """Write a size as messages do: "224" of a square, else height x width, "224 x 112"."""
    height, width = both_sides(size)
    return str(height) if height == width else f"{height} x {width}"


@dataclass(frozen=True)
class View:
    """How one view of an image is cut, then changed: first colours, then erasing."""

    crop: Literal["random_resized", "resize_then_crop", "centre"] = "random_resized"
    """random_resized: torchvision's RandomResizedCrop, its aspects in units of the view's. resize_then_crop: short side
    to `short_side`, then a random crop with reflected `padding` (Semiformer's weak view). centre: short side to
    `short_side`, then the centre crop, for evaluation. The short side is the one that a view needs more of."""
    filter: Literal["area", "bilinear", "bicubic"] = "area"
    """How a crop is resized. bilinear, bicubic: antialiased, as Pillow and torchvision do; papers take bicubic. area:
    the mean of the pixels that one covers, FFCV's filter; faster on a CPU, and blocky where a GPU enlarges a crop."""
    scale: tuple[float, float] = (0.08, 1.0)
    """random_resized: share of the image's area."""
    short_side: Annotated[float, POSITIVE] = 256 / 224
    """resize_then_crop, centre: the short side after resizing, in units of the view's side."""
    padding: Annotated[int, NOT_NEGATIVE] = 4
    """resize_then_crop: reflected pixels on each side before cropping."""
    flip: bool = True
    """Mirror left and right half of the time."""
    augment: Literal["none", "usb", "timm", "torchvision"] = "none"
    """RandAugment as this library defines it; its operations and strengths differ between libraries."""
    layers: Annotated[int | None, AT_LEAST_1] = None
    """RandAugment: operations on an image; the preset's own number when absent (usb 3, timm 2, torchvision 2)."""
    jitter: Annotated[tuple[float, float, float, float] | None, NOT_NEGATIVE] = None
    """ColorJitter's brightness, contrast, saturation and hue, in random order."""
    jitter_probability: Annotated[float, SHARE] = 0.8
    """Share of images that are jittered at all (MoCo v3, BYOL)."""
    erase: Literal["none", "cutout", "random"] = "none"
    """cutout: USB's grey square, always. random: timm's RandomErasing with per-pixel noise, a quarter of the time."""


@dataclass(frozen=True)
class Mask:
    """Which patches stay visible."""

    kind: str = "random"
    """How visible patches are drawn, one file each in pipeline/views/masks: random, block or grid (MAE Table 1f), unit
    (SimMIM's units of several patches), or window (inside LoMaR's windows, outside of which nothing is read)."""
    ratio: float = 0.75
    """Share of patches that are hidden; kind window: of a window's."""
    unit: Annotated[int, AT_LEAST_1] = 2
    """kind unit: side of a unit, in patches (SimMIM: 32 pixels)."""
    window: Annotated[int, AT_LEAST_1] = 7
    """kind window: side of a window, in patches."""
    windows: Annotated[int, AT_LEAST_1] = 4
    """kind window: windows of an image, each at a place of its own."""
    same_place: bool = False
    """kind window: every window of an image at one place, with masks of their own: in effect what the authors' code
    does at its batch sizes."""


@dataclass(frozen=True)
class Data:
    """Where the images are, how they are batched and what is made of them."""

    root: str = "data/digits"
    """Folder of the .beton files."""
    train: str = "train.beton"
    """File in `root` that is learned from."""
    val: str = "val.beton"
    """File in `root` that is evaluated on."""
    test: str | None = None
    """File in `root` that is evaluated on once, at the end; choices, such as hyperparameters, are made on `val`."""
    split: str | None = None
    """Name of the split whose labels may be seen; every label when absent."""
    unlabelled: Literal["all", "rest"] = "all"
    """The pool of unlabelled images: all of them, or only those without a known label."""
    batch: Annotated[int, AT_LEAST_1] = 256
    """Images in a step, over all devices."""
    ratio: Annotated[float, POSITIVE] = 7
    """Unlabelled images for each labelled one, where a method uses both."""
    repeats: Annotated[int, AT_LEAST_1] = 1
    """Repeated augmentation: times that each image comes in a row, with views of its own each time (Hoffer et al. 2020;
    DeiT: 3). An epoch has as many images as without, and at 3 a third of the different ones."""
    size: Annotated[Size, AT_LEAST_1] = 224
    """Size of the images that the network sees, in pixels: one number is the side of a square, two are height and
    width. The patch divides both."""
    sizes: tuple[int, ...] | None = None
    """Progressive resolution: sides for equal shares of the steps, such as 160 192 224 224; they may repeat, never
    fall, and end at `size`, which is evaluated at in any case. Where `size` is height and width they are heights, and
    widths keep its proportion. Each is a multiple of the encoder's patch; with compiled blocks each makes its own
    graphs, so use few."""
    labelled_view: Literal["weak", "strong"] = "strong"
    """Which view the labelled loss sees."""
    weak: View = field(default_factory=lambda: View(filter="bicubic"))
    """The view that pseudo-labels and masked patches come from."""
    strong: View = field(default_factory=lambda: View(filter="bicubic", augment="timm", erase="random"))
    """The view that must agree with the pseudo-label."""
    evaluate: View = field(default_factory=lambda: View(crop="centre", filter="bicubic", flip=False))
    """The view that is evaluated: resize to 256, then the centre crop of 224."""
    mask: Mask = field(default_factory=Mask)
    """Which patches of the weak view the encoder sees in the masked branch."""
    backend: Literal["auto", "ffcv", "dali", "memory"] = "auto"
    """What reads and decodes while training: auto keeps sets of up to `memory_mb` decoded in memory and streams larger
    ones. Images that are read once, as in an evaluation, are streamed in any case."""
    memory_mb: Annotated[int, AT_LEAST_1] = 1024
    """backend auto: decoded size up to which a set is kept in memory."""
    views_on: Literal["auto", "cpu", "device"] = "auto"
    """Where views are made: on the CPU, or on the device that trains; auto is the GPU where there is one."""
    threads: Annotated[int | None, AT_LEAST_1] = None
    """Decoding threads. When absent, the cores of this process: its share among the ranks of the node, within the
    cgroup's quota, less two for the step and the driver where at least four are left."""
    hw_decoder_load: Annotated[float, SHARE] = HW_DECODER_LOAD
    """backend dali: share of a batch that the GPU's own JPEG engine decodes, where there is one; python -m
    pipeline.bench measures which is fastest."""
    ahead: Annotated[int, AT_LEAST_1] = 3
    """Batches prepared in advance."""
    hang_timeout_s: Annotated[float | None, POSITIVE] = 300
    """Seconds without a batch after which a run prints where every thread stands and ends; None waits for ever."""

    def __post_init__(self) -> None:
        if isinstance(self.size, tuple) and self.size[0] == self.size[1]:
            object.__setattr__(self, "size", self.size[0])  # one spelling: "224 224" is the run that 224 is


@dataclass(frozen=True)
class PixelLabels:
    """Where images and the classes of their pixels are, and how both are cut together in training (pipeline.dense).

    PixelLabels(masks="annotations/{set}", classes="objectInfo150.txt", zero_ignored=True)     # ADE20K

    Files lie in `data.root`; a mask has its image's name and one channel, a class in each pixel.
    """

    images: str = "images/{set}"
    """Folder of the images of a set; {set} is data.train, data.val or data.test. A set called NAME.txt is a file that
    lists the names of its images, one a line; {set} is then NAME."""
    masks: str = "masks/{set}"
    """Folder of the masks of a set: NAME.png for each image NAME."""
    classes: str = "classes.txt"
    """File with the name of a class a line, in the order of their numbers; or ADE20K's objectInfo150.txt."""
    names: tuple[str, ...] = ()
    """Names of the classes in the order of their numbers, in place of the file `classes`."""
    zero_ignored: bool = False
    """Pixels of 0 have no class, and class i is written i + 1 (ADE20K; mmseg's reduce_zero_label)."""
    ignored: Annotated[int, NOT_NEGATIVE] = 255
    """Value, in the file, of pixels that have no class: they are neither learned from nor counted."""
    short_side: Annotated[int, AT_LEAST_1] = 512
    """The short side that images are resized to, in training times `scale`, and where they are evaluated."""
    long_side: Annotated[int, AT_LEAST_1] = 2048
    """The most that the long side may then have; the short side is smaller where it would have more."""
    scale: Annotated[tuple[float, float], POSITIVE] = (0.5, 2.0)
    """Training: range of the factor by which an image is then enlarged, before a crop of data.size is cut."""
    most: Annotated[float, SHARE] = 0.75
    """Training: share of a crop's labelled pixels that one class may have; of ten crops the first with less is taken,
    else the last. 1: the first in any case."""
    flip: bool = True
    """Training: mirror left and right half of the time."""
    jitter: bool = True
    """Training: brightness, contrast, saturation and hue, each half of the time (SSD's photometric distortion)."""


@dataclass(frozen=True)
class BoxLabels:
    """Where images and the boxes of their objects are, and how both are cut together in training (pipeline.dense).

    BoxLabels(images="{set}2017", boxes="annotations/instances_{set}2017.json")     # COCO

    Files lie in `data.root`. Boxes are read from one COCO JSON a set, or from a folder with a file for each image:
    NAME.xml (PASCAL VOC) or NAME.txt (YOLO: class number, centre, width and height as shares of the image).
    """

    images: str = "images/{set}"
    """Folder of the images of a set; {set} is data.train, data.val or data.test. A set called NAME.txt is a file that
    lists the names of its images, one a line (VOC's ImageSets/Main/train.txt); {set} is then NAME."""
    boxes: str = "annotations/instances_{set}.json"
    """File or folder of the boxes of a set."""
    classes: str = "classes.txt"
    """File with the name of a class a line, in the order of their numbers. Where it is absent, classes are COCO's
    categories by id, or VOC's names in alphabetical order; YOLO's numbers need it."""
    names: tuple[str, ...] = ()
    """Names of the classes in the order of their numbers, in place of the file `classes`."""
    masks: bool = False
    """Learn a mask of each object, too (COCO JSON with polygons or RLE): Mask R-CNN, otherwise Faster R-CNN."""
    empty: bool = True
    """Learn from images without an object, too, that all of them is background (detectron2 leaves COCO's out)."""
    scale: Annotated[tuple[float, float], POSITIVE] = (0.1, 2.0)
    """Training: range of the factor of an image's size, of which 1 is the largest that fits into data.size; what is
    larger is cropped, what is smaller is padded (large-scale jitter)."""
    flip: bool = True
    """Training: mirror left and right half of the time."""


@dataclass(frozen=True)
class Needs:
    """Parts of a batch that a method reads; other parts are neither drawn nor decoded.

    Needs(labelled=True, unlabelled=True, strong=True)     # of FixMatch

    pixel_labels, box_labels  where they are; the method then learns from image files with masks or boxes
                              (pipeline.dense), and reads nothing else
    """

    labelled: bool = False
    labelled_visible: bool = False
    unlabelled: bool = False
    strong: bool = False
    unlabelled_visible: bool = False
    pixel_labels: PixelLabels | None = None
    box_labels: BoxLabels | None = None

    @property
    def image_files(self) -> bool:
        """Whether image files with masks or boxes are read, and no .beton file."""
        return self.pixel_labels is not None or self.box_labels is not None
