"""TimmClassifier: any image classifier of timm, a ResNet-50 first, as the network of methods that read whole images.

build_classifier(resolve("fixmatch:in1k_10pct_r50", []), classes=1000)
"""

from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from typing import Literal, final

import timm
import torch
from timm.models import group_parameters
from timm.models.resnet import ResNet
from torch import Tensor, nn

from models.config.recipe import Encoder, Recipe
from models.encoder.patches import IMAGENET, Normalisation, normalised
from pipeline.errors import InputError
from pipeline.spec import Size, both_sides, spelt

PACKED = ("vision_transformer", "eva", "deit")
"""Files of timm whose models are ViTs that models.encoder.build packs; those of all others are whole classifiers."""
FIELDS = {"name", "stem", "drop_path", "checkpointing", "adapt"}
"""Fields of recipe.encoder that a classifier of timm reads; the others must be left at their defaults."""
BATCH_NORM = nn.modules.batchnorm._BatchNorm


def is_classifier(name: str | None) -> bool:
    """Say whether timm builds a model of this name that is no ViT which groups of patches can be packed into."""
    return name is not None and timm.is_model(name) and timm_file(name) not in PACKED


def timm_file(name: str) -> str:
    """The file of timm that builds a model: timm_file("beit_base_patch16_224") is "beit"; tags of weights count not."""
    return timm.models.model_entrypoint(name.partition(".")[0]).__module__.rpartition(".")[2]


