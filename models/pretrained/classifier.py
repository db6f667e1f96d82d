"""Match a classifier's rows to the classes of a run by name, so that each scores the class it was trained on."""

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from models.method import Method
from models.pretrained.weights import Weights
from pipeline.text import count

HEAD = "head"
SUPMAE_HEAD = "cls_head."
SHOWN = 3


def rows_by_class(
    held: dict[str, Tensor],
    head: nn.Module,
    theirs: tuple[str, ...] | None,
    ours: tuple[str, ...] | None,
) -> tuple[dict[str, Tensor], str | None]:
    """Take for each class of ours the row of the class of that name, from the layers of the classifier that score.

    rows_by_class({"head.weight": weight}, vit.head, ("cat", "dog"), ("dog", "cat"))[0]["head.weight"]  # its rows 1, 0

    The rows are removed if the source lacks one of the classes: a classifier that was trained for a part of them would
    rule the others out. Without names on both sides, rows stay as they are.

    held    tensors of the source, by the encoder's names
    head    the encoder's classifier
    theirs  the source's classes in the order of its scores; None if it does not say

    -> the tensors, and a note on what was done; None if the source has no such layer.
    """
    layers = dict(_scoring(head))
    rows = [name for name in layers if name in held]
    if not rows:
        return held, None
    features = [(held[name].shape[1:], layers[name].shape[1:]) for name in rows if held[name].ndim > 1]
    if any(theirs_has != ours_has for theirs_has, ours_has in features):
        read, given = (" x ".join(map(str, shape)) for shape in features[0])
        note = f"classifier not taken, as it reads {read} features, of which this encoder has {given}"
        return without(held, rows), note
    if not theirs or not ours or any(len(held[name]) != len(theirs) for name in rows):
        if any(held[name].shape != layers[name].shape for name in rows):
            sizes = f"{count(len(held[rows[0]]), 'class')} without names that fit, this run's {len(layers[rows[0]])}"
            return without(held, rows), f"classifier not taken, of {sizes}"
        size = count(len(held[rows[0]]), "class")
        return held, f"classifier kept by its size, {size}, as the source names none that fit it"
    if theirs == ours:
        return held, f"classifier kept, of the same {count(len(ours), 'class')}"
    missing = [name for name in ours if name not in theirs]
    if missing:
        shown = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        note = f"classifier not taken, as it lacks {len(missing)} of {count(len(ours), 'class')} ({shown})"
        return without(held, rows), note
    order = torch.tensor([theirs.index(name) for name in ours])
    note = f"classifier's rows taken by class name, {len(ours)} of its {len(theirs)}"
    return held | {name: held[name][order] for name in rows}, note


def without(held: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Leave out tensors by name."""
    return {name: tensor for name, tensor in held.items() if name not in names}


def load_head(method: Method, found: Weights, ours: tuple[str, ...] | None) -> tuple[str | None, set[str]]:
    """Load the classifier that a method has beside its encoder, SupMAE's, from a run that has one, or SupMAE's file.

    load_head(method, find_weights("runs/supmae-digits"), ("cat", "dog"))

    Its rows are matched by `rows_by_class`; it is taken whole, hidden layer and batch norm included, or not at all.

    -> a note on what was done, None without such a classifier on either side; and the names that were used.
    """
    names = {name: name for name in found.others if name.startswith(f"{HEAD}.")}
    released = [name for name in found.tensors if name.startswith(SUPMAE_HEAD)]
    names |= {f"{HEAD}.{name.removeprefix(SUPMAE_HEAD)}": name for name in released}
    head = getattr(method, HEAD, None)
    if not isinstance(head, nn.Module) or not names:
        return None, set()
    tensors = found.tensors | found.others
    held, note = rows_by_class({own: tensors[name] for own, name in names.items()}, head, found.classes, ours)
    own = {f"{HEAD}.{name}": tensor for name, tensor in head.state_dict().items()}
    if note is not None and any(name not in held and name in names for name in own):  # rows of which some were missing
        return note, set()
    for name in {**own, **held}:
        shapes = [list(part[name].shape) if name in part else "nothing" for part in (own, held)]
        if shapes[0] != shapes[1]:
            return f"classifier not taken, as this run has {name} of shape {shapes[0]}, the source {shapes[1]}", set()
    head.load_state_dict({name.removeprefix(f"{HEAD}."): tensor for name, tensor in held.items()})
    return note, set(names.values())


def _scoring(head: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of the linear layers that return class scores: one row or number a class."""
    parts = head.items() if isinstance(head, nn.ModuleDict) else [("", head)]  # a Semiformer has two classifiers
    for name, part in parts:
        prefix = f"{HEAD}.{name}." if name else f"{HEAD}."
        if isinstance(part, nn.Sequential):
            prefix, part = f"{prefix}{len(part) - 1}.", part[-1]
        if isinstance(part, nn.Linear):
            yield from ((f"{prefix}{kind}", tensor) for kind, tensor in part.state_dict().items())
