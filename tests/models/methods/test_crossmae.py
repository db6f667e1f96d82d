"""CrossMAE's own forward against its definition, and MAE's with other targets; what neither can mean is refused."""

import pytest
import torch
import torch.nn.functional as F

from models.bench.baselines import plain_decode, plain_visible_tokens
from models.config.resolve import named, resolve
from models.encoder.patches import hidden_from_visible, patchify
from models.factory import method_class
from models.masked.crossmae import drawn
from models.masked.mae import predicted_ids
from models.method import StepInfo
from models.optim.build import build_optimiser
from models.optim.schedule import Pools, learning_rate, run_length
from pipeline.batch import Batch, Unlabelled
from pipeline.errors import InputError

LATER, PATCHES = StepInfo(7, labels_only=False), 16
TINY = ["--encoder.width=32", "--encoder.depth=2", "--encoder.heads=2"]


def method_of(name: str, *flags: str):
    torch.manual_seed(0)
    recipe = resolve(name, [*TINY, *flags])
    method = method_class(recipe)(recipe, 10).double().train()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return method, recipe


def batch_of(n: int = 6) -> Batch:
    g = torch.Generator().manual_seed(0)
    images = torch.randn(n, 3, 16, 16, generator=g, dtype=torch.float64)
    visible = torch.rand(n, PATCHES, generator=g).argsort(1)[:, :8].sort(1).values
    return Batch(0, None, Unlabelled(torch.arange(n) + 100, images, None, visible))


@pytest.mark.parametrize("every_layer", [True, False])
def test_crossmae_is_the_pixel_loss_of_the_patches_that_were_drawn(every_layer):
    method, recipe = method_of(
        "crossmae:digits", f"--method.reconstruct.{'' if every_layer else 'no-'}every-layer", "--run.seed=3"
    )
    u, encoder = batch_of().unlabelled, method.encoder
    x = encoder._pos_embed(encoder.patch_embed(u.weak))
    x = torch.cat([x[:, :1], x[:, 1:].gather(1, u.visible[..., None].expand(-1, -1, 32))], 1)
    layers = [x]
    for block in encoder.blocks:
        layers.append(block(layers[-1]))
    layers[-1] = encoder.norm(layers[-1])
    asked = drawn(hidden_from_visible(u.visible, PATCHES), 4, u.ids, LATER.step, 3)
    predicted = method.branch.decoder(layers if every_layer else layers[-1:], asked)
    truth = patchify(u.weak, 4).gather(1, asked[..., None].expand(-1, -1, 48))
    loss = method(batch_of(), LATER)
    torch.testing.assert_close(loss.total, (predicted - truth).square().mean(), rtol=1e-11, atol=1e-12)
    trained = [p for p in method.parameters() if p.requires_grad]
    assert all(g is not None for g in torch.autograd.grad(loss.total, trained, allow_unused=True))
    assert recipe.method.reconstruct.predict == 0.25


def test_half_a_batch_predicts_the_patches_that_the_whole_batch_would():
    method, _ = method_of("crossmae:digits")
    whole, u = method(batch_of(), LATER).total, batch_of().unlabelled
    halves = [Batch(0, None, Unlabelled(u.ids[s], u.weak[s], None, u.visible[s])) for s in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(torch.stack([method(half, LATER).total for half in halves]).mean(), whole)
    assert method(batch_of(), StepInfo(8, labels_only=False)).total != whole


@pytest.mark.parametrize("name", ["mae:digits", "crossmae:digits"])
@pytest.mark.parametrize("kind", ["pca", "tokens"])
def test_other_targets_train_hold_their_state_and_give_pictures(name, kind, target_files):
    flags = [f"--method.reconstruct.target={kind}", f"--method.reconstruct.target-file={target_files[kind]}"]
    method, recipe = method_of(name, *flags)
    held = {key for key in method.state_dict() if ".target." in key}
    assert held == {f"branch.target.{key}" for key in
                    (("mean", "basis", "scale") if kind == "pca" else ("tokenizer.codebook",))}  # fmt: skip
    stepped = {id(p) for group in build_optimiser(method, recipe.optim).param_groups for p in group["params"]}
    assert stepped == {id(p) for p in method.parameters() if p.requires_grad}
    assert all(p.requires_grad for p in method.branch.parameters())  # a target's state is in buffers
    loss = method(batch_of(), LATER)
    assert set(loss.parts) == {kind}  # the journal calls it what it is
    loss.total.backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    u = batch_of().unlabelled
    assert method.branch.predict(method.encoder, u.weak, u.visible).shape == (6, 8, 48)
    other, _ = method_of(name, *flags)
    other.load_state_dict(method.state_dict())


@pytest.mark.parametrize("kind", ["pca", "tokens"])
def test_maes_loss_on_other_targets_is_its_equation_over_plain_forwards(kind, target_files):
    flags = [f"--method.reconstruct.target={kind}", f"--method.reconstruct.target-file={target_files[kind]}"]
    method, _ = method_of("mae:digits", *flags)
    u, target = batch_of().unlabelled, method.branch.target
    predicted = plain_decode(method.branch.decoder, plain_visible_tokens(method.encoder, u.weak, u.visible), u.visible)
    ids = predicted_ids(u.visible, PATCHES)
    predicted, truth = (
        x.gather(1, ids[..., None].expand(-1, -1, x.shape[2])) for x in (predicted, patchify(u.weak, 4))
    )
    if kind == "pca":
        expected = (predicted - (truth - target.mean) @ target.basis / 2).square().mean()
    else:
        rgb = torch.tensor([0.229, 0.224, 0.225]).repeat(16), torch.tensor([0.485, 0.456, 0.406]).repeat(16)
        codes = torch.cdist(truth * rgb[0] + rgb[1], target.tokenizer.codebook.expand(6, -1, -1)).argmin(-1)
        expected = F.cross_entropy(predicted.flatten(0, 1), codes.flatten())
    torch.testing.assert_close(method(batch_of(), LATER).total, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["crossmae:in1k_b16", "crossmae:in1k_s16"])
def test_the_rate_on_imagenet_is_that_of_the_readmes_command(name):
    """--blr 1.5e-4 at 4 x 1,024 images, times --kept_mask_ratio over --mask_ratio."""
    recipe = named(name)
    run = run_length(recipe.optim, Pools(0, 1_280_000, 0, recipe.data.batch))
    found = learning_rate(run.warmup_steps, run, recipe.optim, recipe.data.batch)
    assert found == pytest.approx(1.5e-4 * 4 * 1024 / 256 * 0.25 / 0.75)


def test_what_crossmae_cannot_do_is_refused_in_a_line():
    wrong = {
        "predict is 0.6 of all patches, of which only 0.5 are hidden": ["--method.reconstruct.predict=0.6"],
        "a share of 0.05 of 16 patches is none": ["--method.reconstruct.predict=0.05"],
        "crossmae reads masks of kind random, block, grid, unit, got window": ["--data.mask.kind=window"],
    }
    for said, flags in wrong.items():
        with pytest.raises(InputError, match=said):
            method_of("crossmae:digits", *flags)
    with pytest.raises(InputError, match=r"method.reconstruct.predict is 1.5, expected from 0 to 1"):
        resolve("crossmae:digits", ["--method.reconstruct.predict=1.5"])
    method_of("crossmae:digits", "--method.reconstruct.predict=0.5")  # all that are hidden
    with pytest.raises(InputError, match="branch mae reads masks of kind"):
        method_of("mae:digits", "--data.mask.kind=window")
