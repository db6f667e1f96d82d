"""FixMatch, UDA, S4L, CowMix and Meta Pseudo Labels on a ResNet and on a ViT: each against its paper's equations,
written out slowly in float64, an image at a time where batch norm allows it."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from scipy.stats import norm

from models.config.resolve import named, resolve
from models.encoder.vit import FullImages, classifier_inputs, classify, encode, evaluating
from models.factory import method_class
from models.method import Method, StepInfo
from models.methods import cowmix
from pipeline.batch import Batch, Labelled, Unlabelled
from pipeline.errors import InputError

CLASSES, N, M = 10, 4, 6
LATER, EARLY = StepInfo(100, labels_only=False), StepInfo(0, labels_only=True)
NETWORKS = {"ViT": ("", ["--encoder.width=16", "--encoder.depth=2", "--encoder.heads=2"]), "ResNet": ("_resnet", [])}


def method_of(name: str, network: str, *flags: str) -> Method:
    torch.manual_seed(0)
    suffix, more = NETWORKS[network]
    recipe = resolve(f"{name}:digits{suffix}", [*more, *flags])
    method = method_class(recipe)(recipe, CLASSES).double().train()
    with torch.no_grad():
        for parameter in method.parameters():  # away from zero biases and equal norms
            parameter.add_(0.05 * torch.randn_like(parameter))
    return method


def batch_of() -> Batch:
    g = torch.Generator().manual_seed(0)

    def images(n: int) -> torch.Tensor:
        return torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=g)

    labels = torch.randint(0, CLASSES, (N,), generator=g)
    return Batch(0, Labelled(torch.arange(N), images(N), labels), Unlabelled(torch.arange(M), images(M), images(M)))


def scores(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    return classify(network, encode(network, [FullImages(images)]))[0]


def one_by_one(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Scores in eval mode, each image in a forward pass of its own."""
    with torch.no_grad(), evaluating(network):
        return torch.cat([scores(network, each[None]) for each in images])


def cross_entropy(logits: torch.Tensor, target: int | torch.Tensor) -> torch.Tensor:
    log = logits - logits.logsumexp(-1)
    return -log[target] if isinstance(target, int) else -(target * log).sum()


def gradients(loss: torch.Tensor, method: Method) -> dict[str, torch.Tensor]:
    names, trained = zip(*((n, p) for n, p in method.named_parameters() if p.requires_grad), strict=True)
    found = torch.autograd.grad(loss, trained, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, trained, found, strict=True)}


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    largest = max(float(each.abs().max()) for each in theirs.values())
    assert largest > 0
    for name, each in theirs.items():
        assert torch.allclose(ours[name], each, rtol=1e-7, atol=1e-9 * largest), name


@pytest.mark.parametrize("name", ["fixmatch", "uda"])
def test_a_resnet_that_teaches_itself_scores_all_views_in_one_pass_as_fixmatchs_code_does(name):
    method, batch = method_of(name, "ResNet", "--method.pseudo.teacher=self", "--method.lambda-u=3"), batch_of()
    state = {key: each.clone() for key, each in method.state_dict().items()}
    views = [batch.labelled.images, batch.unlabelled.weak, batch.unlabelled.strong]
    known, weak, strong = scores(method.encoder, torch.cat(views)).split([N, M, M])
    confidence = weak.detach().softmax(-1).amax(-1)
    threshold = float(confidence.quantile(0.5))
    total = sum(cross_entropy(each, int(y)) for each, y in zip(known, batch.labelled.labels, strict=True)) / N
    for guess, each, sure in zip(weak.detach(), strong, confidence, strict=True):
        target = (guess / 0.4).softmax(-1) if name == "uda" else int(guess.argmax())
        total = total + 3 * (cross_entropy(each, target) / M if sure > threshold else 0.0)
    theirs = gradients(total, method)
    method.load_state_dict(state)
    method.pseudo.threshold.threshold = threshold
    loss = method(batch, LATER)
    assert loss.total.item() == pytest.approx(total.item(), rel=1e-6)
    assert_same(gradients(loss.total, method), theirs)
    assert int(loss.pseudo_stats.passed.sum()) == int((confidence > threshold).sum())
    assert "labelled images, weak and strong views" in method.batch_norm_note()


def test_with_another_teacher_the_weak_views_are_no_part_of_the_pass():
    method, seen = method_of("fixmatch", "ResNet"), []
    method.encoder.net.register_forward_pre_hook(lambda *_: seen.append("whole"))
    method.encoder.net.bn1.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    method(batch_of(), LATER)
    assert seen == [N + M]  # the average has the weak ones
    assert "labelled images and strong views; evaluation" in method.batch_norm_note()
    assert method_of("fixmatch", "ViT").batch_norm_note() is None


