"""A run that never was: rows, counts and pictures for the report's tests, or to look at."""

import io
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from models.config.recipe import Recipe, Run
from models.distributed.process_group import World
from models.method import PseudoLabelStats
from models.records.run_folder import claim
from models.reporting.environment import write_environment
from models.reporting.pseudo_label_stats import PseudoLabelCounts
from models.reporting.render import Picture
from models.reporting.report import speed, verdict, write_report

ALONE = World(0, 1, 0, torch.device("cpu"))


@dataclass(frozen=True)
class Settings:
    threshold: float = 0.7


def rows(steps: int = 300, every: int = 10) -> list[dict]:
    noise, found = np.random.default_rng(0), []
    for step in range(every, steps + 1, every):
        done = step / steps
        label = 2.3 * math.exp(-4 * done) + 0.05 * noise.random()
        pixels = 0.9 * math.exp(-1.5 * done) + 0.02 * noise.random()
        early = step <= steps // 5
        pseudo = 0.0 if early else 0.4 * math.exp(-2 * done) * (1 + 0.2 * noise.random())
        row = {"step": step, "epoch": 40 * done, "lr": 1e-3 * min(1, 8 * done) * (0.5 + 0.5 * math.cos(math.pi * done))}
        row |= {"loss": label + 10 * pseudo + 5 * pixels, "gradient_norm": 2 * math.exp(-done) + 0.3 * noise.random()}
        row |= {"parts": {"label": label} if early else {"label": label, "pseudo": pseudo, "pixels": pixels}}
        if not early:
            row["pseudo"] = {"passed": 0.9 - 0.6 * math.exp(-3 * done), "correct": 0.97 - 0.2 * math.exp(-5 * done)}
        speed = {"images_per_s": 1150 + 60 * noise.random(), "wait_share": 0.02 + 0.01 * noise.random()}
        row["timing"] = {**speed, "elapsed_s": 0.41 * step}
        found.append(row)
        if step % (5 * every) == 0:
            top1 = 0.94 - 0.7 * math.exp(-4 * done)
            values = {"top1": top1, "top5": min(1.0, top1 + 0.05), "loss": 2 - top1}
            found.append({"step": step, "epoch": 40 * done, "evaluation": "accuracy", "values": values})
    return found


def counts(classes: int = 10) -> PseudoLabelCounts:
    torch.manual_seed(0)
    truth = torch.arange(classes).repeat(60)
    made = PseudoLabelCounts(classes, oracle=lambda ids: truth[ids])
    predicted = torch.where(torch.rand(len(truth)) < 0.88, truth, (truth * 7 + 1) % classes)
    passed = torch.rand(len(truth)) < 0.5 + 0.05 * (predicted % 10)
    made.count([PseudoLabelStats(torch.arange(len(truth)), predicted, passed)], ALONE)
    return made


def picture() -> Picture:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 24, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((960, 240), Image.Resampling.NEAREST).save(buffer, format="png")
    return Picture("Reconstructions", "Visible patches, the decoder's picture, the image.", buffer.getvalue())


def report(folder: Path, classes: int = 10) -> Path:
    recipe = Recipe(Settings(), name="semi_mae:digits", run=Run(oracle=True))
    os.close(claim(folder, recipe))
    write_environment(folder, ALONE)
    return write_report(
        folder,
        recipe_name=recipe.name,
        rows=rows(),
        final=[("top-1, held-out images", "93.1 %"), ("k nearest neighbours", "90.0 %"), ("images", "360")],
        pictures=[picture()],
        verdict=verdict(*speed(rows()), device="CPU"),
        labelled=50,
        pseudo_labels=counts(classes),
    )


if __name__ == "__main__":
    print(report(Path(sys.argv[1]), int(sys.argv[2])))
