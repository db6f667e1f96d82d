from pathlib import Path

import numpy as np
import pytest
import torch

from models.masked.targets.file import write
from models.pseudo_labels.label_file import LabelFile, write_labels
from pipeline.store.beton import open_beton


@pytest.fixture(scope="session")
def target_files(tmp_path_factory) -> dict[str, str]:
    """Of patches of 4 pixels: a basis of 5 of 48 coefficients (pca), a codebook of 9 patches (tokens)."""
    folder, g = tmp_path_factory.mktemp("files"), torch.Generator().manual_seed(2)
    basis = torch.linalg.qr(torch.randn(48, 5, generator=g)).Q
    known = {"mean": torch.randn(48, generator=g), "basis": basis, "scale": torch.full((5,), 2.0)}
    rgb = {"mean_rgb": [0.485, 0.456, 0.406], "std_rgb": [0.229, 0.224, 0.225]}
    write(folder / "pca.pt", "pca", {**known, **rgb, "patch": 4})
    write(folder / "vq.pt", "vq", {"codebook": torch.rand(9, 48, generator=g), "patch": 4})
    return {"pca": str(folder / "pca.pt"), "tokens": str(folder / "vq.pt")}


@pytest.fixture(scope="session")
def soft_labels(tmp_path_factory, digits) -> Path:
    """A file of random soft labels of the digits' training images."""
    path, beton = tmp_path_factory.mktemp("soft") / "labels.json", open_beton(digits / "train.beton")
    scores = torch.randn(beton.n, 10, generator=torch.Generator().manual_seed(0))
    facts = LabelFile(beton.digest, beton.n, beton.manifest.classes or (), "probabilities", 1.0, (), ())
    write_labels(path, facts, scores.softmax(-1).numpy().astype(np.float16))
    return path
