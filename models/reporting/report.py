"""Write the report of a run: report.html, one page with everything in it, and report.md beside its pictures."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.records.json_file import read_object
from models.records.metrics import APS, IOU, RECALLS
from models.records.run_folder import ENVIRONMENT, RECIPE, REPORT
from models.reporting import figures
from models.reporting.pseudo_label_stats import PseudoLabelCounts, few_passed
from models.reporting.render import Facts, Folded, Picture, Section, Table, Text, html, markdown
from models.reporting.terminal import duration
from pipeline.store.atomic_write import write_whole
from pipeline.text import count, number, percent

MARKDOWN, PICTURES = "report.md", "report"
AP_HEADS = "AP box on val", "AP50 box on val", "AP mask on val", "AP50 mask on val"
"""Columns of the table of detection's classes, as APS names their values."""


def write_report(
    folder: Path,
    *,
    recipe_name: str,
    rows: Sequence[dict],
    final: Sequence[tuple[str, str]],
    pictures: Sequence[Picture],
    verdict: str,
    labelled: int = 0,
    label_counts: Sequence[int] = (),
    command: str = "",
    pseudo_labels: PseudoLabelCounts | None = None,
    class_names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write both reports from the journal's rows; recipe.json and environment.json are read from `folder`.

    final          results of the finished model, (what, value)
    pictures       reconstructions, views and the like, in this order
    verdict        sentence about the throughput, as `verdict` returns it
    labelled       images whose label was learned from
    label_counts   those of each class
    command        the shell command that trains the same again, or several, one a line
    pseudo_labels  their counts, if the method gives any
    class_names    in label order; numbers if None
    notes          what the summary adds about this run: its extensions, best.pt, an early end

    -> the path of report.html.
    """
    recipe, environment = (read_object(folder / name, "restore it", absent={}) for name in (RECIPE, ENVIRONMENT))
    steps = [row for row in rows if "timing" in row]
    scores = figures.evaluations(rows)
    sections = [
        Section("", [*_summary(steps, scores, recipe, environment, labelled), *map(_sentence, notes)]),
        Section("Results", [Table(("measured", "value"), final)] * bool(final)),
        Section("Curves", _curves(steps, scores, figures.effective_ranks(rows))),
        Section("Classes", _classes(rows, label_counts, class_names)),
        Section("Pseudo-labels", _pseudo_labels(steps, pseudo_labels, class_names, few_passed(rows, recipe))),
        Section("What the network saw and made", list(pictures)),
        Section("Throughput", _throughput(steps, verdict)),
        Section("To run it again", _reproduce(recipe_name, command, recipe, environment)),
    ]
    sections = [section for section in sections if section.blocks]
    write_whole(folder / REPORT, html(recipe_name, sections))
    write_whole(folder / MARKDOWN, markdown(recipe_name, sections, folder / PICTURES))
    return folder / REPORT


def verdict(images_per_s: float, wait_share: float, device: str = "device") -> str:
    """One sentence about the share of time that the device waited for data; below 3 % the data path is fast enough.

    verdict(1150.0, 0.02, "GPU")
    """
    text = f"{images_per_s:,.0f} images/s; the {device} waited for data {percent(wait_share)} of the time"
    if wait_share < 0.03:
        return f"{text}: it is never short of images, and only a faster {device} or a smaller model would be quicker."
    possible = images_per_s / max(0.01, 1 - wait_share)
    if wait_share < 0.15:
        return f"{text}: data and {device} are nearly in balance, {possible:,.0f} images/s if data were free."
    return f"{text}: limited by the data path, up to {possible:,.0f} images/s with more cores or cheaper views."


def speed(rows: Sequence[dict]) -> tuple[float, float]:
    """Median images per second and median share of waiting, of the rows that timed a step; 0.0, 0.0 if none did."""
    timed = [row["timing"] for row in rows if row.get("timing", {}).get("images_per_s") is not None]
    if not timed:
        return 0.0, 0.0
    return float(np.median([t["images_per_s"] for t in timed])), float(np.median([t["wait_share"] for t in timed]))


def _summary(steps: Sequence[dict], scores: figures.Series, recipe: dict, environment: dict, labelled: int) -> list:
    if not steps:
        return [Text("No step has been logged yet.", lead=True)]
    last = steps[-1]
    images_per_s, wait_share = speed(steps)
    took = duration(last["timing"]["elapsed_s"])
    where = f"{environment.get('devices', 1)} × {environment.get('device', 'unknown device')}"
    encoder, data = recipe.get("encoder", {}), recipe.get("data", {})
    size = f"ViT of {encoder.get('depth')} x {encoder['width']}" if encoder.get("width") else None
    what = f"{size or encoder.get('name', 'An encoder')} on {data.get('root', 'its data')}"
    what += f", {count(labelled, 'known label')}" if labelled else ", no label"
    what += f" (split {data['split']})" if labelled and data.get("split") else ""
    what += f", seed {recipe['run']['seed']}" if "run" in recipe else ""
    text = f"{what}: {_length(last, recipe)} in {took} on {where}."
    facts = [("Time", took), ("Images per second", f"{images_per_s:,.0f}"), ("Waiting for data", percent(wait_share))]
    name = _headline(scores)
    if name:
        values = scores[name][1]
        best = f", best {percent(max(values))}" if max(values) > values[-1] else ""
        text += f" Final {name} {percent(values[-1])}{best}."
        facts.insert(0, (f"Final {name}", percent(values[-1])))
    facts.insert(1 if name else 0, ("Final loss", "–" if last["loss"] is None else number(last["loss"])))
    if "memory_gb" in last["timing"]:
        held = f", {last['timing']['reserved_gb']:.1f} GB reserved" if "reserved_gb" in last["timing"] else ""
        facts.append(("GPU memory", f"{last['timing']['memory_gb']:.1f} GB{held}"))
    return [Text(text, lead=True), Facts(facts), *_replaced(steps, data)]


def _sentence(note: str) -> Text:
    return Text(f"{note[0].upper()}{note[1:]}.")


def _length(last: dict, recipe: dict) -> str:
    """The length as "300 steps of 128 images, 40 epochs, the first 5 on labels alone"; no epochs if each is a step."""
    optim, batch = recipe.get("optim", {}), recipe.get("data", {}).get("batch")
    parts = [count(last["step"], "step") + (f" of {count(batch, 'image')}" if batch else "")]
    parts += [] if optim.get("epoch_unit") == "step" else [f"{last['epoch']:.3g} epochs"]
    parts += [f"the first {alone:,g} on labels alone"] if (alone := optim.get("labels_only_epochs")) else []
    return ", ".join(parts) + "," * (len(parts) > 1)


def _replaced(steps: Sequence[dict], data: dict) -> list[Text]:
    n = sum(row.get("replaced", 0) for row in steps)
    check = f"python -m pipeline.store {data.get('root', '')}/{data.get('train', '')}"
    text = f"{count(n, 'time')} an image that no longer decodes was replaced by another: {check} lists what is damaged."
    return [Text(text)] if n else []


def _headline(scores: figures.Series) -> str | None:
    """The evaluation to show first: a top-1 accuracy if there is one, else the first; None if there is none."""
    accuracies = [name for name in scores if "top1" in name or "accuracy" in name]
    return next(iter(accuracies or scores), None)


def _curves(steps: Sequence[dict], scores: figures.Series, ranks: figures.Series) -> list[Picture]:
    parts = figures.series(steps, lambda row: {"loss": row["loss"], **row["parts"]})
    if len(parts) == 2:  # one part is the loss itself
        del parts["loss"]
    rates = figures.series(steps, lambda row: {"learning rate": row["lr"]})
    norms = figures.series(steps, lambda row: {"gradient norm": row["gradient_norm"]})
    return _pictures(
        (
            "Loss",
            "The total, and its parts before their weights; means over each logging interval.",
            figures.curves(parts, log=True),
        ),
        ("Evaluation", "On images that were not learned from.", figures.curves(scores, percent=True, points=True)),
        (
            "RankMe",
            "Effective rank of training images' features: near 1 where they collapse.",
            figures.curves(ranks, points=True),
        ),
        ("Learning rate", "Of the layers that learn at the full rate.", figures.curves(rates)),
        ("Gradient norm", "Before clipping.", figures.curves(norms, log=True)),
    )


def _classes(rows: Sequence[dict], labels: Sequence[int], class_names: Sequence[str] | None) -> list[Table | Picture]:
    """Recall of each class by the last evaluation of val that has it, the ten lowest as a table; of segmentation IoU
    and recall, and of detection AP, of every class."""
    if objects := [row for row in rows if row.get("evaluation") == "val" and APS[0] in row]:
        return [_class_aps(objects[-1], labels, class_names)]
    if pixels := [row for row in rows if row.get("evaluation") == "val" and IOU in row]:
        return [_class_ious(pixels[-1], labels, class_names)]
    held = [row[name] for row in rows if row.get("evaluation") == "val" for name in RECALLS[::-1] if name in row]
    if not held or len(held[-1]) != len(labels):
        return []
    recall, names = held[-1], class_names or [str(index) for index in range(len(labels))]
    worst = sorted((c for c, share in enumerate(recall) if share is not None), key=lambda c: (recall[c], labels[c]))
    table = [[names[c], f"{labels[c]:,}", percent(recall[c])] for c in worst[:10]]
    return [
        *_pictures((*figures.RECALL, figures.recalls(recall, labels, names)), wide=True),
        Table(["class, lowest recall first", "known labels", "recall on val"], table),
    ]


def _class_ious(row: dict, pixels: Sequence[int], class_names: Sequence[str] | None) -> Table:
    names, each = class_names or [str(index) for index in range(len(pixels))], row[IOU]
    order = sorted(range(len(each)), key=lambda c: 2.0 if each[c] is None else each[c])
    shares = [["–" if share is None else percent(share) for share in row[name]] for name in (IOU, RECALLS[0])]
    table = [[names[c], f"{pixels[c]:,}", shares[0][c], shares[1][c]] for c in order]
    return Table(["class, lowest IoU first", "pixels learned from", "IoU on val", "recall on val"], table)


def _class_aps(row: dict, objects: Sequence[int], class_names: Sequence[str] | None) -> Table:
    each, held = row[APS[0]], {name: head for name, head in zip(APS, AP_HEADS, strict=True) if name in row}
    names = class_names or [str(index) for index in range(len(each))]
    order = sorted(range(len(each)), key=lambda c: 2.0 if each[c] is None else each[c])
    shares = {name: ["–" if share is None else percent(share) for share in row[name]] for name in held}
    table = [[names[c], f"{objects[c]:,}", *(shares[name][c] for name in held)] for c in order]
    return Table(["class, lowest AP first", "objects learned from", *held.values()], table)


def _pseudo_labels(
    steps: Sequence[dict], counts: PseudoLabelCounts | None, class_names: Sequence[str] | None, warning: str | None
) -> list:
    shares = figures.series(steps, lambda row: row.get("pseudo"))
    if not shares or counts is None:
        return []
    predicted, passed = counts.predicted.numpy(), counts.passed.numpy()
    confusion = None if counts.confusion is None else counts.confusion.numpy()
    names = class_names or [str(index) for index in range(counts.classes)]
    text = (
        f"Of {predicted.sum():,} pseudo-labels, {percent(passed.sum() / max(1, predicted.sum()))} passed the threshold"
    )
    if confusion is not None and confusion.sum():
        text += f"; of those with a known label, {percent(confusion.trace() / confusion.sum())} were correct"
    caption = "Passed: share of all pseudo-labels."
    if "correct" in shares:
        caption += " Correct: share of those passed whose hidden label was read for this report."
    per_class = "Passed pseudo-labels by predicted class: with a few tall bars, few classes are learned from."
    return [
        Text(text + "."),
        *([Text(warning)] if warning else []),
        *_pictures(
            ("Over time", caption, figures.curves(shares, percent=True, tall=True)),
            (
                "Confusion",
                "Per cent of each true class.",
                None if confusion is None else figures.confusions(confusion, names),
            ),
        ),
        *_pictures(("Per class", per_class, figures.classes(passed, confusion, names)), wide=True),
        *_weakest(predicted, passed, confusion, names),
    ]


def _weakest(
    predicted: np.ndarray, passed: np.ndarray, confusion: np.ndarray | None, names: Sequence[str]
) -> list[Text | Table]:
    """The ten classes of which the smallest share of pseudo-labels is correct, or, without confusion, passes at all."""
    share = passed / np.maximum(1, predicted)
    head, correct = ["class", "pseudo-labels", "passed"], None
    if confusion is not None and confusion.sum():
        correct = confusion.diagonal() / np.maximum(1, confusion.sum(0))
        head.append("correct, of passed")
    worst = np.argsort(share if correct is None else np.where(passed > 0, correct, 2.0), kind="stable")[:10]
    table = [
        [names[index], f"{predicted[index]:,}", percent(share[index])]
        + ([] if correct is None else [percent(correct[index]) if passed[index] else "–"])
        for index in worst
    ]
    what = "that passed least often" if correct is None else "whose passed pseudo-labels are wrong most often"
    return [Text(f"The classes {what}:"), Table(head, table)]


def _throughput(steps: Sequence[dict], verdict: str) -> list:
    images = figures.series(steps, lambda row: {"images per second": row["timing"]["images_per_s"]})
    waits = figures.series(steps, lambda row: {"waiting": row["timing"]["wait_share"]})
    return [
        Text(verdict),
        *_pictures(
            ("Images per second", "All devices together; evaluations and saves are left out.", figures.curves(images)),
            (
                "Waiting for data",
                "Share of the time in which the loop had no batch.",
                figures.curves(waits, percent=True),
            ),
        ),
    ]


def _reproduce(name: str, command: str, recipe: dict, environment: dict) -> list[Folded]:
    versions = "\n".join(f"{key:<12}{value}" for key, value in environment.items() if value is not None)
    full = json.dumps(recipe, indent=2) if recipe else ""
    found = (("Command", command), ("Environment", versions), (f"Recipe {name}", full))
    return [Folded(title, text) for title, text in found if text]


def _pictures(*made: tuple[str, str, bytes | None], wide: bool = False) -> list[Picture]:
    return [Picture(title, caption, png, wide) for title, caption, png in made if png is not None]
