"""Does a training step compute what it should on this device: packed as looped, every gradient, no wait, no NaN let in,
and compiled as eager?"""

import copy
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from models.bench.baselines import Step, packed, separate
from models.bench.step_time import fix_pass_rate
from models.bench.synthetic import synthetic_batch
from models.config.recipe import Recipe
from models.config.resolve import resolve
from models.distributed.compile import compile_blocks
from models.distributed.precision import precision
from models.distributed.process_group import World
from models.doctor.stage import Context, Row, Stage, no_gpu
from models.encoder.build import Size, build_encoder
from models.factory import method_class
from models.full_precision import full_precision
from models.masked.mae import Decoder
from models.method import Method, StepInfo
from models.optim.build import build_optimiser
from models.optim.update import FiniteGuard, clip_grad_norm
from pipeline.batch import Batch

CLASSES, UNLABELLED = 10, 16
EXACT = 1e-4
"""Largest relative difference of loss and gradients in float32: sums in another order, by kernels of other shapes."""
HALF_TIMES = 2.0
"""How much further from float32 the packed step in bfloat16 may be than separate forward passes in bfloat16, and a
compiled step than an eager one."""
VIT_S, STEP_IMAGES, LONG_S = "semi_mae:in1k_10pct", 104, 120
"""The recipe whose blocks a GPU compiles, the images of its step, and the seconds that it should take at most."""
METHODS = ("supervised", "fixmatch", "uda", "mae", "semi_mae", "supmae", "simmim", "lomar", "crossmae")


@final
class Correctness(Stage):
    """The step that trains, against plainer ways to compute it."""

    place = 3
    deadline_s = 180

    def run(self, context: Context) -> Iterator[Row]:
        """Yield rows for packing, gradients, waits, NaN and compilation."""
        device = torch.device(context.device)
        yield from packed_rows(device)
        yield gradients(device)
        yield waits(device) if context.cuda else no_gpu("waits of the host in a step")
        yield planted_nan(device)
        if context.cuda and context.quick:
            yield Row("compiled = eager", "skipped", "--quick")
            return
        yield from compiled(device)


class Result(NamedTuple):
    """Loss and gradients of a step, all in one vector each."""

    loss: float
    gradient: Tensor


def apart(a: Result, b: Result) -> float:
    """Return the larger of the relative differences of loss and gradient, relative to `b`."""
    gradient = float((a.gradient - b.gradient).norm() / b.gradient.norm().clamp(min=1e-12))
    return max(abs(a.loss - b.loss) / max(abs(b.loss), 1e-12), gradient)


