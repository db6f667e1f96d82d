"""A run is measured in float32, whatever precision it trains in."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from models.config.catalogue import catalogue
from models.config.recipe import Run
from models.distributed.precision import precision
from models.evaluate.accuracy import Accuracy
from models.evaluate.distribution_shift import share_wrong
from models.evaluate.knn import Neighbours, features, knn
from models.evaluate.reconstruct import Reconstructions
from models.full_precision import full_precision
from models.load import Loaded, load_run
from pipeline.evaluation.sweep import sweep
from pipeline.labels.splits import known_labels, load_split
from pipeline.store.beton import open_beton

CPU = torch.device("cpu")
FAMILIES = sorted(name for name, _ in catalogue() if name.endswith(":digits"))
SHORT = ["--run.precision=bfloat16", "--optim.epochs=2", "--optim.warmup-epochs=0", "--optim.epoch-unit=step"]
WITH_REPORT = "semi_mae:digits"  # has each of the report's sections; plotting takes longer than training


def test_measuring_is_outside_autocast_and_tf32_and_gives_both_back():
    torch.set_float32_matmul_precision("high")
    try:
        with precision(Run(precision="bfloat16"), CPU):
            with full_precision(CPU):
                assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
                assert torch.get_float32_matmul_precision() == "highest"
                assert not torch.backends.cudnn.allow_tf32
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        with pytest.raises(KeyError), full_precision(CPU):
            raise KeyError
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")


def test_scores_that_differ_beyond_eight_bits_are_told_apart():
    weight = nn.Parameter(torch.tensor([[1.0, 1.0 + 2**-12]]))  # bfloat16 makes both 1: a tie, for the first
    method = SimpleNamespace(parameters=lambda: iter([weight]), logits=lambda images: images.float()[:, :1] @ weight)
    loaded = SimpleNamespace(method=method, recipe=SimpleNamespace(run=Run(precision="bfloat16")))
    with precision(loaded.recipe.run, CPU):
        wrong, _ = share_wrong(loaded, [(torch.ones(3, 1), np.ones(3, np.int64))], np.arange(2))
    assert wrong == 0


@pytest.mark.parametrize("recipe", FAMILIES)
def test_every_family_trained_in_half_precision_ends_and_is_measured_in_float32(recipe, tiny, tmp_path, soft_labels):
    folder = tmp_path / "run"
    flags = [*SHORT, *(["--run.knn"] if "semiformer" not in recipe else [])]
    flags += [f"--method.labels={soft_labels}"] if "selftrain" in recipe else []
    assert tiny(recipe, folder, *flags, report=recipe == WITH_REPORT) == 0
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (values,) = (row["values"] for row in rows if row.get("evaluation") == "val")
    loaded = load_run(folder, CPU)
    assert set(values) == ({"top1", "top5"} if loaded.method.has_classifier else set()) | (
        {"knn"} if "semiformer" not in recipe else set()
    )
    plain = measured_plainly(loaded)
    assert {name: values[name] for name in plain} == pytest.approx(plain, abs=1e-9)
    if recipe == WITH_REPORT:
        for evaluator in (Accuracy(), Neighbours(k=(20,)), Reconstructions(ratios=(0.75,), measured=8)):
            half, single = (evaluator.run(each).values for each in (loaded, trained_in_float32(loaded)))
            assert half == single


def measured_plainly(loaded: Loaded) -> dict[str, float]:
    """Shares of val's images outside any autocast."""
    data = loaded.recipe.data
    betons = [open_beton(Path(data.root) / file) for file in (data.val, data.train)]
    labels = [known_labels(betons[0], None), known_labels(betons[1], load_split(betons[1], data.split))]
    ids = [np.asarray(each.ids) for each in labels]
    images = [torch.cat(list(sweep(data, beton, CPU, of, 256))) for beton, of in zip(betons, ids, strict=True)]
    wanted, known = (torch.from_numpy(each[of]) for each, of in zip(labels, ids, strict=True))
    values = {}
    if loaded.method.has_classifier:
        values["top1"] = float((loaded.method.logits(images[0]).argmax(1) == wanted).double().mean())
    if isinstance(loaded.method.eval_encoder, VisionTransformer):
        queries, bank = (features(loaded.method.eval_encoder, [each]) for each in images)
        assert queries.dtype == torch.float32
        values["knn"] = knn(bank, known, queries, wanted)
    return values


def trained_in_float32(loaded: Loaded) -> Loaded:
    recipe = loaded.recipe
    return replace(loaded, recipe=replace(recipe, run=replace(recipe.run, precision="float32")))