@pytest.mark.parametrize("network", NETWORKS)
def test_s4l_is_its_equation_on_every_rotation(network):
    method, batch = method_of("s4l", network, "--method.weight=0.7"), batch_of()
    turned = {
        kind: [(np.rot90(each.numpy(), k, (1, 2)).copy(), k, i) for i, each in enumerate(images) for k in range(4)]
        for kind, images in (("labelled", batch.labelled.images), ("unlabelled", batch.unlabelled.weak))
    }
    every = [*turned["labelled"], *turned["unlabelled"]]
    tokens = encode(method.encoder, [FullImages(torch.stack([torch.from_numpy(image) for image, _, _ in every]))])
    (known,), (pooled,) = classify(method.encoder, tokens), classifier_inputs(method.encoder, tokens)
    label, rotation = torch.zeros((), dtype=torch.float64), {"labelled": [], "unlabelled": []}
    for at, (_, k, i) in enumerate(every):
        kind = "labelled" if at < 4 * N else "unlabelled"
        rotation[kind].append(cross_entropy(method.rotations(pooled[at]), k))
        if kind == "labelled":
            label = label + cross_entropy(known[at], int(batch.labelled.labels[i])) / (4 * N)
    means = [sum(each) / len(each) for each in rotation.values()]
    total = label + 0.7 * (means[0] + means[1]) / 2
    loss = method(batch, LATER)
    assert loss.total.item() == pytest.approx(total.item(), rel=1e-6)
    assert_same(gradients(loss.total, method), gradients(total, method))
    assert set(loss.parts) == {"label", "rotation"}


def test_s4l_refuses_images_that_are_not_square():
    with pytest.raises(InputError, match="s4l turns images by 90 degrees, so that they must be square"):
        method_of("s4l", "ViT", "--data.size", "16", "32")


@pytest.mark.parametrize("side", [(16, 16), (12, 20)])
def test_a_cowmask_is_smoothed_noise_cut_at_a_quantile_of_the_normal_law(side):
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(5, *side, generator=g, dtype=torch.float64)
    sigmas, shares = (
        torch.tensor(each, dtype=torch.float64) for each in ([0.5, 1, 2, 4, 8], [0.2, 0.35, 0.5, 0.65, 0.8])
    )
    ours = cowmix.cut(cowmix.smoothed(noise, sigmas), shares)
    for each, sigma, share, mask in zip(noise.numpy(), sigmas.numpy(), shares.numpy(), ours.numpy(), strict=True):
        smooth = gaussian_filter(each, sigma, mode="constant", truncate=max(side) / sigma + 1)
        expected = smooth <= smooth.mean() + norm.ppf(share) * smooth.std()
        assert (mask == expected).all()


def test_cowmasks_have_the_shares_that_were_asked_for_and_are_the_seeds():
    draw = (300, 32, 32, (2.0, 4.0), (0.2, 0.8), torch.device("cpu"))
    torch.manual_seed(1)
    masks = cowmix.cow_masks(*draw)
    torch.manual_seed(1)
    assert torch.equal(masks, cowmix.cow_masks(*draw))
    assert not torch.equal(masks, cowmix.cow_masks(*draw))
    shares = masks.float().mean((1, 2))
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.std() == pytest.approx(0.6 / math.sqrt(12), abs=0.03)  # uniform from 0.2 to 0.8


@pytest.mark.parametrize("network", NETWORKS)
def test_cowmix_is_its_equation_on_pairs_of_images(network):
    method, batch = method_of("cowmix", network, "--method.weight=5"), batch_of()
    weak = batch.unlabelled.weak
    with torch.no_grad():  # so that the teacher is sure of some images
        method.ema.module.load_state_dict(method.encoder.state_dict())
        for each in [method.ema.module.head] if network == "ViT" else [method.ema.module.net.fc]:
            each.weight.mul_(8)
    teacher = one_by_one(method.ema.module, weak).softmax(-1)
    state = {key: each.clone() for key, each in method.state_dict().items()}
    torch.manual_seed(3)
    masks = cowmix.cow_masks(M, 16, 16, (2.0, 8.0), (0.2, 0.8), weak.device)
    mixtures, targets, confidences = [], [], []
    for i in range(M):
        j, share = (i + 1) % M, masks[i].double().mean()
        mixtures.append(torch.where(masks[i], weak[j], weak[i]))
        targets.append((1 - share) * teacher[i] + share * teacher[j])
        confidences.append(float((1 - share) * teacher[i].max() + share * teacher[j].max()))
    threshold = sorted(confidences)[2] + 1e-9
    rate = sum(each > threshold for each in confidences) / M
    assert rate == 0.5
    known = scores(method.encoder, batch.labelled.images)
    mixed = scores(method.encoder, torch.stack(mixtures))  # batch norm: a pass for each
    total = sum(cross_entropy(each, int(y)) for each, y in zip(known, batch.labelled.labels, strict=True)) / N
    for p, q in zip(mixed.softmax(-1), targets, strict=True):
        total = total + 5 * rate * ((p - q) ** 2).sum() / M
    theirs = gradients(total, method)
    method.load_state_dict(state)
    method.settings = cowmix.Settings(weight=5.0, threshold=threshold, sigma=(2.0, 8.0))
    torch.manual_seed(3)
    loss = method(batch, LATER)
    assert loss.total.item() == pytest.approx(total.item(), rel=1e-6)
    assert_same(gradients(loss.total, method), theirs)


