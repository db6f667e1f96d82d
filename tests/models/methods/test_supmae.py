"""Every variant of SupMAE is its equation in float64, trains what it needs and nothing else, and refuses the rest."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.bench.baselines import plain_mae, plain_visible_tokens
from models.config.resolve import resolve
from models.encoder.patches import hidden_from_visible, patchify
from models.masked.mae import Decoder
from models.method import StepInfo
from models.methods.supmae import SupMAE
from pipeline.batch import Batch, Labelled, Unlabelled
from pipeline.errors import InputError

CLASSES, PATCHES, KNOWN, MORE = 10, 16, 4, 5
INFO = StepInfo(100, labels_only=False)
TINY = ["--encoder.width=32", "--encoder.depth=2", "--encoder.heads=2", "--method.class-weight=0.3",
        "--method.temperature=10", "--method.reconstruct.target=norm_pix"]  # fmt: skip


def method_of(*flags: str, name: str = "supmae:digits") -> SupMAE:
    torch.manual_seed(0)
    method = SupMAE(resolve(name, [*TINY, *flags]), CLASSES).double().train()
    with torch.no_grad():
        for parameter in method.parameters():  # away from zero biases and equal norms
            parameter.add_(0.05 * torch.randn_like(parameter))
    return method


def batch_of(visible: int = 8) -> Batch:
    g = torch.Generator().manual_seed(0)

    def images(n: int) -> torch.Tensor:
        return torch.randn(n, 3, 16, 16, generator=g, dtype=torch.float64)

    def seen(n: int) -> torch.Tensor:
        return torch.rand(n, PATCHES, generator=g).argsort(1)[:, :visible].sort(1).values

    labels = torch.randint(0, CLASSES, (KNOWN,), generator=g)
    labelled = Labelled(torch.arange(KNOWN), images(KNOWN), labels, seen(KNOWN))
    return Batch(0, labelled, Unlabelled(torch.arange(MORE), images(MORE), None, seen(MORE)))


def gradients(loss: torch.Tensor, module: nn.Module) -> dict[str, torch.Tensor]:
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, trained.values(), allow_unused=True, retain_graph=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(trained.items(), found, strict=True)}


def assert_same(ours: torch.Tensor, paper: torch.Tensor, method: nn.Module) -> None:
    torch.testing.assert_close(ours, paper, rtol=1e-12, atol=1e-12)
    mine, other = gradients(ours, method), gradients(paper, method)
    for name, gradient in other.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize("unlabelled", [False, True])
@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("objective", ["both", "rec", "cls"])
def test_each_objective_is_its_equation_with_a_label_of_minus_100_where_none_is(objective, pool, unlabelled):
    if objective == "cls" and unlabelled:
        return
    flags = [f"--method.objective={objective}", f"--method.pool={pool}", "--method.layers=3"]
    method = method_of(*flags, "--method.unlabelled" if unlabelled else "--method.no-unlabelled")
    batch = batch_of()
    images, visible, labels = batch.labelled.images, batch.labelled.visible, batch.labelled.labels
    if unlabelled:
        more = batch.unlabelled
        images, visible = torch.cat([images, more.weak]), torch.cat([visible, more.visible])
        labels = torch.cat([labels, torch.full((MORE,), -100)])
    paper = torch.zeros((), dtype=torch.float64)
    if objective != "cls":
        paper = plain_mae(method.encoder, method.branch.decoder, images, visible, normalise=True)
    if objective != "rec":
        tokens = plain_visible_tokens(method.encoder, images, visible)
        read = tokens[:, 1:].mean(1) if pool == "avg" else tokens[:, 0]
        paper = paper + 0.3 * F.cross_entropy(method.head(read) / 10, labels, ignore_index=-100)
    loss = method(batch, INFO)
    assert_same(loss.total, paper, method)
    assert set(loss.parts) == {"both": {"pixels", "label"}, "rec": {"pixels"}, "cls": {"label"}}[objective]


@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize(("objective", "built"), [("both", {"encoder", "branch", "head"}),
                                                  ("rec", {"encoder", "branch"}),
                                                  ("cls", {"encoder", "head"})])  # fmt: skip
def test_what_an_objective_does_not_need_is_not_built_and_all_that_is_built_learns(objective, built, pool):
    method = method_of(f"--method.objective={objective}", f"--method.pool={pool}")
    found = gradients(method(batch_of(), INFO).total, method)
    assert {name.split(".")[0] for name in found} == built
    # what a batch norm subtracts again has a gradient of 0, up to rounding: the head's first bias, the norm's before it
    still = {name for name, gradient in found.items() if gradient.abs().max() < 1e-12}
    assert still <= {"head.0.bias"} | ({"encoder.norm.bias"} if objective == "cls" else set())
    assert method.has_classifier == (objective != "rec")


def test_classes_only_run_no_decoder(monkeypatch):
    monkeypatch.setattr(Decoder, "forward", None)
    assert method_of("--method.objective=cls")(batch_of(), INFO).total.isfinite()
    with pytest.raises(TypeError):
        method_of()(batch_of(), INFO)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_head_of_so_many_layers_has_so_many_matrices(layers):
    head = method_of(f"--method.layers={layers}", "--method.hidden=24").head
    shapes = [tuple(m.weight.shape) for m in head.modules() if isinstance(m, nn.Linear)]
    assert shapes == {1: [(10, 32)], 2: [(24, 32), (10, 24)], 3: [(24, 32), (24, 24), (10, 24)]}[layers]


def test_its_scores_are_those_that_the_loss_compares_with_labels():
    method, batch = method_of("--method.objective=cls").eval(), batch_of(visible=PATCHES)
    scores = method.logits(batch.labelled.images)
    torch.testing.assert_close(F.cross_entropy(scores, batch.labelled.labels), method(batch, INFO).parts["label"])


def test_unlabelled_images_are_read_only_where_asked_for():
    plain, more = resolve("supmae:digits", []), resolve("supmae:digits", ["--method.unlabelled"])
    assert not SupMAE.needs(plain).unlabelled
    assert not SupMAE.needs(plain).unlabelled_visible
    assert SupMAE.needs(more).unlabelled
    assert SupMAE.needs(more).unlabelled_visible
    assert not SupMAE.needs(more).strong
    method, batch = method_of("--method.unlabelled"), batch_of()
    early = Batch(0, batch.labelled, None)  # a labels-only phase
    torch.testing.assert_close(method(early, INFO).total, method_of()(batch, INFO).total)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_simmim_with_a_classifier_reads_the_visible_tokens_of_an_encoder_that_sees_mask_tokens(pool):
    method, batch = (
        method_of(f"--method.pool={pool}", "--method.reconstruct.target=pixel", name="supmae:digits_simmim"),
        batch_of(),
    )
    labelled, vit, own = batch.labelled, method.encoder, method.branch
    x = vit.patch_embed(labelled.images)
    shown = torch.zeros(x.shape[:2], dtype=torch.bool).scatter(1, labelled.visible, True)[..., None]
    x = torch.where(shown, x, own.mask_token) + vit.pos_embed[:, 1:]
    x = torch.cat([(vit.cls_token + vit.pos_embed[:, :1]).expand(len(x), -1, -1), x], 1)
    tokens = vit.norm(vit.blocks(x))
    error = (own.head(tokens[:, 1:]) - patchify(labelled.images, 4)).abs()
    covered = torch.stack([error[n, ids] for n, ids in enumerate(hidden_from_visible(labelled.visible, PATCHES))])
    pooled = torch.stack([tokens[n, 1 + ids].mean(0) for n, ids in enumerate(labelled.visible)])
    read = pooled if pool == "avg" else tokens[:, 0]
    paper = covered.mean() + 0.3 * F.cross_entropy(method.head(read) / 10, labelled.labels)
    assert_same(method(batch, INFO).total, paper, method)


def test_with_mask_tokens_in_the_encoder_the_head_still_reads_visible_patches_alone():
    method, batch = method_of("--method.reconstruct.encoder-mask-tokens"), batch_of()
    seen = []
    method.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method(batch, INFO)
    labelled, vit = batch.labelled, method.encoder
    x = vit.patch_embed(labelled.images)
    shown = torch.zeros(x.shape[:2], dtype=torch.bool).scatter(1, labelled.visible, True)[..., None]
    x = torch.where(shown, x, method.branch.mask_token) + vit.pos_embed[:, 1:]
    x = torch.cat([(vit.cls_token + vit.pos_embed[:, :1]).expand(len(x), -1, -1), x], 1)
    tokens = vit.norm(vit.blocks(x))
    read = torch.stack([tokens[n, 1 + ids].mean(0) for n, ids in enumerate(labelled.visible)])
    torch.testing.assert_close(seen[0], read)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--optim.ema-decay=0.9", "supmae keeps no average"),
        (
            "--method.objective=cls --method.branch=simmim",
            "objective cls has no branch .* got branch simmim and mask random",
        ),
        ("--method.objective=cls --data.mask.kind=window", "got branch mae and mask window"),
        ("--method.objective=cls --method.unlabelled", "learns nothing from unlabelled images"),
        (
            "--method.pool=token --encoder.name=vit_wee_patch16_reg1_gap_256 --encoder.width=None "
            "--encoder.depth=None --encoder.heads=None",
            "the encoder has no class token; set --method.pool avg",
        ),
        ("--method.layers=4", "the head has 1, 2 or 3 layers, got 4"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_in_one_line(flags, said):
    with pytest.raises(InputError, match=said) as refused:
        method_of(*flags.split())
    assert "\n" not in str(refused.value)
