"""Give soft labels to all images of a .beton by several trained runs.  python -m models.pseudo_label RUN... --out FILE

The runs may differ in seed, adapter, backbone and size: each sees the images in its own evaluation view. `selftrain`
learns from what they say together: python train.py selftrain:RECIPE --method.labels FILE.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from tyro.conf import Positional

from models.checkpoint import save_load
from models.evaluate.ensemble import Average, Ensemble, columns_of
from models.load import Loaded, check_window, chosen_device
from models.pretrained.adapter import TENSORS
from models.pretrained.judged import load_judged
from models.pseudo_labels.label_file import LabelFile, Labeller, file_sha256, holds_labels, write_labels
from pipeline.errors import InputError, command
from pipeline.evaluation.sweep import sweep_decodable
from pipeline.flags import AT_LEAST_1, POSITIVE, check_bounds, parse
from pipeline.labels.hidden import Oracle
from pipeline.labels.splits import known_labels, load_split
from pipeline.open import open_data
from pipeline.store.atomic_write import check_writable
from pipeline.store.beton import Beton, open_beton
from pipeline.store.sample_names import escape, printable
from pipeline.text import count, percent

SURE = 0.5, 0.7, 0.8, 0.9, 0.95
"""Confidences that the summary counts images from."""
SHOWN = 20
"""Classes that are listed in full; of more, the most frequent and the rarest."""


@dataclass(frozen=True)
class Arguments:
    """Write the soft labels that several trained runs give together to every image of a .beton."""

    runs: Positional[tuple[Path, ...]]
    """Run folders, checkpoints of runs, or exported adapters; they must tell the same classes apart, in any order."""
    out: Path = Path("labels.json")
    """The file to write; the probabilities lie beside it, 2 bytes for each image and class."""
    data: Path | None = None
    """The .beton whose images get labels; the training file of the first run when absent."""
    average: Average = "probabilities"
    """What is averaged over the runs: the softmax of each, or its likeliest class alone (one-hot; V-PET), so that a run
    that is surer than the others weighs no more than they do."""
    temperature: Annotated[float, POSITIVE] = 1.0
    """Scores are divided by it before the softmax: below 1 sharpens probabilities."""
    batch: Annotated[int, AT_LEAST_1] = 256
    """Images that go through a network at once."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int | None, AT_LEAST_1] = None
    """Decoding threads; as many as this process may use cores when absent."""
    oracle: bool = False
    """Read hidden labels to print how many of the soft labels are right; the file does not depend on it."""


def main() -> int:
    """Label every image and print what came out. Raises InputError before anything is computed where a run or the data
    does not fit."""
    a = parse(Arguments, prog="python -m models.pseudo_label")
    check_bounds(a, "--")
    check_out(a.out)
    device, runs = chosen_device(a.device), load_runs(a.runs)
    first = runs[0].recipe.data
    beton = open_data(first, first.train) if a.data is None else open_beton(a.data)
    classes = beton.manifest.classes or runs[0].classes
    for loaded in runs:
        columns_of(loaded, classes)
        check_window(loaded, beton)
    labellers = labellers_of(runs)
    shown = [labels_seen(loaded, beton) for loaded in runs] if a.oracle else []
    ensemble = Ensemble(beton.n, classes, a.average, a.temperature)
    for number, loaded in enumerate(runs):
        label(a, ensemble, loaded, beton, device, say=number == 0)
    probabilities = ensemble.mean()
    undecodable = tuple(ensemble.undecodable.tolist())
    facts = LabelFile(beton.digest, beton.n, tuple(classes), a.average, a.temperature, undecodable, labellers)
    found = write_labels(a.out, facts, probabilities)
    print(f"{escape(str(a.out))}: soft labels of {count(beton.n, 'image')} of {beton.path}, in {found.array}")
    print("\n".join(summary(ensemble, probabilities)))
    if a.oracle:
        print("\n".join(truth(ensemble, probabilities, beton, np.unique(np.concatenate(shown)))))
    return 0


def load_runs(paths: Sequence[Path]) -> list[Loaded]:
    """Load runs onto the host. Raises InputError if there is none, or one of them comes twice."""
    if not paths:
        raise InputError("expected the folder of a run, or of several: python -m models.pseudo_label RUN...")
    runs = [load_judged(str(path), None, torch.device("cpu")) for path in paths]
    places = [loaded.path.resolve() for loaded in runs]
    for loaded, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f"{loaded.path} is named twice, and would count twice; name each run once")
        if loaded.note:
            print(loaded.note)
    return runs


def label(a: Arguments, ensemble: Ensemble, loaded: Loaded, beton: Beton, device: torch.device, *, say: bool) -> None:
    """Add a run to the ensemble, and print its speed; `say` names images that do not decode."""
    began = time.perf_counter()
    data = replace(loaded.recipe.data, threads=a.threads or loaded.recipe.data.threads)
    ids = np.arange(beton.n)
    ensemble.add(loaded, sweep_decodable(data, beton, device, ids, a.batch, say=say), device)
    taken = time.perf_counter() - began
    print(f"{loaded.path}: {loaded.recipe.name}, step {loaded.step:,}, {beton.n / taken:,.0f} img/s", flush=True)


