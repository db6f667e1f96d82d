"""Accuracy of the k nearest neighbours (k-NN) of an encoder's features, for which nothing is trained."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, final

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import normalize

from models.encoder.vit import FullImages, encode, evaluating
from models.evaluate.evaluator import Evaluator, Result
from models.evaluate.intervals import with_interval
from models.evaluate.paired import open_other, paired
from models.full_precision import full_precision
from models.load import Loaded
from pipeline.errors import InputError
from pipeline.evaluation.sweep import sweep_decodable
from pipeline.flags import AT_LEAST_1, POSITIVE, check_bounds
from pipeline.labels.known import Labels
from pipeline.labels.splits import Split, known_labels, load_split
from pipeline.sources.classes import difference, how_to_agree
from pipeline.sources.levels import check_same_window, window_of
from pipeline.store.beton import Beton

TEMPERATURE = 0.07  # Wu et al. 2018, DINO
CHUNK = 1024
MATRIX = 2**27  # similarities in memory at once, 512 MB: of a hundred images with all of ImageNet
Tokens = Literal["avg", "token"]


@torch.no_grad()
def pooled_features(encoder: VisionTransformer, batches: Iterable[Tensor], tokens: Tokens = "avg") -> Tensor:
    """Compute features f32 [N, C] of images u8 [n, 3, H, W]: the mean patch token, or the class token.

    The final norm comes before or behind the pooling, as the encoder has it, so that the result is what timm's
    forward_head(pre_logits=True) gives a classifier with this pooling.
    """
    with evaluating(encoder):
        every = (encode(encoder, [FullImages(images, pooled=False)])[0] for images in batches)
        first = encoder.num_prefix_tokens
        read = (each[:, first:].mean(1) if tokens == "avg" else each[:, 0] for each in every)
        return torch.cat([encoder.fc_norm(each).float() for each in read])


def features(encoder: VisionTransformer, batches: Iterable[Tensor], tokens: Tokens = "avg") -> Tensor:
    """Compute the `pooled_features` of images u8 [n, 3, H, W], scaled to length 1: f32 [N, C]."""
    return normalize(pooled_features(encoder, batches, tokens), dim=1)


def feature_bank(
    encoder: VisionTransformer, batches: Iterable[tuple[np.ndarray, Tensor]], tokens: Tokens = "avg"
) -> tuple[np.ndarray, Tensor]:
    """Compute the `pooled_features` of batches of (ids, images), as `sweep_decodable` yields them: ids i64 [N], f32
    [N, C]."""
    ids: list[np.ndarray] = []

    def images() -> Iterable[Tensor]:
        for part, batch in batches:
            ids.append(part)
            yield batch

    found = pooled_features(encoder, images(), tokens)
    return np.concatenate(ids), found


def knn(
    known: Tensor,
    known_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    k: int = 20,
    temperature: float = TEMPERATURE,
) -> float:
    """Compute the k-NN accuracy, 0 to 1, of queries for one k.

    known    f32 [N, C], of length 1, with labels i64 [N]
    queries  f32 [M, C], of length 1, with labels i64 [M]
    """
    return knn_accuracies(known, known_labels, queries, query_labels, (k,), temperature)[0]


def knn_accuracies(
    known: Tensor,
    known_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    ks: Sequence[int],
    temperature: float = TEMPERATURE,
) -> list[float]:
    """Compute for each k the share of the queries whose class wins the vote of their k nearest neighbours in `known`.

    The arguments are those of `knn_hits`.
    """
    right = knn_hits(known, known_labels, queries, query_labels, ks, temperature).sum(1)
    return (right.double() / len(queries)).tolist()


def knn_hits(
    known: Tensor,
    known_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    ks: Sequence[int],
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Say for each k which queries' class wins the vote of their k nearest neighbours in `known`: bool [ks, M].

    known    f32 [N, C], of length 1, with labels i64 [N]
    queries  f32 [M, C], of length 1, with labels i64 [M]

    A neighbour's vote weighs exp(cosine / temperature) (Wu et al. 2018).
    """
    classes = int(torch.maximum(known_labels.max(), query_labels.max())) + 1
    most, right = min(max(ks), len(known)), torch.zeros(len(ks), len(queries), dtype=torch.bool, device=queries.device)
    first = 0
    rows_at_once = max(1, min(CHUNK, MATRIX // len(known)))
    for rows, labels in zip(queries.split(rows_at_once), query_labels.split(rows_at_once), strict=True):
        near, index = (rows @ known.T).topk(most, dim=1)
        weights = ((near - near[:, :1]) / temperature).exp()  # the nearest weighs 1, so that no weight overflows f32
        for number, k in enumerate(ks):
            votes = torch.zeros(len(rows), classes, device=rows.device)
            votes.scatter_add_(1, known_labels[index[:, :k]], weights[:, :k])
            right[number, first : first + len(rows)] = votes.argmax(1) == labels
        first += len(rows)
    return right


class Hits(NamedTuple):
    """How many images were known, and on which images the vote of their neighbours is right: knn_1, ... bool [M]."""

    known: int
    hits: dict[str, Tensor]


@final
@dataclass(frozen=True)
class Neighbours(Evaluator):
    """k nearest neighbours on frozen features, for several k."""

    k: Annotated[tuple[int, ...], AT_LEAST_1] = (1, 5, 20, 200)
    """Numbers of neighbours; those above the number of known images are left out."""
    temperature: Annotated[float, POSITIVE] = TEMPERATURE
    """Of the votes (Wu et al. 2018)."""
    tokens: Tokens = "avg"
    """Features that are compared: the mean of the patches, or the class token."""
    train: str | None = None
    """File of the labelled images that are the neighbours; the recipe's when absent."""
    split: str | None = None
    """Split of that file whose labels are used; when absent the recipe's split if it is the recipe's file, else every
    label. "all" is every label, too."""

    against: str | None = None
    """Another run, or one of its checkpoints: the difference in accuracy on the same images for each k, with its
    interval and McNemar's test."""

    def run(self, loaded: Loaded) -> Result:
        """Measure knn_1, knn_5, ...: accuracies on the labelled images of `data.file`.

        knn_1_low and knn_1_high are the ends of Wilson's 95 % interval. With `against` there are knn_1_against,
        knn_1_difference, ... (models.evaluate.paired), too.
        """
        self.check(loaded)
        other = open_other(self, loaded, self.against, same_classes=False)
        if other is not None:
            self.check(other.run)
        found = self.measure(loaded)
        n = len(next(iter(found.hits.values())))
        values = {"images": float(n), "known": float(found.known)}
        for name, hits in found.hits.items():
            values |= with_interval(name, int(hits.sum()), n)
        if other is None:
            return Result(values)
        more, table = paired(loaded, other, found.hits, self.measure(other.run).hits)
        return Result(values | more, table)

    def measure(self, loaded: Loaded) -> Hits:
        """Find the neighbours of the labelled images of `data.file`."""
        encoder = loaded.method.eval_encoder
        train = self.open(loaded, self.train or loaded.recipe.data.train, same_classes=False)
        test = self.open(loaded, same_classes=False)
        own = self.data.root in (None, loaded.recipe.data.root) and self.train in (None, loaded.recipe.data.train)
        known, wanted = labels_in_use(loaded, train, self.split, own=own), known_labels(test, None)
        check_files(train, known, test, wanted)
        device = next(encoder.parameters()).device
        with full_precision(device):
            batches = sweep_decodable(self.data_of(loaded), train, device, np.asarray(known.ids), self.batch)
            ids, bank = feature_bank(encoder, batches, self.tokens)
            bank = normalize(bank, dim=1)
            test_ids = np.asarray(wanted.ids)
            queries = features(encoder, self.images(loaded, test, test_ids), self.tokens)
        ks = [k for k in self.k if k <= len(ids)]
        if not ks:
            raise InputError(f"{train.path} has {len(ids)} known labels, fewer than each of --k; give a smaller one")
        labels, query_labels = (torch.from_numpy(values).to(device) for values in (known[ids], wanted[test_ids]))
        with full_precision(device):
            hits = knn_hits(bank, labels, queries, query_labels, ks, self.temperature).cpu()
        return Hits(len(ids), {f"knn_{k}": each for k, each in zip(ks, hits, strict=True)})

    def check(self, loaded: Loaded) -> None:
        """Raise InputError for flags outside their bounds, and for an encoder without these tokens."""
        check_bounds(self, "--")
        if not self.k:
            raise InputError("--k: expected one number of neighbours or more, got none")
        check_tokens(loaded.method.eval_encoder, self.tokens, str(loaded.path))


def labels_in_use(loaded: Loaded, train: Beton, split: str | None, *, own: bool) -> Labels:
    """Return the labels of a training file that may be used: those of `split`; every one where that is "all".

    own  whether it is the run's own file, of which the recipe's split is used where `split` is None
    """
    return known_labels(train, split_in_use(loaded, train, split, own=own))


def split_in_use(loaded: Loaded, train: Beton, split: str | None, *, own: bool) -> Split | None:
    """Return the split of a training file that labels_in_use reads; None where every label may be used."""
    name = split or (loaded.recipe.data.split if own else None)
    return load_split(train, name) if name not in (None, "all") else None


def check_tokens(encoder: torch.nn.Module, tokens: Tokens, whose: str) -> None:
    """Raise InputError for an encoder that is no plain ViT, or lacks the class token that is asked for.

    whose  the run or recipe, for the message
    """
    if not isinstance(encoder, VisionTransformer):
        kind = type(encoder).__name__
        raise InputError(f"k-NN, linear probe and RankMe read the tokens of a plain ViT, {whose} has a {kind}")
    if tokens == "token" and encoder.cls_token is None:
        raise InputError(f"{whose} has no class token; set --tokens avg")


def check_files(train: Beton, known: Labels, test: Beton, wanted: Labels) -> None:
    """Raise InputError for one and the same file, a file without labels, and files of different classes."""
    if train.path.resolve() == test.path.resolve():
        raise InputError(f"{train.path} would be compared with itself; give another --data.file or --train")
    if not len(known.ids) or not len(wanted.ids):
        bare = train if not len(known.ids) else test
        raise InputError(f"{bare.path} has no labelled image; convert it with labels")
    check_same_window(test.path, test.manifest, window_of(train.manifest), str(train.path))
    ours, theirs = train.manifest.classes or (), test.manifest.classes or ()
    if ours != theirs:
        raise InputError(
            f"{test.path} has other classes than {train.path}, {len(theirs)} and {len(ours)} of them: "
            f"{difference(theirs, ours)}; {how_to_agree(theirs, ours, train.path)}"
        )
