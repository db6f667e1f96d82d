"""Votes of neighbours against a slow loop, and on features whose geometry says the answer."""

import math

import pytest
import timm
import torch
from torch.nn.functional import normalize

from models.encoder.vit import Size, build_encoder
from models.evaluate import knn as module
from models.evaluate.knn import TEMPERATURE, features, knn
from models.export.export_format import as_input, images_like
from models.export.to_timm import ToTimm
from models.load import load_run


def directions(degrees: list[float]) -> torch.Tensor:
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1).float()


def slow(known, known_labels, asked, asked_labels, k: int) -> float:
    right = 0
    for vector, label in zip(asked.tolist(), asked_labels.tolist(), strict=True):
        similar = [(sum(a * b for a, b in zip(vector, other, strict=True)), int(c))
                   for other, c in zip(known.tolist(), known_labels, strict=True)]  # fmt: skip
        votes: dict[int, float] = {}
        for cosine, c in sorted(similar, reverse=True)[:k]:
            votes[c] = votes.get(c, 0) + math.exp(cosine / TEMPERATURE)
        right += max(votes, key=votes.get) == label
    return right / len(asked)


@pytest.mark.parametrize("k", [1, 5, 20, 1000])
def test_knn_is_the_slow_loop(k, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 16)  # the last chunk is a part of one
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 6, generator=generator)
    known_labels, asked_labels = (torch.randint(4, (n,), generator=generator) for n in (50, 37))
    known, asked = (
        normalize(centres[labels] + 1.5 * torch.randn(len(labels), 6, generator=generator), dim=1)
        for labels in (known_labels, asked_labels)
    )
    found = knn(known, known_labels, asked, asked_labels, k)
    assert found == slow(known, known_labels, asked, asked_labels, k)
    assert 0.25 < found < 1


def test_a_near_neighbour_outvotes_two_far_ones():
    """exp(cos 0) against two of exp(cos 60): e^14.3 against 2 e^7.1; at 1 degree apart, two outvote one."""
    asked, label = directions([0]), torch.tensor([0])
    labels = torch.tensor([0, 1, 1])
    assert knn(directions([0, 60, -60]), labels, asked, label, k=3) == 1.0
    assert knn(directions([1, 1.1, -1.1]), labels, asked, label, k=3) == 0.0
    assert knn(directions([1, 1.1, -1.1]), labels, asked, label, k=1) == 1.0


def test_clusters_apart_are_told_apart_and_strange_labels_are_not_found():
    known = directions([0, 5, -5, 90, 95, 85, 180, 185, 175])
    labels = torch.arange(9) // 3
    asked = directions([2, 92, 178])
    assert knn(known, labels, asked, torch.tensor([0, 1, 2])) == 1.0
    assert knn(known, labels, asked, torch.tensor([0, 1, 7])) == pytest.approx(2 / 3)  # no neighbour has class 7


def test_features_are_the_normed_mean_of_the_patch_tokens():
    torch.manual_seed(0)
    vit = build_encoder(Size(24, 2, 3), image_size=16, patch=4, classes=0)
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    vit.train()
    found = features(vit, images.split(2))
    assert vit.training
    vit.eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        tokens = vit.forward_features((images / 255 - mean) / std)[:, vit.num_prefix_tokens :]
    expected = tokens.mean(1)
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5))


@pytest.mark.parametrize(("pool", "fc_norm", "tokens"), [
    ("token", False, "token"), ("avg", False, "avg"), ("avg", True, "avg"), ("token", True, "token"),
])  # fmt: skip
def test_features_are_what_timms_classifier_reads(pool, fc_norm, tokens):
    torch.manual_seed(0)
    vit = build_encoder(Size(24, 2, 3), image_size=16, patch=4, classes=7, pool=pool, fc_norm=fc_norm).eval()
    norm = vit.fc_norm if fc_norm else vit.norm
    for each in (norm.weight, norm.bias):
        torch.nn.init.normal_(each)  # one that has learned, or a norm would hardly be missed
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3,
                               num_classes=7, global_pool=pool, fc_norm=fc_norm).eval()  # fmt: skip
    theirs.load_state_dict(vit.state_dict())
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        read = theirs.forward_head(theirs.forward_features((images / 255 - mean) / std), pre_logits=True)
    torch.testing.assert_close(features(vit, [images], tokens), normalize(read, dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", ["supervised:digits", "finetune:digits"])
def test_features_of_a_run_are_those_of_its_export(recipe, trained, tmp_path):
    loaded = load_run(trained(recipe))
    ToTimm().write(loaded, tmp_path)
    theirs, images = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval(), images_like(loaded)
    pool = loaded.method.eval_encoder.global_pool
    with torch.inference_mode():
        read = theirs.forward_head(theirs.forward_features(as_input(loaded, images)), pre_logits=True)
    found = features(loaded.method.eval_encoder, [images], pool)
    torch.testing.assert_close(found, normalize(read, dim=1), rtol=1e-4, atol=1e-5)