def test_cowmix_needs_an_average_and_ranges_in_order():
    with pytest.raises(InputError, match="teacher ema needs a moving average"):
        method_of("cowmix", "ViT", "--optim.ema-decay=None")
    with pytest.raises(InputError, match=r"method\.sigma is 8 2, expected the smaller number first; swap them"):
        method_of("cowmix", "ViT", "--method.sigma", "8", "2")


@pytest.mark.parametrize("network", NETWORKS)
def test_mpl_rewards_by_the_change_of_the_students_loss_and_both_gradients_are_algorithm_1s(network):
    method, batch = method_of("mpl", network, "--method.eta=0.01", "--method.lambda-u=2"), batch_of()
    labels, strong = batch.labelled.labels, batch.unlabelled.strong
    state = {key: each.clone() for key, each in method.state_dict().items()}
    torch.manual_seed(5)
    loss = method(batch, LATER)
    ours, after = gradients(loss.total, method), {key: each.clone() for key, each in method.state_dict().items()}
    method.load_state_dict(state)

    views = torch.cat([batch.labelled.images, batch.unlabelled.weak, strong])
    known, weak, seen = scores(method.guide, views).split([N, M, M])
    torch.manual_seed(5)
    drawn = torch.multinomial(seen.detach().softmax(-1), 1).squeeze(1)
    student = F.cross_entropy(scores(method.encoder, strong), drawn)
    slopes = torch.autograd.grad(student, list(method.encoder.parameters()))

    def labelled_loss(rate: float) -> float:
        with torch.no_grad():
            kept = {key: each.clone() for key, each in method.encoder.state_dict().items()}
            for each, slope in zip(method.encoder.parameters(), slopes, strict=True):
                each.sub_(rate * slope)
            found = float(F.cross_entropy(scores(method.encoder, batch.labelled.images), labels))
            method.encoder.load_state_dict(kept)
        return found

    eps = 1e-6  # h is the derivative of the labelled loss along the step, at its end
    reward = -0.01 * (labelled_loss(0.01 + eps) - labelled_loss(0.01 - eps)) / (2 * eps)
    assert float(loss.parts["reward"]) == pytest.approx(reward, rel=1e-4)
    assert float(loss.parts["reward"]) == pytest.approx(labelled_loss(0.0) - labelled_loss(0.01), rel=0.5)

    teacher = sum(cross_entropy(each, int(y)) for each, y in zip(known, labels, strict=True)) / N
    for guess, each in zip(weak.detach(), seen, strict=True):
        if guess.softmax(-1).max() > method.pseudo.threshold.threshold:
            teacher = teacher + 2 * cross_entropy(each, (guess / 0.4).softmax(-1)) / M
    teacher = teacher + float(loss.parts["reward"]) * F.cross_entropy(seen, drawn)
    assert loss.total.item() == pytest.approx((teacher + student).item(), rel=1e-6)
    theirs = gradients(teacher, method)
    names = [name for name, each in method.named_parameters() if name.startswith("encoder.")]
    assert_same(ours, theirs | dict(zip(names, slopes, strict=True)))
    for name, each in method.state_dict().items():  # the trial step has left no trace in the statistics
        assert torch.allclose(after[name].double(), each.double()), name


def test_in_the_labels_only_phase_mpls_teacher_learns_alone():
    method = method_of("mpl", "ViT")
    found = gradients(method(Batch(0, batch_of().labelled, None), EARLY).total, method)
    idle = {id(each) for each in method.inactive_params(EARLY)}
    for name, each in method.named_parameters():
        if each.requires_grad:
            assert (found[name].abs().max() == 0) == (id(each) in idle), name
    assert not list(method.inactive_params(LATER))


REFUSED = {
    "a start": ("--run.start=runs/x", "mpl trains two new networks from nothing"),
    "frozen layers": ("--encoder.adapt=head", "leave out --run.start, --encoder.adapt and --optim.layer-decay"),
    "layer decay": ("--optim.layer-decay=0.7", "all of both at one rate"),
    "another teacher": ("--method.pseudo.teacher=ema", "method.pseudo has teacher ema"),
    "mixtures": ("--method.pseudo.mixup", "method.pseudo has mixup"),
    "checkpointing": ("--encoder.checkpointing", "leave out --encoder.checkpointing and --run.shard"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_two_networks_cannot_have_is_refused_in_a_line(what):
    flag, said = REFUSED[what]
    with pytest.raises(InputError) as refusal:
        method_of("mpl", "ViT", flag)
    assert said in str(refusal.value)


def test_the_recipes_of_resnets_differ_from_the_vits_in_the_network_alone():
    for name in ("supervised", "fixmatch", "uda", "s4l", "cowmix", "mpl"):
        for data in ("digits", "cifar10"):
            plain, other = (named(f"{name}:{data}{suffix}") for suffix in ("", "_resnet"))
            assert (plain.method, plain.data, plain.optim) == (other.method, other.data, other.optim)
            assert other.encoder.name == "test_resnet"
        assert named(f"{name}:in1k_10pct_r50").encoder.name == "resnet50"