@final
class TimmClassifier(nn.Module):
    """A classifier of timm, on images u8 [N, 3, H, W] (or float, normalised).

    network = TimmClassifier("resnet50", 10, size=224)
    logits = network(images)                               # [N, 10]
    maps = network.maps([labelled, strong])                # one forward pass, so that batch norm sees both
    labelled_logits, strong_logits = network.classified(maps)

    net   timm's model; below `net.` the state dict has timm's names
    stem  "small": the first convolution of a ResNet moves by one pixel and no pooling follows it, as He et al. (2016,
          section 4.2) have it for images of 32 pixels; a first kernel of 7 x 7 is one of 3 x 3 then

    Raises InputError for a model that timm cannot build so, that does not take images of `size`, or whose output is not
    one row of scores an image.
    """

    def __init__(
        self,
        name: str,
        classes: int,
        *,
        size: Size,
        stem: Literal["own", "small"] = "own",
        drop_path: float = 0.0,
        checkpointing: bool = False,
        normalisation: Normalisation = IMAGENET,
    ) -> None:
        super().__init__()
        self.name, self.size, self.num_classes, self.normalisation = name, size, classes, normalisation
        self.arguments: dict[str, object] = {}
        self.net = self._created(name, drop_path)
        if stem == "small":
            _small_stem(self.net, name)
        if checkpointing:
            self.net.set_grad_checkpointing(True)
        # gradients are channels-last, as images are; DDP would copy them for weights that are not
        self.to(memory_format=torch.channels_last)
        self._check()

    def _created(self, name: str, drop_path: float) -> nn.Module:
        asked = {"num_classes": self.num_classes} | ({"drop_path_rate": drop_path} if drop_path else {})
        # those with a fixed size take it as img_size, and others refuse the word
        for more in ({"img_size": both_sides(self.size)}, {}):
            try:
                net = timm.create_model(name, **asked, **more)
            except TypeError as error:
                why = str(error)
                continue
            except (AssertionError, RuntimeError, ValueError) as error:
                raise InputError(
                    f"timm cannot build {name} for images of {spelt(self.size)}: {_line(error)}"
                ) from error
            self.arguments = more
            return net
        raise InputError(f"timm cannot build {name} with {', '.join(asked)}: {why}; leave --encoder.drop-path at 0")

    @torch.no_grad()
    def _check(self) -> None:
        """Run one black image through the network in eval mode, which changes nothing of it."""
        self.eval()
        weight = next(self.parameters())
        try:
            scores = self(torch.zeros(1, 3, *both_sides(self.size), dtype=weight.dtype, device=weight.device))
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            raise InputError(f"{self.name} does not take images of {spelt(self.size)}: {_line(error)}") from error
        finally:
            self.train()
        width = self.num_classes or self.num_features
        if not isinstance(scores, Tensor) or scores.shape != (1, width):
            came = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise InputError(f"{self.name}: expected scores [1, {width}] of an image, got {came}; choose another model")

    @property
    def num_features(self) -> int:
        """Width of what the classifier reads."""
        return getattr(self.net, "head_hidden_size", None) or self.net.num_features

    @property
    def head(self) -> nn.Module:
        """The classifier, as timm names it for this model."""
        return self.net.get_classifier()

    @property
    def head_name(self) -> str:
        """The name of the classifier in timm's state dict, such as "fc" or "head.fc"."""
        return next((name for name, part in self.net.named_modules() if part is self.head), "")

    @cached_property
    def layer_of(self) -> dict[str, int]:
        """Count the layers below each parameter, by its name in `net`, as timm groups them (group_matcher).

        Raises InputError for a model of which timm does not say its layers.
        """
        if not hasattr(self.net, "group_matcher"):
            raise InputError(f"optim.layer_decay needs layers, and timm names none of {self.name}; leave it at None")
        return group_parameters(self.net, self.net.group_matcher(coarse=False), reverse=True)

    def batch_norms(self) -> int:
        """Count the batch norms, by which an image's scores depend on the others of a pass in training mode."""
        return sum(isinstance(part, BATCH_NORM) for part in self.modules())

    def forward(self, images: Tensor) -> Tensor:
        """Compute class scores [N, classes]."""
        return self.net(self.pixels(images))

    def maps(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Run parts of a batch, images [n, 3, H, W] each, through the body in one pass -> its output [n, ...] of
        each."""
        found = self.net.forward_features(torch.cat([self.pixels(images) for images in parts]))
        return list(found.split([len(images) for images in parts]))

    def features(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Pool what `maps` returned -> [n, num_features] of each part: what the classifier reads."""
        return list(self.net.forward_head(torch.cat(list(maps)), pre_logits=True).split([len(part) for part in maps]))

    def classified(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Classify what `maps` returned -> scores [n, classes] of each part."""
        return list(self.net.forward_head(torch.cat(list(maps))).split([len(part) for part in maps]))

    def pixels(self, images: Tensor) -> Tensor:
        """Normalise u8 [N, 3, H, W] to float; floats are taken as normalised already."""
        lines = normalised(images.permute(0, 2, 3, 1), next(self.parameters()).dtype, self.normalisation)
        return lines.permute(0, 3, 1, 2)  # channels-last in memory, as before

    def remove_head(self) -> None:
        """Replace the classifier by the identity: scores are features from here on."""
        self.net.reset_classifier(0)
        self.num_classes = 0


def build_classifier(recipe: Recipe, classes: int) -> TimmClassifier:
    """Build the classifier of timm that recipe.encoder.name names, with timm's initial weights.

    Raises InputError for settings that belong to a ViT, and for sharding, which spreads a ViT's blocks.
    """
    e = recipe.encoder
    assert e.name is not None  # a recipe names an encoder or gives its size
    check_fields(e)
    if recipe.run.shard:
        raise InputError(f"run.shard spreads the blocks of ViTs, and {e.name} is none; drop --run.shard")
    return TimmClassifier(
        e.name, classes, size=recipe.data.size, stem=e.stem, drop_path=e.drop_path, checkpointing=e.checkpointing
    )


def check_fields(encoder: Encoder) -> None:
    """Raise InputError, with the flags to add, for settings of a ViT that a classifier of timm does not have."""
    other = [field for field in fields(encoder) if field.name not in FIELDS]
    wrong = [field for field in other if getattr(encoder, field.name) != field.default]
    if wrong:
        came = ", ".join(f"encoder.{field.name} is {getattr(encoder, field.name)}" for field in wrong)
        cure = " ".join(_flag(field.name, field.default) for field in wrong)
        raise InputError(f"{came}, which {encoder.name} does not have; add {cure}")
    if encoder.adapt not in ("full", "head"):
        raise InputError(
            f"encoder.adapt is {encoder.adapt}, which is for the blocks of a ViT, and {encoder.name} is none; set full "
            "or head"
        )


def _flag(name: str, value: object) -> str:
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--encoder.{dashed}" if value else f"--encoder.no-{dashed}"
    return f"--encoder.{dashed} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"


def _small_stem(net: nn.Module, name: str) -> None:
    if type(net) is not ResNet:
        raise InputError(f"encoder.stem small is that of a ResNet, and {name} is a {type(net).__name__}; set own")
    first = net.conv1[0] if isinstance(net.conv1, nn.Sequential) else net.conv1
    if isinstance(net.conv1, nn.Conv2d) and first.kernel_size != (3, 3):
        net.conv1 = nn.Conv2d(3, first.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    else:
        first.stride = (1, 1)
    net.maxpool = nn.Identity()


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