def check_out(path: Path) -> None:
    """Raise InputError for a place where nothing can be written, or where a file is that is no soft labels."""
    check_writable(path)
    if path.exists() and not holds_labels(path):
        raise InputError(f"--out {path}: the file there holds no soft labels, and is not replaced; choose another name")


def labellers_of(runs: Sequence[Loaded]) -> tuple[Labeller, ...]:
    """Name the runs in the file of their labels. Raises InputError for two of the same weights, which would count
    twice."""
    found = tuple(labeller(loaded) for loaded in runs)
    by_hash: dict[str, Labeller] = {}
    for each in found:
        if (other := by_hash.setdefault(each.sha256, each)) is not each:
            raise InputError(f"{each.path} is a copy of {other.path}, and would count twice; name one of them")
    return found


def labeller(loaded: Loaded) -> Labeller:
    """Name a run in the file of its labels; of an adapter by the hash of its tensors."""
    held = loaded.path if loaded.path.suffix == ".pt" else loaded.path.with_name(TENSORS)
    return Labeller(escape(str(loaded.path)), loaded.recipe.name, loaded.step, file_sha256(held))


def summary(ensemble: Ensemble, probabilities: np.ndarray) -> list[str]:
    """Say how sure the labels are, f16 [n, C], of which classes, and how often the runs agree; no label is read."""
    seen = ensemble.seen > 0
    sure, likeliest = (each[seen] for each in best(probabilities))
    if not len(sure):
        return [f"undecodable      all of {count(len(probabilities), 'image')}"]
    lines = [f"mean confidence  {sure.mean():.3f}"]
    lines += ["from confidence  " + ", ".join(f"{least:g}: {percent((sure >= least).mean())}" for least in SURE)]
    if len(ensemble.predicted) > 1:
        runs = count(len(ensemble.predicted), "run")
        lines += [f"agreement        {percent(ensemble.agreement())} of the images get one class from all {runs}"]
    if len(ensemble.undecodable):
        lines += [f"undecodable      {count(len(ensemble.undecodable), 'image')}, with a uniform label and not counted"]
    counts = np.bincount(likeliest, minlength=len(ensemble.classes))
    return [*lines, f"classes          {_counted(counts, ensemble.classes)}"]


def best(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the highest probability of each row of f16 [n, C], f32 [n], and its class, i64 [n]."""
    found = [part.float().max(1) for part in torch.from_numpy(probabilities).split(1 << 14)]
    return torch.cat([each.values for each in found]).numpy(), torch.cat([each.indices for each in found]).numpy()


def _counted(counts: np.ndarray, classes: Sequence[str]) -> str:
    order = range(len(classes)) if len(classes) <= SHOWN else np.argsort(-counts, kind="stable")
    named = [f"{printable(classes[i])} {counts[i]:,}" for i in order]
    if len(classes) <= SHOWN:
        return ", ".join(named)
    never = f"; {count(int((counts == 0).sum()), 'class')} never" if (counts == 0).any() else ""
    return f"{', '.join(named[: SHOWN // 2])}, ..., {', '.join(named[-SHOWN // 2 :])}{never}"


def labels_seen(loaded: Loaded, beton: Beton) -> np.ndarray:
    """Return the ids, i64, of the images of a file whose labels a run was shown. Raises InputError where that is not
    known, as of an adapter."""
    state = save_load.load(loaded.path) if loaded.path.suffix == ".pt" else {}
    if not isinstance(state.get("data"), dict):
        raise InputError(
            f"--oracle: {loaded.path} does not say which labels it was shown; leave the run or the flag out"
        )
    if state["data"].get("train") != beton.digest:
        return np.empty(0, np.int64)
    split = loaded.recipe.data.split
    return np.asarray(known_labels(beton, load_split(beton, split) if split else None).ids)


def truth(ensemble: Ensemble, probabilities: np.ndarray, beton: Beton, shown: np.ndarray) -> list[str]:
    """Say how many of the labels are right, of the images that decode and have a label which no run was shown (not in
    `shown`)."""
    labels = Oracle(beton).labels(np.arange(beton.n))
    hidden = (labels >= 0) & (ensemble.seen > 0)
    hidden[shown] = False
    if not hidden.any():
        return ["right            no image has a label that was hidden from every run"]
    sure, likeliest = best(probabilities)
    right = likeliest == labels
    alone = ", ".join(percent((each == labels)[hidden].mean()) for each in ensemble.predicted)
    lines = [
        f"right            {percent(right[hidden].mean())} of {hidden.sum():,} hidden labels; each run alone: {alone}"
    ]
    kept = [(least, hidden & (sure >= least)) for least in SURE]
    shares = [f"{least:g}: {percent(right[which].mean()) if which.any() else 'none'}" for least, which in kept]
    return [*lines, f"right, from      {', '.join(shares)}"]


if __name__ == "__main__":
    command(main)
