"""Files of targets, the commands that write them, and what is said of wrong ones."""

import sys
from pathlib import Path

import pytest
import torch

from models.config.resolve import named
from models.config.sweep import changed
from models.encoder.patches import IMAGENET, Normalisation
from models.factory import method_class
from models.masked import fit_pca, fit_vq
from models.masked.targets.build import build_target
from models.masked.targets.file import check_out, read, write
from models.masked.targets.pca import load_pca
from models.records.metrics import read as read_metrics
from pipeline.errors import InputError


def run(monkeypatch, command, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["fit", *arguments])
    command.main()


@pytest.fixture(scope="module")
def fitted(digits, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("targets")
    with pytest.MonkeyPatch.context() as patch:
        common = [str(digits / "train.beton"), "--recipe", "mae:digits", "--images", "100"]
        run(patch, fit_pca, *common, "--coefficients", "9", "--out", str(folder / "pca.pt"))
        run(patch, fit_vq, *common, "--codes", "8", "--patches", "500", "--out", str(folder / "vq.pt"))
    return folder


def test_fitted_files_make_targets_whose_loss_falls_with_what_they_know(fitted):
    x = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    ids = torch.arange(16).expand(2, -1)
    for kind, file, width in (("pca", "pca.pt", 9), ("tokens", "vq.pt", 8)):
        made = build_target(kind, str(fitted / file), 4, IMAGENET)
        assert made.width == width
        predicted = torch.zeros(2, 16, width, requires_grad=True)
        loss = made.loss(predicted, x, ids)
        better = predicted - torch.autograd.grad(loss, predicted)[0]
        assert made.loss(better, x, ids) < loss
        assert made.to_pixels(predicted, x, ids).shape == (2, 16, 48)


BESIDE = "semi_mae:digits", "semi_mae:digits_simmim", "semi_mae:digits_lomar", "supmae:digits", "semiformer:digits_mae"


@pytest.mark.parametrize("name", BESIDE)
def test_a_loss_beside_others_is_called_what_its_target_is(name, fitted):
    for kind, file, said in (("norm_pix", None, "pixels"), ("pca", "pca.pt", "pca"), ("tokens", "vq.pt", "tokens")):
        recipe = changed(named(name), {"method.reconstruct.target": kind})
        if file:
            recipe = changed(recipe, {"method.reconstruct.target_file": str(fitted / file)})
        with torch.device("meta"):
            method = method_class(recipe)(recipe, 10)
        assert method.branch.target.name == said


def test_a_run_on_tokens_says_so_on_the_terminal_and_in_its_journal(tiny, fitted, tmp_path, capsys):
    flags = "--method.reconstruct.target=tokens", f"--method.reconstruct.target-file={fitted / 'vq.pt'}"
    assert tiny("semi_mae:digits", tmp_path, *flags, "--optim.epochs=3", report=True) == 0
    (row,) = [row for row in read_metrics(tmp_path) if "parts" in row]
    assert set(row["parts"]) == {"label", "pseudo", "tokens"}
    assert 0 < row["parts"]["tokens"] < 3 * torch.tensor(8.0).log()  # codes: a cross-entropy over eight
    said = capsys.readouterr().out
    assert f"tokens {row['parts']['tokens']:.4f}" in said
    assert "pixels" not in said
    assert (tmp_path / "report.html").exists()


def test_a_fit_of_the_same_images_is_the_same(fitted, digits, monkeypatch, tmp_path, capsys):
    out = str(tmp_path / "again.pt")
    common = [str(digits / "train.beton"), "--recipe", "mae:digits", "--images", "100", "--out", out]
    run(monkeypatch, fit_vq, *common, "--codes", "8", "--patches", "500")
    assert torch.equal(read(out, "vq")["codebook"], read(str(fitted / "vq.pt"), "vq")["codebook"])
    assert "8 codes explain" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["again.pt"]


@pytest.mark.parametrize(("more", "kept"), [((), 6), (("--patch", "2"), 1), (("--patch", "8"), 24)])
def test_an_eighth_of_the_components_is_kept_where_nothing_is_said(digits, monkeypatch, tmp_path, more, kept):
    """MAE: 96 of 16 x 16 x 3."""
    out = str(tmp_path / "pca.pt")
    run(monkeypatch, fit_pca, str(digits / "train.beton"), "--recipe", "mae:digits", "--out", out, *more)
    assert read(out, "pca")["basis"].shape[1] == kept


def test_the_embedded_digits_are_written_for_whoever_fits_on_them_first(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    file = "data/digits/train.beton", "--recipe", "mae:digits", "--images", "20"
    run(monkeypatch, fit_vq, *file, "--codes", "4", "--out", "data/digits/vq.pt")
    assert read("data/digits/vq.pt", "vq")["codebook"].shape == (4, 48)


def test_wrong_flags_are_refused_in_a_line_and_nothing_is_written(digits, monkeypatch, tmp_path):
    file, recipe = str(digits / "train.beton"), ("--recipe", "mae:digits")
    out = ("--out", str(tmp_path / "x.pt"))
    wrong = {
        "patches of 4 pixels have 1 to 48": (fit_pca, file, *recipe, *out, "--coefficients", "49"),
        "vary in 16 directions only": (fit_pca, file, *recipe, *out, "--coefficients", "17", "--images", "20"),
        "no such file": (fit_pca, str(tmp_path / "none.beton"), *out),
        "patches of 5 pixels do not divide": (fit_pca, file, *recipe, *out, "--patch", "5"),
        "--images, --size and --patch are 1 or more, got 0": (fit_pca, file, *recipe, *out, "--images", "0"),
        "no recipe is called 'mae:digit'": (fit_pca, file, "--recipe", "mae:digit", *out),
        "is no folder": (fit_pca, file, *recipe, "--out", str(tmp_path / "none" / "x.pt")),
        "x.pt: nothing can be written in /proc": (fit_pca, file, *recipe, "--out", "/proc/x.pt"),
        "y.pt: nothing can be written in /proc": (fit_vq, file, *recipe, "--out", "/proc/y.pt"),
        "--codes is 2 or more": (fit_vq, file, *recipe, *out, "--codes", "1"),
        "512 codes need as many patches, got 32": (fit_vq, file, *recipe, *out, "--images", "2"),
    }
    for said, (command, *arguments) in wrong.items():
        with pytest.raises(InputError, match=said):
            run(monkeypatch, command, *arguments)
    assert not list(tmp_path.iterdir())


def test_files_that_are_none_or_do_not_fit_are_refused_in_a_line(fitted, tmp_path):
    pca, vq, torn = str(fitted / "pca.pt"), str(fitted / "vq.pt"), tmp_path / "torn.pt"
    torn.write_bytes(Path(pca).read_bytes()[:-200])
    other = tmp_path / "other.pt"
    torch.save({"weights": torch.zeros(1)}, other)
    wrong = {
        "target_file is None; name one, made with `python -m models.masked.fit_pca`": ("pca", None, 4),
        "target_file is None; name one, made with `python -m models.masked.fit_vq`": ("tokens", None, 4),
        "No such file": ("pca", str(tmp_path / "none.pt"), 4),
        "is not of this target; make one with `python -m models.masked.fit_pca`": ("pca", vq, 4),
        "is not of this target; make one with `python -m models.masked.fit_vq`": ("tokens", str(other), 4),
        "is damaged or no file of a target; make it with `python -m models.masked.fit_pca`": ("pca", str(torn), 4),
        "of patches of 4 pixels, the encoder's have 8; fit it with `python -m models.masked.fit_pca`": ("pca", pca, 8),
        "target pixel reads none": ("pixel", pca, 4),
    }
    for said, (kind, file, patch) in wrong.items():
        with pytest.raises(InputError, match=said):
            build_target(kind, file, patch, IMAGENET)
    with pytest.raises(InputError, match="normalised otherwise"):
        load_pca(pca, 4, Normalisation((0.5,) * 3, (0.5,) * 3))


def test_a_disk_that_refuses_ends_in_a_line(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "none" / "x.pt", "vq", {})
    with pytest.raises(InputError, match="is a folder"):
        check_out(str(tmp_path))
    assert check_out(str(tmp_path / "x.pt")).name == "x.pt"
