"""Load weights into a classifier of timm (models.encoder.timm_classifier): tensors by timm's names, as they are."""

from collections.abc import Collection, Mapping

from torch import Tensor

from models.encoder.timm_classifier import TimmClassifier, is_classifier, timm_file
from models.method import Method
from models.pretrained.classifier import HEAD, rows_by_class
from models.pretrained.formats import NORMALISATIONS
from models.pretrained.names import examples
from models.pretrained.weights import Weights, summarise
from pipeline.errors import InputError

READ = {"beit"}
"""Files of timm whose models are ViTs under other names, which models.pretrained.formats reads."""
COUNTER = ".num_batches_tracked"
"""End of the names of batch norm's counters, which older files lack and no running average here reads."""


def load_network(method: Method, found: Weights, classes: tuple[str, ...] | None, normalisation: str | None) -> str:
    """Load weights into a method's network and its average -> one line: what was loaded, left out, and is new.

    load_network(method, find_weights("resnet50.a1_in1k"), ("cat", "dog"), None)

    The classifier is copied by the names of its classes, or where one side has none by its shape
    (models.pretrained.classifier); it is new otherwise.

    Raises InputError for a tensor that is missing or of another shape, and for a source whose images were normalised
    otherwise: a convolution pads with zeros, which are then another colour, so that no change of weights makes up for
    it.
    """
    network = method.encoder
    assert isinstance(network, TimmClassifier)
    note = _check_normalisation(network, found, normalisation)
    own = network.net.state_dict()
    prefix = prefix_of(found.tensors, own)
    held = {name.removeprefix(prefix): each for name, each in found.tensors.items() if name.startswith(prefix)}
    held, classifier = _fitting_head(network, held, found.classes, classes)
    head = f"{network.head_name}."
    new = [name for name in own if name.startswith(head) and not _same(held, own, name)]
    counters = [name for name in own if name.endswith(COUNTER) and name not in held]
    for name in own:
        if name not in new and name not in counters and not _same(held, own, name):
            came = list(held[name].shape) if name in held else f"nothing under that name, but {examples(found.tensors)}"
            raise InputError(
                f"{found.where}: expected {name} of shape {list(own[name].shape)}, as {network.name} has it, got "
                f"{came}; set --encoder.name (and --encoder.stem) to those of the network that it is"
            )
    network.net.load_state_dict(own | {name: held[name] for name in own if name not in (*new, *counters)})
    if method.ema is not None:
        method.ema.module.load_state_dict(network.state_dict())
    out = [*(name for name in held if name not in own), *found.others]
    out += [name for name in found.tensors if not name.startswith(prefix)]
    loaded = f"{len(own) - len(new)} tensors of {network.name} from {found.where} ({found.what})"
    parts = [loaded, note, classifier, f"left out: {summarise(out)}" if out else None]
    return "; ".join([part for part in parts if part] + [f"new: {', '.join(new) or 'none'}"])


def network_name(found: Weights) -> tuple[str, str] | None:
    """Name the classifier of timm that weights are of, and its stem, as a recipe or a timm name says; None where they
    are a ViT's, BEiT's among them, or nothing says it."""
    encoder = found.recipe.get("encoder")
    if isinstance(encoder, Mapping) and is_classifier(encoder.get("name")):
        return encoder["name"], encoder.get("stem", "own")
    name = found.architecture
    return (name, "own") if name is not None and is_classifier(name) and timm_file(name) not in READ else None


def prefix_of(tensors: Collection[str], own: Collection[str]) -> str:
    """The prefix, such as "module." or "net.", under which a source has the most of the network's names."""
    first = next(iter(own))
    prefixes = sorted({name.removesuffix(first) for name in tensors if name.endswith(f".{first}")} | {""})
    return max(prefixes, key=lambda prefix: sum(f"{prefix}{name}" in tensors for name in own))


def _check_normalisation(network: TimmClassifier, found: Weights, asked: str | None) -> str | None:
    """Raise InputError for images normalised by others than the network's mean and std; -> a note where the source does
    not say it."""
    theirs = NORMALISATIONS[asked] if asked is not None else found.normalisation
    if theirs is None:
        own = bool(found.recipe)  # a run of this trainer, whose networks all have it
        return None if own else "images taken to be normalised by ImageNet's mean and std, which it does not say"
    if (tuple(theirs.mean), tuple(theirs.std)) != (network.normalisation.mean, network.normalisation.std):
        raise InputError(
            f"{found.where} was trained on images normalised by mean {theirs.mean}, std {theirs.std}, and a classifier "
            "of timm is given ImageNet's here; choose weights that were trained with those"
        )
    return None


def _fitting_head(
    network: TimmClassifier, held: dict[str, Tensor], theirs: tuple[str, ...] | None, ours: tuple[str, ...] | None
) -> tuple[dict[str, Tensor], str | None]:
    """Match the classifier's rows by class, under the names that models.pretrained.classifier knows."""
    own, common = f"{network.head_name}.", f"{HEAD}."
    rows = {name.replace(own, common, 1): each for name, each in held.items() if name.startswith(own)}
    kept, note = rows_by_class(rows, network.head, theirs, ours)
    others = {name: each for name, each in held.items() if not name.startswith(own)}
    return others | {name.replace(common, own, 1): each for name, each in kept.items()}, note


def _same(held: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> bool:
    return name in held and held[name].shape == own[name].shape
