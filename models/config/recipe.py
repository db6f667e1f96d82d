"""Schema of a recipe: everything that a run depends on, in one frozen object."""

from dataclasses import dataclass, field
from typing import Annotated, Generic, Literal, TypeVar

from pipeline.flags import AT_LEAST_1, BELOW_1, NOT_NEGATIVE, POSITIVE, SHARE
from pipeline.spec import Data

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Encoder:
    """A plain timm VisionTransformer."""

    name: str | None = "vit_small_patch16_224"
    """Any plain ViT that timm knows (semiformer: semiformer_small); None where `width`, `depth` and `heads` say it."""
    width: Annotated[int | None, AT_LEAST_1] = None
    """With `depth` and `heads`: a size that timm has no name for."""
    depth: Annotated[int | None, AT_LEAST_1] = None
    heads: Annotated[int | None, AT_LEAST_1] = None
    patch: Annotated[int, AT_LEAST_1] = 16
    """Side of a patch, in pixels."""
    position: Literal["learned", "sincos", "irpe", "bias", "block_bias", "none"] = "learned"
    """Learned, MAE's fixed 2-D sine and cosine, LoMaR's relative ones (irpe), SimMIM's relative bias, shared by blocks
    as it pre-trains or one a block as it fine-tunes (a start from the former copies it), or none."""
    pool: Literal["token", "avg"] = "token"
    """What the classifier reads: the class token, or the mean over patches."""
    fc_norm: bool = False
    """Norm what the classifier reads, after pooling, in place of every token before it: MAE's and SimMIM's fine-tuning.
    Not for methods with a masked branch, which reads normed tokens."""
    drop_path: Annotated[float, BELOW_1] = 0.0
    """Stochastic depth of the last block; linear in depth."""
    layer_scale: Annotated[float | None, POSITIVE] = None
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
    lr: Annotated[float, NOT_NEGATIVE] = 1e-3
    """Peak rate, for a batch of `lr_batch` images, scaled linearly; absolute when that is absent."""
    lr_batch: Annotated[int | None, POSITIVE] = None
    schedule: Literal["cosine", "steps"] = "cosine"
    """After the rise: half a cosine down to `final_lr`, or a fall at each of `drop_epochs`, never below it."""
    final_lr: Annotated[float, NOT_NEGATIVE] = 0.0
    """Rate at the end of the cosine; scaled like `lr`."""
    drop_epochs: Annotated[tuple[float, ...], POSITIVE] = ()
    """Schedule "steps": where the rate falls, in epochs from the start of the run (SimMIM: 700 of 800)."""
    drop_factor: Annotated[float, SHARE] = 0.1
    """Schedule "steps": what the rate is multiplied by at each of them (SimMIM)."""
    epochs: Annotated[float, POSITIVE] = 100
    """Length of the run, labels-only phase included."""
    warmup_epochs: Annotated[float, NOT_NEGATIVE] = 5
    """Linear warm-up of the rate."""
    labels_only_epochs: Annotated[float, NOT_NEGATIVE] = 0
    """Supervised warm-up at the start: full batches of labelled images (their passes, when epochs are passes)."""
    epoch_unit: Literal["labelled", "unlabelled", "step"] = "unlabelled"
    """Whose pass an epoch is; small recipes count in steps."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.05
    decay_tokens: bool = False
    """Whether class, mask and position tokens decay: MAE's code pre-trains with it, nobody fine-tunes with it."""
    betas: Annotated[tuple[float, float], BELOW_1] = (0.9, 0.999)
    """Kind adamw."""
    momentum: Annotated[float, BELOW_1] = 0.9
    """Kinds lars and sgd (MAE Table 10)."""
    trust: Annotated[float, POSITIVE] = 0.001
    """Kind lars: step of a matrix relative to its norm, at a rate of 1 (MAE code)."""
    clip: Annotated[float | None, POSITIVE] = None
    """Largest gradient norm."""
    layer_decay: Annotated[float | None, POSITIVE] = None
    """Rate of each layer relative to the next one."""
    ema_warmup: bool = False
    """Let the average forget its random start: decay min(ema_decay, (1 + step) / (10 + step))."""
    ema_decay: Annotated[float | None, BELOW_1] = None
    """Decay of the weights' exponential moving average, evaluated in their place (and teaching, where asked)."""


@dataclass(frozen=True)
class Run:
    """Where a run lives, what it runs on and how often it reports."""

    folder: str | None = None
    """Run folder; runs/<recipe> when absent. The same command again carries on."""
    seed: Annotated[int, NOT_NEGATIVE] = 0
    fresh: bool = False
    """Refuse a folder that already holds a run."""
    start: str | None = None
    """Whose encoder this run starts from: a run's folder or checkpoint, an exported folder, a released file (MAE's,
    SupMAE's, ...), or a timm name with weights on this machine (vit_base_patch16_224.mae)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Annotated[int | None, AT_LEAST_1] = None
    """GPUs to use; checked against those visible and those started by torchrun."""
    device_images: Annotated[int | None, AT_LEAST_1] = None
    """Most images that fit on one device at once; smaller than its share of the batch means accumulation."""
    shard: bool = False
    """FSDP2: spread weights, gradients and moments over the processes, for encoders too large for one device."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast on CUDA, float32 on CPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile per block; auto is on for CUDA only."""
    log_steps: Annotated[int, AT_LEAST_1] = 50
    save_steps: Annotated[int, AT_LEAST_1] = 500
    evaluate_steps: Annotated[int | None, AT_LEAST_1] = None
    """Evaluate every so many steps; only at the end when absent."""
    knn: bool = False
    """Evaluate the encoder by its nearest neighbours, too, where there is a classifier to be judged by."""
    hang_timeout_s: Annotated[float, POSITIVE] = 600
    """Seconds without a step after which a process ends, saying where it stands: a rank hangs, or a disk."""
    stop_step: Annotated[int | None, AT_LEAST_1] = None
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
