import pytest
import torch

from models.masked.targets.file import write


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
