"""Linear probes: features of known geometry, a frozen encoder, resumes to the bit, and one plain ViT to take home."""

import sys

import pytest
import timm
import torch
from torch import nn

from models.checkpoint import save_load
from models.config.recipe import Encoder, Optim, Recipe, Run
from models.encoder.heads import folded, probe_head
from models.encoder.vit import eval_logits
from models.export import __main__ as export
from models.export.export_format import as_input, images_like
from models.export.to_timm import ToTimm
from models.load import Loaded, load_run
from models.method import Method, StepInfo
from models.methods.probe import Probe, Settings, digits
from models.optim.build import build_optimiser
from models.optim.update import set_lr
from models.pretrained import load_encoder
from pipeline.batch import Batch, Labelled
from pipeline.errors import InputError
from pipeline.spec import Data
from tests.conftest import rows, same, weights

DOUBLE = torch.float64


def small(block: int | None = None, pool: str = "token", **run: object) -> Recipe:
    encoder = Encoder(None, width=24, depth=3, heads=3, patch=4, pool=pool, drop_path=0.5)
    return Recipe(Settings(block), Data(size=16), encoder, Optim(kind="lars"), Run(**run))


def made(recipe: Recipe, classes: int = 5) -> Probe:
    torch.manual_seed(0)
    return Probe(recipe, classes).train()


