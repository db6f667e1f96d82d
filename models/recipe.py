"""A recipe: everything that a run depends on, in one frozen object, and how a command line names and changes it."""

import difflib
import importlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Generic, Literal, TypeVar

from models.catalogue import catalogue, story, sweeps
from pipeline.errors import InputError
from pipeline.flags import parse
from pipeline.spec import Data

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Encoder:
    """A plain timm VisionTransformer."""

    name: str | None = "vit_small_patch16_224"
    """Any plain ViT that timm knows (semiformer: semiformer_small); None where `width`, `depth` and `heads` say it."""
    width: int | None = None
    """With `depth` and `heads`: a size that timm has no name for."""
    depth: int | None = None
    heads: int | None = None
    patch: int = 16
    """Side of a patch, in pixels."""
    position: Literal["learned", "sincos", "irpe", "bias", "block_bias", "none"] = "learned"
    """Learned, MAE's fixed 2-D sine and cosine, LoMaR's relative ones (irpe), SimMIM's relative bias, shared by blocks
    as it pre-trains or one a block as it fine-tunes (a start from the former copies it), or none."""
    pool: Literal["token", "avg"] = "token"
    """What the classifier reads: the class token, or the mean over patches."""
    fc_norm: bool = False
    """Norm what the classifier reads, after pooling, in place of every token before it: MAE's and SimMIM's fine-tuning.
    Not for methods with a masked branch, which reads normed tokens."""
    drop_path: float = 0.0
    """Stochastic depth of the last block; linear in depth."""
    layer_scale: float | None = None
    """Initial factor of each branch, trained; 0.1 in SimMIM. Absent: no such factors."""
    attention: Literal["sdpa", "varlen"] = "sdpa"
    """One attention call a run of equal lengths, or torch's varlen_attn: one call in all, CUDA in half precision."""
    checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""


@dataclass(frozen=True)
class Optim:
    """The optimiser and its rate over the run."""

    kind: Literal["adamw", "lars", "sgd"] = "adamw"
    """AdamW for everything; LARS, or SGD with momentum, for linear probes (MAE Table 10)."""
    lr: float = 1e-3
    """Peak rate, for a batch of `lr_batch` images, scaled linearly; absolute when that is absent."""
    lr_batch: int | None = None
    schedule: Literal["cosine", "steps"] = "cosine"
    """After the rise: half a cosine down to `final_lr`, or a fall at each of `drop_epochs`, never below it."""
    final_lr: float = 0.0
    """Rate at the end of the cosine; scaled like `lr`."""
    drop_epochs: tuple[float, ...] = ()
    """Schedule "steps": where the rate falls, in epochs from the start of the run (SimMIM: 700 of 800)."""
    drop_factor: float = 0.1
    """Schedule "steps": what the rate is multiplied by at each of them (SimMIM)."""
    epochs: float = 100
    """Length of the run, labels-only phase included."""
    rise_epochs: float = 5
    """Linear warm-up of the rate."""
    labels_only_epochs: float = 0
    """Supervised warm-up at the start: full batches of labelled images (their passes, when epochs are passes)."""
    epoch_unit: Literal["labelled", "unlabelled", "step"] = "unlabelled"
    """Whose pass an epoch is; small recipes count in steps."""
    weight_decay: float = 0.05
    decay_tokens: bool = False
    """Whether class, mask and position tokens decay: MAE's code pre-trains with it, nobody fine-tunes with it."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Kind adamw."""
    momentum: float = 0.9
    """Kinds lars and sgd (MAE Table 10)."""
    trust: float = 0.001
    """Kind lars: step of a matrix relative to its norm, at a rate of 1 (MAE code)."""
    clip: float | None = None
    """Largest gradient norm."""
    layer_decay: float | None = None
    """Rate of each layer relative to the next one."""
    average_warm_up: bool = False
    """Let the average forget its random start: decay min(average, (1 + step) / (10 + step))."""
    average: float | None = None
    """Decay of the weights' exponential moving average, evaluated in their place (and teaching, where asked)."""


