"""k-nearest-neighbour accuracy of an encoder's features: what was learned, without training anything on it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import normalize

from models.distributed.precision import precision
from models.encoder.vit import FullImages, encode, evaluating
from models.evaluate.base import Evaluator, Result
from models.load import Loaded
from pipeline.errors import InputError
from pipeline.evaluation.sweep import sweep_decodable
from pipeline.labels.known import Labels
from pipeline.labels.splits import known_labels, load_split
from pipeline.store.beton import Beton

TEMPERATURE = 0.07  # Wu et al. 2018, DINO
CHUNK = 1024
MATRIX = 2**27  # similarities that are held at once, 512 MB: all of ImageNet for a hundred images
Tokens = Literal["avg", "token"]


@torch.no_grad()
def features(encoder: VisionTransformer, batches: Iterable[Tensor], tokens: Tokens = "avg") -> Tensor:
    """Mean of the patch tokens, or the class token, normed to length 1: f32 [N, C] of images u8 [n, 3, S, S].

    The final norm comes before the pooling or behind it, wherever the encoder has it: what timm's
    forward_head(pre_logits=True) gives a classifier that pools so.
    """
    with evaluating(encoder):
        every = (encode(encoder, [FullImages(images, pooled=False)])[0] for images in batches)
        first = encoder.num_prefix_tokens
        read = (each[:, first:].mean(1) if tokens == "avg" else each[:, 0] for each in every)
        pooled = [encoder.fc_norm(each).float() for each in read]
    return normalize(torch.cat(pooled), dim=1)


def bank(
    encoder: VisionTransformer, shown: Iterable[tuple[np.ndarray, Tensor]], tokens: Tokens = "avg"
) -> tuple[np.ndarray, Tensor]:
    """Ids i64 [N] and `features` f32 [N, C] of what `sweep_decodable` shows."""
    ids: list[np.ndarray] = []

    def images() -> Iterable[Tensor]:
        for part, batch in shown:
            ids.append(part)
            yield batch

    found = features(encoder, images(), tokens)
    return np.concatenate(ids), found


def knn(
    known: Tensor,
    known_labels: Tensor,
    asked: Tensor,
    asked_labels: Tensor,
    k: int = 20,
    temperature: float = TEMPERATURE,
) -> float:
    """`votes` for one k."""
    return votes(known, known_labels, asked, asked_labels, (k,), temperature)[0]


def votes(
    known: Tensor,
    known_labels: Tensor,
    asked: Tensor,
    asked_labels: Tensor,
    ks: Sequence[int],
    temperature: float = TEMPERATURE,
) -> list[float]:
    """For each k the share of `asked` f32 [M, C] whose class wins the vote of its k nearest in `known` f32 [N, C].

    Votes weigh exp(cosine / temperature) (Wu et al. 2018); features have length 1; labels i64.
    """
    classes = int(torch.maximum(known_labels.max(), asked_labels.max())) + 1
    most, right = min(max(ks), len(known)), torch.zeros(len(ks), dtype=torch.int64, device=asked.device)
    rows_at_once = max(1, min(CHUNK, MATRIX // len(known)))
    for rows, labels in zip(asked.split(rows_at_once), asked_labels.split(rows_at_once), strict=True):
        near, index = (rows @ known.T).topk(most, dim=1)
        weights = ((near - near[:, :1]) / temperature).exp()  # of the nearest, 1: no temperature is too low for f32
        for number, k in enumerate(ks):
            held = torch.zeros(len(rows), classes, device=rows.device)
            held.scatter_add_(1, known_labels[index[:, :k]], weights[:, :k])
            right[number] += (held.argmax(1) == labels).sum()
    return (right.double() / len(asked)).tolist()


@final
@dataclass(frozen=True)
class Neighbours(Evaluator):
    """k nearest neighbours on frozen features, for several k."""

    k: tuple[int, ...] = (1, 5, 20, 200)
    """Those of more neighbours than there are known images are left out."""
    temperature: float = TEMPERATURE
    """Of the votes (Wu et al. 2018)."""
    tokens: Tokens = "avg"
    """What is compared: the mean of the patches, or the class token."""
    train: str | None = None
    """File of the labelled images that are compared with; the recipe's when absent."""
    split: str | None = None
    """Its labels that may be seen; when absent the recipe's split if it is the recipe's file, else every label.
    "all" is every label, too."""

    def run(self, loaded: Loaded) -> Result:
        """knn_1, knn_5, ...: shares of the labelled images of `data.file` whose neighbours name their class."""
        encoder = loaded.method.eval_encoder
        self.check(loaded)
        train = self.open(loaded, self.train or loaded.recipe.data.train, same_classes=False)
        asked = self.open(loaded, same_classes=False)
        known, wanted = self.labels(loaded, train), known_labels(asked, None)
        check_files(train, known, asked, wanted)
        device = next(encoder.parameters()).device
        with precision(loaded.recipe.run, device):
            shown = sweep_decodable(self.data_of(loaded), train, device, np.asarray(known.ids), self.batch)
            ids, near = bank(encoder, shown, self.tokens)
            wanted_ids = np.asarray(wanted.ids)
            found = features(encoder, self.images(loaded, asked, wanted_ids), self.tokens)
        ks = [k for k in self.k if k <= len(ids)]
        if not ks:
            raise InputError(f"{train.path} has {len(ids)} known labels, fewer than each of --k; give a smaller one")
        ours, theirs = (torch.from_numpy(values).to(device) for values in (known[ids], wanted[wanted_ids]))
        right = votes(near, ours, found, theirs, ks, self.temperature)
        values = {"images": float(len(wanted_ids)), "known": float(len(ids))}
        return Result(values | {f"knn_{k}": share for k, share in zip(ks, right, strict=True)})

    def check(self, loaded: Loaded) -> None:
        """Raise InputError for numbers that mean nothing, and encoders whose tokens these are not."""
        if not self.k or min(self.k) < 1 or self.temperature <= 0 or self.batch < 1:
            raise InputError(
                f"expected --k and --batch of 1 or more and --temperature above 0, got {' '.join(map(str, self.k))}, "
                f"{self.batch} and {self.temperature:g}"
            )
        check_tokens(loaded.method.eval_encoder, self.tokens, str(loaded.path))

    def labels(self, loaded: Loaded, train: Beton) -> Labels:
        """Those of the training file that may be seen."""
        data = loaded.recipe.data
        own = self.data.root in (None, data.root) and self.train in (None, data.train)
        name = self.split or (data.split if own else None)
        return known_labels(train, load_split(train, name) if name not in (None, "all") else None)


def check_tokens(encoder: torch.nn.Module, tokens: Tokens, whose: str) -> None:
    """Raise InputError for an encoder that is no plain ViT, or has no class token where that is wanted."""
    if not isinstance(encoder, VisionTransformer):
        raise InputError(f"neighbours are told by the tokens of a plain ViT, {whose} has a {type(encoder).__name__}")
    if tokens == "token" and encoder.cls_token is None:
        raise InputError(f"{whose} has no class token; set --tokens avg")


def check_files(train: Beton, known: Labels, asked: Beton, wanted: Labels) -> None:
    """Raise InputError for files that cannot be compared."""
    if train.path.resolve() == asked.path.resolve():
        raise InputError(f"{train.path} would be compared with itself; give another --data.file or --train")
    if not len(known.ids) or not len(wanted.ids):
        bare = train if not len(known.ids) else asked
        raise InputError(f"{bare.path} has no labelled image; convert it with labels")
    ours, theirs = train.manifest.classes or (), asked.manifest.classes or ()
    if ours != theirs:
        raise InputError(f"{asked.path} has other classes than {train.path}: {len(theirs)} and {len(ours)} of them")