def packed_rows(device: torch.device) -> Iterator[Row]:
    """Compare the packed step with separate forward passes of timm, for no, one, some and all pseudo-labels."""
    vit, decoder = networks(device)
    for passing in (0, 1, UNLABELLED // 3, UNLABELLED):
        step = drawn(device, passing)
        what = f"packed = looped, {passing} of {UNLABELLED} pass"
        with full_precision(device):
            ours, exact = (computed(variant, vit, decoder, step) for variant in (packed, separate))
        error = apart(ours, exact)
        figure, values = f"f32 {error:.0e} apart", {"f32": error}
        right = error <= EXACT
        if device.type == "cuda":
            with torch.autocast("cuda", torch.bfloat16):
                half, plain = (computed(variant, vit, decoder, step) for variant in (packed, separate))
            far, usual = apart(half, exact), apart(plain, exact)
            figure += f"; bf16 {far:.0e} from f32, separate passes {usual:.0e}"
            values |= {"bf16": far, "bf16_separate": usual}
            right = right and far <= HALF_TIMES * usual + 1e-3
        to_do = "" if right else "set --run.precision float32, and report it: training would learn something else"
        yield Row(what, "ok" if right else "wrong", figure, to_do, values)


def networks(device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Build a ViT and MAE's decoder of head widths that recipes have; small on a CPU."""
    torch.manual_seed(0)
    gpu = device.type == "cuda"
    size, image, patch = (Size(384, 4, 6), 224, 16) if gpu else (Size(64, 2, 2), 32, 8)
    vit = build_encoder(size, image_size=image, patch=patch, classes=CLASSES)
    width, heads = (512, 16) if gpu else (64, 2)
    decoder = Decoder(size.width, vit.patch_embed.grid_size, patch, width=width, depth=2, heads=heads)
    with torch.no_grad():
        vit.head.weight.normal_(std=0.02)
    favour_one_class(vit)
    return vit.to(device), decoder.to(device)


@torch.no_grad()
def favour_one_class(encoder: nn.Module) -> None:
    """Set the classifier's biases far apart, so that pseudo-labels are the same in every precision."""
    head = getattr(encoder, "head", None)
    if isinstance(head, nn.Linear):
        head.bias.copy_(torch.arange(len(head.bias), dtype=torch.float32))


def drawn(device: torch.device, passing: int) -> Step:
    """Draw the inputs of a step in which so many pseudo-labels pass."""
    torch.manual_seed(1)
    side, patches = (224, 196) if device.type == "cuda" else (32, 16)
    images = [torch.randn(n, 3, side, side) for n in (4, UNLABELLED, UNLABELLED)]
    visible = torch.rand(UNLABELLED, patches).argsort(1)[:, : patches // 4].sort(1).values
    passed = torch.randperm(UNLABELLED) < passing
    return Step(*(each.to(device) for each in (images[0], torch.arange(4), *images[1:], visible, passed)))


def computed(variant: Callable[..., Tensor], vit: nn.Module, decoder: nn.Module, step: Step) -> Result:
    """Run a variant of the step forward and backward."""
    parts = nn.ModuleList([vit, decoder])
    parts.zero_grad(set_to_none=True)
    loss = variant(vit, decoder, step)
    loss.backward()
    return Result(float(loss.detach()), gradient_of(parts))


def gradient_of(module: nn.Module) -> Tensor:
    """Join the gradients of all parameters that have one: f64 [n]."""
    return torch.cat([each.grad.double().flatten() for each in module.parameters() if each.grad is not None])


def toy(name: str, *flags: str) -> Recipe:
    """Resolve a method's recipe on digits, with a network of 32 x 2."""
    return resolve(f"{name}:digits", ["--encoder.width=32", "--encoder.depth=2", "--encoder.heads=2", *flags])


def made(recipe: Recipe, device: torch.device, images: int = 32) -> tuple[Method, Batch]:
    """Build the method of a recipe and a batch of noise for it, of which half of the pseudo-labels pass."""
    torch.manual_seed(0)
    method = method_class(recipe)(recipe, CLASSES)
    method.set_dataset_size(1 << 10, 1 << 10)
    method.set_label_counts(torch.full((CLASSES,), 1 << 10))
    fix_pass_rate(method, 0.5)
    for encoder in (method.encoder, method.eval_encoder):
        favour_one_class(encoder)
    return method.train().to(device), synthetic_batch(recipe, images, CLASSES, device)


def gradients(device: torch.device) -> Row:
    """Look for parameters that train and get no gradient, in a step of each method."""
    lost = []
    for name in METHODS:
        recipe = toy(name)
        method, batch = made(recipe, device)
        info = StepInfo(10**6, labels_only=False)
        with precision(recipe.run, device):
            loss = method(batch, info)
        loss.total.backward()
        idle = set(map(id, method.inactive_params(info)))
        lost += [
            f"{name}: {part}"
            for part, parameter in method.named_parameters()
            if parameter.requires_grad and id(parameter) not in idle and parameter.grad is None
        ]
    what = "every parameter that trains has a gradient"
    if lost:
        return Row(what, "wrong", ", ".join(lost[:6]), "these parameters would not learn: use another torch version")
    return Row(what, "ok", f"{len(METHODS)} methods")


def waits(device: torch.device) -> Row:
    """Run a step in which any wait of the host for the GPU is an error, but for the count of passed pseudo-labels."""
    found = {}
    for name in ("semi_mae", "mae"):
        recipe = toy(name)
        method, batch = made(recipe, device)
        optimiser, guard = build_optimiser(method, recipe.optim), FiniteGuard(World(0, 1, 0, device))
        ids = torch.zeros(1, dtype=torch.int64, device=device)

        def step(method: Method = method, batch: Batch = batch, recipe: Recipe = recipe) -> None:
            with precision(recipe.run, device):
                loss = method(batch, StepInfo(10**6, labels_only=False))
            loss.total.backward()
            norm = clip_grad_norm(method.parameters(), 1.0)
            guard.step(optimiser, loss.total, norm, ids, 0)  # noqa: B023 -- called in this turn
            optimiser.zero_grad(set_to_none=True)  # noqa: B023
            method.after_step(0)

        step()  # tables that are made once
        try:
            with no_waits() as counted:
                step()
        except RuntimeError as error:
            if "synchronizing" not in str(error):
                raise
            to_do = "each step waits for the GPU: slower; the log names the line"
            return Row("waits of the host in a step", "slow", f"{name}: {error}", to_do)
        found[name] = counted.number
    figure = ", ".join(f"{name} {number} (the count of passed pseudo-labels)" for name, number in found.items())
    return Row("waits of the host in a step", "ok", figure, "", {name: float(n) for name, n in found.items()})


class Counted:
    """How many allowed waits there were."""

    number = 0


@contextmanager
def no_waits() -> Generator[Counted]:
    """Let every wait for the GPU raise RuntimeError, but for nonzero(), which is counted."""
    counted, nonzero, name = Counted(), Tensor.nonzero, "nonzero"

    def allowed(tensor: Tensor, *given: Any, **named: Any) -> Any:
        counted.number += 1
        torch.cuda.set_sync_debug_mode("default")
        try:
            return nonzero(tensor, *given, **named)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    setattr(Tensor, name, allowed)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield counted
    finally:
        torch.cuda.set_sync_debug_mode("default")
        setattr(Tensor, name, nonzero)


def planted_nan(device: torch.device) -> Row:
    """Step with a loss that is no number: weights and moments keep their bits, and a good step changes them."""
    recipe = toy("semi_mae")
    method, batch = made(recipe, device)
    optimiser, guard = build_optimiser(method, recipe.optim), FiniteGuard(World(0, 1, 0, device))
    moved = {}
    for planted in (1.0, float("nan"), 1.0):
        before = copy.deepcopy((method.state_dict(), optimiser.state_dict()["state"]))
        with precision(recipe.run, device):
            loss = method(batch, StepInfo(10**6, labels_only=False)).total * planted
        loss.backward()
        norm = clip_grad_norm(method.parameters(), 1.0)
        guard.step(optimiser, loss, norm, torch.zeros(1, dtype=torch.int64, device=device), 0)
        optimiser.zero_grad(set_to_none=True)
        moved[planted == planted] = not equal(before, (method.state_dict(), optimiser.state_dict()["state"]))
    what = "a planted NaN leaves weights and moments alone"
    if moved[False]:
        return Row(what, "wrong", "they changed", "one bad batch would end the run: use another torch version")
    if not moved[True]:
        return Row(what, "wrong", "a good step changes nothing either", "use another torch version")
    return Row(what, "ok", "to the bit; a good step changes them")


def equal(a: Any, b: Any) -> bool:
    """Say whether two nests of tensors are equal to the bit."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, tuple):
        return all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def compiled(device: torch.device) -> Iterator[Row]:
    """Compare a step of Semi-MAE with compiled blocks and without, and time the compilation.

    A GPU's blocks, a ViT-S's, go through inductor and are compared in bfloat16, as in a run: by how far each is from
    float32. Torch keeps the graphs on disk, so that the stage throughput finds them. A CPU's go through AOTAutograd,
    whose graphs are those of inductor, for a toy.
    """
    gpu = device.type == "cuda"
    method, batch = made(resolve(VIT_S, []), device, STEP_IMAGES) if gpu else made(toy("semi_mae"), device)
    run, twin = (resolve(VIT_S, []) if gpu else toy("semi_mae")).run, copy.deepcopy(method)
    compile_blocks(twin, "inductor" if gpu else "aot_eager")
    exact = stepped(method, batch, full_precision(device))
    usual = stepped(method, batch, precision(run, device))
    began = time.perf_counter()
    came = stepped(twin, batch, precision(run, device))
    seconds = time.perf_counter() - began
    far = apart(came, exact) if len(came.gradient) == len(exact.gradient) else float("inf")
    right = far <= (HALF_TIMES * apart(usual, exact) + 1e-3 if gpu else EXACT)
    figure = f"{'bf16' if gpu else 'f32, graphs alone'}: {far:.0e} from eager f32, eager {apart(usual, exact):.0e}"
    to_do = "" if right else "set --run.compile off"
    yield Row("compiled = eager", "ok" if right else "wrong", figure, to_do, {"apart": far})
    if not gpu:
        yield no_gpu("compiling a ViT-S's blocks")
        return
    to_do = "keep torch's compile cache (TORCHINDUCTOR_CACHE_DIR) on a disk that stays" if seconds > LONG_S else ""
    figure = f"{seconds:.0f} s to the end of the first step; less where torch's cache has the graphs"
    yield Row("compiling a ViT-S's blocks", "slow" if to_do else "ok", figure, to_do, {"s": seconds})


def stepped(method: Method, batch: Batch, numbers: AbstractContextManager) -> Result:
    """Run forward, in a context that says the precision, and backward, with the same draws each time."""
    method.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    with numbers:
        loss = method(batch, StepInfo(10**6, labels_only=False)).total
    loss.backward()
    return Result(float(loss.detach()), gradient_of(method))