@dataclass(frozen=True)
class Run:
    """Where a run lives, what it runs on and how often it reports."""

    folder: str | None = None
    """Run folder; runs/<recipe> when absent. The same command again carries on."""
    seed: int = 0
    fresh: bool = False
    """Refuse a folder that already holds a run."""
    start: str | None = None
    """Whose encoder this run starts from: a run's folder or checkpoint, an exported folder, a released file (MAE's,
    SupMAE's, ...), or a timm name with weights on this machine (vit_base_patch16_224.mae)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int | None = None
    """GPUs to use; checked against those visible and those started by torchrun."""
    device_images: int | None = None
    """Most images that fit on one device at once; smaller than its share of the batch means accumulation."""
    shard: bool = False
    """FSDP2: spread weights, gradients and moments over the processes, for encoders too large for one device."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast on CUDA, float32 on CPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile per block; auto is on for CUDA only."""
    log_steps: int = 50
    save_steps: int = 500
    evaluate_steps: int | None = None
    """Evaluate every so many steps; only at the end when absent."""
    knn: bool = False
    """Evaluate the encoder by its nearest neighbours, too, where there is a classifier to be judged by."""
    patience_s: float = 600
    """Seconds without a step after which a process ends, saying where it stands: a rank hangs, or a disk."""
    stop_step: int | None = None
    """Stop (and save) after this step, as if asked to; the rate's schedule does not change."""
    oracle: bool = False
    """Read hidden labels for the report's pseudo-label accuracy; training never sees them."""


@dataclass(frozen=True)
class Recipe(Generic[Settings]):
    """One run: what it reads, what it trains, how and where."""

    method: Settings
    data: Data = field(default_factory=Data)
    encoder: Encoder = field(default_factory=Encoder)
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)
    name: "Annotated[str, _not_a_flag()]" = ""
    """method:recipe, as on the command line."""


def _not_a_flag() -> object:
    from tyro.conf import Suppress  # when tyro reads the annotation: the list of recipes does without its import

    return Suppress


def resolve(name: str, flags: list[str]) -> Recipe:
    """The recipe called `name` ("semi_mae:digits") with typed flags over it ("--optim.lr", "1e-3").

    Raises InputError, with the nearest name, for an unknown recipe or flag, and for a value of the wrong type.
    """
    from models.bounds import check_bounds  # which reads Recipe

    recipe = named(name)
    known = [flag for flag in _flags(recipe) if flag.startswith("--") and "." in flag]  # all but the name
    for flag in flags:
        spelt = flag.split("=")[0].replace("_", "-")
        if flag.startswith("--") and spelt not in known and spelt != "--help":
            raise InputError(f"{name} has no field {spelt}{nearest(spelt, known)}; add --help to see them all")
    kind, prog = Recipe[type(recipe.method)], f"train.py {name}"
    recipe = parse(kind, default=recipe, args=flags, prog=prog, description=story(name))
    check_bounds(recipe)
    return recipe


def named(name: str) -> Recipe:
    """The recipe called `name`, as written. Raises InputError with the nearest name if there is none."""
    from models.sweep import member  # which reads Recipe

    if "/" in name:
        return member(name)
    names = [known for known, _ in catalogue()]
    if name not in names:
        if name in (several := [known for known, _ in sweeps()]):
            raise InputError(
                f"{name} is a sweep; `python -m slurm.submit {name}` runs it, {name}/0 is its first recipe"
            )
        near = nearest(name, names + several)
        raise InputError(f"no recipe is called {name!r}{near}; `python train.py` lists them")
    method, _, function = name.partition(":")
    return replace(getattr(importlib.import_module(f"models.methods.{method}"), function)(), name=name)


def command_of(recipe: Recipe) -> str:
    """What a shell would be told to train this recipe again."""
    return shlex.join(["python", "train.py", recipe.name, *flags_of(recipe)])


def flags_of(recipe: Recipe) -> list[str]:
    """The flags that make this recipe of the one of its name, as `resolve` takes them."""
    return list(_changes(recipe, named(recipe.name)))


def _changes(part: object, written: object, prefix: str = "--") -> Iterator[str]:
    for item in fields(part):
        name, value, before = item.name.replace("_", "-"), getattr(part, item.name), getattr(written, item.name)
        if is_dataclass(value):
            yield from _changes(value, before, f"{prefix}{name}.")
        elif value != before:
            yield f"{prefix}no-{name}" if value is False else f"{prefix}{name}"
            if not isinstance(value, bool):
                yield from map(str, value if isinstance(value, tuple) else (value,))


def _flags(part: object, prefix: str = "--") -> Iterator[str]:
    for item in fields(part):
        name, value = item.name.replace("_", "-"), getattr(part, item.name)
        if is_dataclass(value):
            yield from _flags(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
            yield f"{prefix}no-{name}"
            head, _, last = f"{prefix}{name}".rpartition(".")
            yield f"{head}.no-{last}"


def nearest(name: str, names: list[str]) -> str:
    """What an error says behind a wrong name: the most similar one, or nothing."""
    near = difflib.get_close_matches(name, names, 1, 0.4)
    return f"; did you mean {near[0]}?" if near else ""