def images(n: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def blobs(classes: int = 4, each: int = 15) -> tuple[torch.Tensor, torch.Tensor]:
    """Far apart in one direction each, beside a direction that is a hundred times as wide and says nothing."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat(each)
    points = 0.3 * torch.randn(len(labels), classes + 1, generator=generator, dtype=DOUBLE)
    points[torch.arange(len(labels)), labels] += 3
    points[:, -1] *= 100
    return points, labels


def learned(points: torch.Tensor, labels: torch.Tensor, kind: str) -> nn.Sequential:
    torch.manual_seed(0)
    head = probe_head(points.shape[1], 4).double()
    made = build_optimiser(head, Optim(kind=kind, weight_decay=0.0))
    for step in range(40):
        set_lr(made, {"lars": 20.0, "sgd": 0.3, "adamw": 0.1}[kind] * (1 - step / 40))
        made.zero_grad()
        nn.functional.cross_entropy(head(points), labels).backward()
        made.step()
    return head


@pytest.mark.parametrize("kind", ["lars", "sgd", "adamw"])
def test_separable_blobs_are_told_apart_by_every_optimiser(kind):
    points, labels = blobs()
    head = learned(points, labels, kind)
    assert (head(points).argmax(1) == labels).all()
    assert (head.eval()(points).argmax(1) == labels).all()


@pytest.mark.parametrize(("scale", "shift"), [(1e3, 0.0), (30.0, -500.0)])
def test_neither_scale_nor_origin_of_the_features_matters(scale, shift):
    points, labels = blobs()
    others = points * scale + shift
    scores = learned(points, labels, "lars")(points)
    torch.testing.assert_close(learned(others, labels, "lars")(others), scores, rtol=1e-5, atol=1e-6)


def test_the_head_starts_as_mae_says():
    norm, linear = probe_head(4000, 50)
    assert (norm.eps, norm.affine) == (1e-6, False)
    assert float(linear.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert not linear.bias.any()


def test_a_folded_head_is_the_head_as_it_evaluates():
    points, labels = blobs()
    head = learned(points + 7, labels, "lars").eval()
    one = folded(head)
    assert isinstance(one, nn.Linear)
    torch.testing.assert_close(one((points + 7).float()), head(points + 7).float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("block", [None, 1, 3])
def test_features_are_the_tokens_of_the_asked_block(pool, block):
    probe = made(small(block, pool))
    torch.manual_seed(0)
    whole, seen = Method.build(small(), 5).eval(), []
    whole.load_state_dict({n: t for n, t in probe.encoder.state_dict().items() if "head" not in n}, strict=False)
    whole.blocks[(block or 3) - 1].register_forward_hook(lambda *args: seen.append(args[2]))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    normed = whole.forward_features((images(4) / 255 - mean) / std)
    tokens = normed if block is None else seen[0]
    expected = tokens[:, 0] if pool == "token" else tokens[:, 1:].mean(1)
    torch.testing.assert_close(probe.features(images(4)), expected, rtol=1e-4, atol=1e-5)
    assert len(probe.encoder.blocks) == (block or 3)


def test_a_probe_of_a_block_starts_from_the_whole_encoder_and_reads_its_features(tmp_path):
    whole, probe = Method.build(small(), 0), made(small(1))
    save_load.save(tmp_path, {"method": {f"encoder.{name}": t for name, t in whole.state_dict().items()}})
    load_encoder(probe, tmp_path / "last.pt")
    seen = []
    whole.eval().blocks[0].register_forward_hook(lambda *args: seen.append(args[2]))
    eval_logits(whole, images(2))
    (packed,) = seen
    torch.testing.assert_close(probe.features(images(2)), packed.view(2, -1, 24)[:, 0], rtol=1e-4, atol=1e-5)


def test_only_the_head_has_a_graph_and_only_it_trains():
    probe = made(small())
    assert [name for name, p in probe.named_parameters() if p.requires_grad] == [
        "encoder.head.1.weight", "encoder.head.1.bias"]  # fmt: skip
    assert [name for name, part in probe.encoder.named_modules() if part.training] == ["head", "head.0", "head.1"]
    assert not any(part.training for part in probe.eval().modules())
    probe.train()
    assert not probe.features(images(3)).requires_grad
    assert torch.equal(probe.features(images(3)), probe.features(images(3)))  # no path is dropped
    batch = Batch(0, Labelled(torch.arange(3), images(3), torch.arange(3)), None)
    saved: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        loss = probe(batch, StepInfo(0, False)).total
    assert max(shape.numel() for shape in saved) <= 5 * 24  # nothing of a block is kept for a backward pass
    loss.backward()


def test_training_norms_by_the_batch_and_judging_by_what_was_seen():
    probe = made(small())
    before = eval_logits(probe.eval_encoder, images(1))
    features = probe.features(images(8))
    for _ in range(100):
        probe.encoder.head(features)
    after = eval_logits(probe.eval_encoder, images(8))
    assert not torch.equal(before, after[:1])
    torch.testing.assert_close(after, probe.encoder.head(features).detach(), rtol=0.1, atol=0.02)


@pytest.fixture(scope="module")
def start(trained) -> str:
    return f"--run.start={trained('mae:digits') / 'last.pt'}"


def test_a_probe_leaves_the_encoder_bit_for_bit_resumes_and_goes_home_to_timm(
    start, trained, tiny, tmp_path, capsys, monkeypatch
):
    flags, whole, parts, home = (start, "--optim.clip=0.5"), *(tmp_path / name for name in ("whole", "parts", "home"))
    assert tiny("probe:digits", whole, *flags, report=True) == 0
    assert "random features" not in capsys.readouterr().out
    held, before = weights(whole), weights(trained("mae:digits"))
    encoder = {name: tensor for name, tensor in held.items() if not name.startswith("encoder.head.")}
    assert same(encoder, {name: before[name] for name in encoder})
    assert len(encoder) > 20
    assert "top1" in rows(whole)[-1]["values"]

    assert tiny("probe:digits", parts, *flags, "--run.stop-step=5") == 75
    assert tiny("probe:digits", parts, *flags) == 0
    assert same(weights(parts), held)
    assert rows(parts) == rows(whole)

    monkeypatch.setattr(sys, "argv", ["models.export", str(whole), "--out", str(home)])
    export.main()
    assert "when loaded with timm" in capsys.readouterr().out
    loaded = load_run(whole)
    model = timm.create_model(f"local-dir:{home}", pretrained=True).eval()
    assert isinstance(model.head, nn.Linear)
    with torch.inference_mode():
        theirs = model(as_input(loaded, images_like(loaded)))
        torch.testing.assert_close(theirs, loaded.method.logits(images_like(loaded)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block", [1, 2])
def test_a_probe_of_a_block_goes_home_without_what_comes_after_it(block, tmp_path):
    probe, form = made(small(block)), ToTimm()
    probe.encoder.head(probe.features(images(8)))
    loaded = Loaded(tmp_path / "last.pt", small(block), probe.eval(), tuple("abcde"), 0)
    form.write(loaded, tmp_path)
    checked = form.check(loaded, tmp_path)
    assert checked.difference <= form.tolerance + checked.rounding
    assert len(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).blocks) == block


def test_random_features_are_called_so():
    assert "run.start is absent" in made(digits(), 10).startup_note()
    assert made(small(start="last.pt")).startup_note() is None


@pytest.mark.parametrize(("flag", "said"), [
    ("--method.block=3", "method.block is 3, the encoder has 2; lower it"),
    ("--method.block=0", "method.block is 0, expected at least 1"),
    ("--data.batch=1", "expected 2 images or more at once on each rank, got 1 .*--data.batch to 2 or more"),
    ("--run.device-images=1", "expected 2 images or more at once on each rank, got 1 .*device-images to 2 or more"),
    ("--optim.trust=0", "optim.trust is 0, expected above 0"),
    ("--optim.momentum=1", "optim.momentum is 1, expected from 0 to below 1"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_a_line(flag, said, tiny, tmp_path):
    with pytest.raises(InputError, match=said) as refused:
        tiny("probe:digits", tmp_path / "run", flag)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()
