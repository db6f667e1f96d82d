"""Schema of a recipe: all fields that a run depends on, in one frozen dataclass."""

from dataclasses import dataclass, field
from typing import Annotated, Generic, Literal, TypeVar

from pipeline.flags import AT_LEAST_1, BELOW_1, NOT_NEGATIVE, POSITIVE, SHARE
from pipeline.spec import Data

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Encoder:
    """The vision transformer: a plain or rotary one of timm (or Semiformer's); or another classifier of timm."""

    name: str | None = "vit_small_patch16_224"
    """A ViT of timm by its name, plain or of its rotary class Eva (vit_small_patch16_dinov3, eva02_*, vit_pe_*; method
    semiformer: semiformer_small); None if width, depth and heads are set. For methods that read whole images
    (supervised, finetune, fixmatch, uda, selftrain, s4l, cowmix, mpl) any other classifier of timm, too, such as
    resnet50: of this group it has stem, drop_path, checkpointing, and adapt full or head.
    auto: the encoder of `run.start`, whose file says all fields of this group but pool, drop_path, attention and
    checkpointing; heads, act and norm_eps may be given where the file leaves them open."""
    width: Annotated[int | None, AT_LEAST_1] = None
    """Token width; set together with `depth` and `heads` for a size without a name in timm."""
    depth: Annotated[int | None, AT_LEAST_1] = None
    heads: Annotated[int | None, AT_LEAST_1] = None
    patch: Annotated[int, AT_LEAST_1] = 16
    """Side of a patch, in pixels."""
    position: Literal["learned", "sincos", "irpe", "bias", "block_bias", "rope", "none"] = "learned"
    """Position embedding. learned: timm's. sincos: MAE's fixed 2-D sines and cosines. irpe: LoMaR's relative positions.
    bias: SimMIM's relative position bias, one table for all blocks (pre-training). block_bias: one table a block
    (SimMIM's fine-tuning; `run.start` from a `bias` encoder copies its table to each block). rope: queries and keys are
    turned in each block, as DINOv3 does; a rotary model's name brings its own. none: no positions."""
    pool: Literal["token", "avg", "map"] = "token"
    """Input of the classifier: the class token, the mean over patch tokens, or what one learned query attends to in
    them (map: SigLIP's attention pooling)."""
    fc_norm: bool = False
    """Put the final layer norm after the pooling instead of before it, as MAE and SimMIM fine-tune. Methods with a
    masked branch refuse it, because the branch reads normed tokens."""
    stem: Literal["own", "small"] = "own"
    """small: a ResNet of timm begins with a convolution of stride 1 and without pooling, for images of about 32 pixels
    (He et al. 2016, section 4.2). own: as timm has it."""
    drop_path: Annotated[float, BELOW_1] = 0.0
    """Stochastic-depth rate of the last block; it grows linearly from 0 at the first."""
    layer_scale: Annotated[float | None, POSITIVE] = None
    """Initial value of LayerScale's trained factors (SimMIM: 0.1); None: no LayerScale."""
    attention: Literal["sdpa", "varlen"] = "sdpa"
    """sdpa: one attention call for each run of sequences of equal length. varlen: one call of torch's varlen_attn for
    all; needs CUDA and half precision."""
    checkpointing: bool = False
    """Activation checkpointing: compute activations again in the backward pass instead of keeping them."""
    mlp: Literal["plain", "swiglu"] = "plain"
    """MLP of each block: two layers with `act` between them, or SwiGLU, whose first layer makes the gate, too
    (DINOv2's giant). This field and those below belong to a width, depth and heads; a named model has its own."""
    mlp_width: Annotated[int | None, AT_LEAST_1] = None
    """Outputs of the first layer of an MLP (SwiGLU: gate and values together); None: 4 times the width."""
    act: Literal["gelu", "gelu_tanh", "quick_gelu"] | None = None
    """Activation of a plain MLP: GELU, its approximation by tanh (SigLIP), or x · sigmoid(1.702 x) (OpenAI's CLIP).
    None: gelu, or with name auto what the file says."""
    norm_eps: Annotated[float | None, NOT_NEGATIVE] = None
    """Added to the variance in layer norms. None: 1e-6, or with name auto what the file says."""
    norm_pre: bool = False
    """Put a layer norm before the first block; the patch projection then has no bias (CLIP)."""
    qkv_bias: bool = True
    """Give queries, keys and values biases."""
    class_token: bool = True
    """Put a class token before the patches; pool token needs it (SigLIP and I-JEPA have none)."""
    registers: Annotated[int, NOT_NEGATIVE] = 0
    """Learned tokens behind the class token (DINOv2's registers; DeiT's distillation token is read as one)."""
    prefix_positions: bool = True
    """Give class token and registers rows of the positions; DINOv2's with registers have none."""
    adapt: Annotated[int | Literal["full", "lora", "bitfit", "half", "head"], AT_LEAST_1] = "full"
    """What is trained: all (full); factors of low rank beside the weights of all blocks (lora); all biases (bitfit);
    the last so many blocks; the MLP of the last one (half); none of these (head). The final norm and the classifier
    are trained in any case. What is frozen stays as it was loaded, and frozen blocks run without drop-path."""
    lora_rank: Annotated[int, AT_LEAST_1] = 8
    """adapt lora: rank of B A, which is added to each weight."""
    lora_alpha: Annotated[float, POSITIVE] = 8.0
    """adapt lora: B A is scaled by lora_alpha / lora_rank (Hu et al. 2021, section 4.1)."""
    lora_layers: tuple[Literal["qkv", "proj", "fc1", "fc2"], ...] = ("qkv", "proj", "fc1", "fc2")
    """adapt lora: the layers of each block that are adapted: queries, keys and values in one; the projection behind
    attention; the two of the MLP."""


@dataclass(frozen=True)
class Optim:
    """The optimiser, the schedule of its learning rate, and the length of the run."""

    kind: Literal["adamw", "lars", "sgd"] = "adamw"
    """adamw for training in general; lars, or sgd with momentum, for linear probes (MAE Table 10)."""
    lr: Annotated[float, NOT_NEGATIVE] = 1e-3
    """Peak learning rate for a batch of `lr_batch` images, scaled linearly to `data.batch`; not scaled if `lr_batch` is
    None."""
    lr_batch: Annotated[int | None, POSITIVE] = None
    """Batch size that `lr` and `final_lr` are given for (MAE: 256)."""
    schedule: Literal["cosine", "steps", "poly"] = "cosine"
    """After the warm-up. cosine: half a cosine down to `final_lr`. steps: times `drop_factor` at each of `drop_epochs`,
    at least `final_lr`. poly: down to `final_lr` by what is left of the steps, to the power of `poly_power`."""
    poly_power: Annotated[float, POSITIVE] = 1.0
    """Schedule poly: 1 is a straight line (mmsegmentation's for BEiT and MAE)."""
    schedule_by: Literal["step", "epoch", "whole_epoch"] = "step"
    """What the schedule, warm-up included, is spread over. step: the steps of the run. epoch: its epochs, those of the
    labels-only phase, which have fewer steps, like others. whole_epoch: as epoch, with one rate for all steps of an
    epoch (timm's scheduler as DeiT's and Semiformer's code call it)."""
    final_lr: Annotated[float, NOT_NEGATIVE] = 0.0
    """Learning rate at the end of the schedule; scaled as `lr` is."""
    drop_epochs: Annotated[tuple[float, ...], POSITIVE] = ()
    """Schedule steps: epochs, from the start of the run, at which the rate drops (SimMIM: 700 of 800)."""
    drop_factor: Annotated[float, SHARE] = 0.1
    """Schedule steps: factor of the rate at each of `drop_epochs` (SimMIM)."""
    epochs: Annotated[float, POSITIVE] = 100
    """Length of the run, the labels-only phase included."""
    warmup_epochs: Annotated[float, NOT_NEGATIVE] = 5
    """Length of the rate's linear warm-up from `warmup_lr`."""
    warmup_lr: Annotated[float, NOT_NEGATIVE] = 0.0
    """Learning rate that the warm-up begins at (DeiT and Semiformer: 1e-6); scaled as `lr` is."""
    warmup_prefix: bool = True
    """Begin the cosine where the warm-up ends (MAE); off: at the start of the run, where the warm-up takes its place
    (timm's default, which DeiT's and Semiformer's code keep)."""
    labels_only_epochs: Annotated[float, NOT_NEGATIVE] = 0
    """Supervised phase at the start, in which batches hold labelled images alone; where epochs are passes, an epoch of
    it is a pass over the labelled images."""
    epoch_unit: Literal["labelled", "unlabelled", "step"] = "unlabelled"
    """An epoch is one pass over the labelled images, one over the unlabelled images, or one step (small recipes)."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.05
    """Weight decay of matrices; vectors and biases do not decay."""
    decay_tokens: bool = False
    """Decay class, mask and position tokens, too, as MAE's code does in pre-training."""
    betas: Annotated[tuple[float, float], BELOW_1] = (0.9, 0.999)
    """Kind adamw: decay of the first and second moment."""
    momentum: Annotated[float, BELOW_1] = 0.9
    """Kinds lars and sgd: momentum (MAE Table 10)."""
    trust: Annotated[float, POSITIVE] = 0.001
    """Kind lars: trust coefficient, the norm of a matrix's step relative to the norm of the matrix at a rate of 1
    (MAE's code)."""
    clip: Annotated[float | None, POSITIVE] = None
    """Largest norm of the gradient; larger ones are scaled down to it. None: no clipping."""
    layer_decay: Annotated[float | None, POSITIVE] = None
    """Layer-wise decay: learning rate of each layer relative to the layer above it. None: one rate for all."""
    ema_warmup: bool = False
    """Begin the moving average with a smaller decay: min(ema_decay, (1 + step) / (10 + step))."""
    ema_decay: Annotated[float | None, BELOW_1] = None
    """Decay of the exponential moving average (EMA) of the weights, which is evaluated instead of them and is the
    teacher of pseudo-labels where the method asks for it. None: no average."""


@dataclass(frozen=True)
class Run:
    """The folder of a run, the devices that it runs on, and how often it logs, saves and evaluates."""

    folder: str | None = None
    """Run folder; runs/<recipe> when None. The same command again continues the run in it."""
    seed: Annotated[int, NOT_NEGATIVE] = 0
    """Seed of weights, images, views and dropout."""
    fresh: bool = False
    """Refuse a folder that already holds a run."""
    start: str | None = None
    """Pretrained encoder to start from: a run's folder or checkpoint, an exported folder, a released file or folder
    (MAE, DINO, DINOv2, MoCo v3, BEiT, I-JEPA, CLIP, SigLIP, ...: docs/pretrained.md), or a timm name with weights on
    this machine (vit_base_patch16_224.mae)."""
    start_normalisation: Literal["imagenet", "half", "clip"] | None = None
    """What the images of `start` were normalised by, for a file that does not say it: the mean and std of ImageNet, 0.5
    and 0.5, or those of CLIP. None: what the file says, else what its format was released with."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    devices: Annotated[int | None, AT_LEAST_1] = None
    """Number of GPUs; checked against the visible ones and against the processes that torchrun started."""
    device_images: Annotated[int | Literal["auto"] | None, AT_LEAST_1] = None
    """Most images on one device at once. If its share of the batch is larger, gradients are accumulated over
    micro-batches. auto: as many as fit, found by trial before the first step."""
    shard: bool = False
    """FSDP2: shard weights, gradients and moments over the processes, for encoders too large for one device."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast on CUDA, float32 on CPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of each block; auto: on a GPU, where the network has 4 million weights or more."""
    log_steps: Annotated[int, AT_LEAST_1] = 50
    """Write a row of metrics every so many steps."""
    save_steps: Annotated[int, AT_LEAST_1] = 500
    """Save a checkpoint every so many steps."""
    evaluate_steps: Annotated[int | None, AT_LEAST_1] = None
    """Evaluate on data.val every so many steps; None: at the end."""
    knn: bool = False
    """Evaluate by nearest neighbours (k-NN), too, where there is a classifier; without one this is the evaluation."""
    probe: bool = False
    """Evaluate by a linear probe, too: a classifier fitted anew, to the optimum, to the frozen features of up to 10,000
    labelled training images. The encoder gets no gradient from it."""
    rankme: bool = False
    """Measure RankMe with each evaluation of val: the effective rank of the features of 10,000 training images, without
    labels."""
    hang_timeout_s: Annotated[float, POSITIVE] = 600
    """Seconds without a step after which a process ends itself and prints where its threads are."""
    stop_step: Annotated[int | None, AT_LEAST_1] = None
    """Save and stop after this step, as on a signal; the learning rate's schedule stays that of the full run."""
    extend: Annotated[tuple[float, ...], POSITIVE] = ()
    """Go on with a run that has ended for so many more epochs. To extend it again, add a number: 10, then 10 5."""
    extend_schedule: tuple[Literal["rewarm", "constant"], ...] = ("rewarm",)
    """Learning rate of an extension, one for all or one for each. rewarm: up to `extend_lr`, and down again as
    `optim.schedule` has it, over the same shares of the steps as in the run. constant: `extend_lr` throughout."""
    extend_lr: Annotated[tuple[float | None, ...], NOT_NEGATIVE] = (None,)
    """Rate of an extension, scaled as `optim.lr` is: the peak of a rewarm (None: optim.lr), or the constant rate (None:
    that of the last step before)."""
    best: str | None = None
    """Keep best.pt, too: the checkpoint with the best value of this name on data.val, such as top1, knn or balanced
    (the mean of the classes' recalls), of equal values the first. It costs a save whenever one is better."""
    stop_after: Annotated[int | None, AT_LEAST_1] = None
    """Early stopping: end the run once so many evaluations in a row have brought no better value of `best`."""
    judge: Literal["average", "raw", "both"] = "average"
    """Weights that are evaluated while the run trains and at its end. average: the moving average where the recipe
    keeps one. raw: the weights themselves, as top1_raw and so on, and by evaluators and exports of the run. both: one
    after the other, at twice the time."""
    track: str | None = None
    """Send the journal, while it is written, to wandb, mlflow or trackio (extras of those names). Where to, and as
    whom, say the service's own environment variables; no step waits for it, the run does not fail with it,
    and its end waits for up to 10 s."""
    oracle: bool = False
    """Read hidden labels to report the accuracy of pseudo-labels; they are not used in training."""

    @property
    def images_at_once(self) -> int | None:
        """The limit that `device_images` sets; None where it sets none, or where a trial will."""
        return None if self.device_images == "auto" else self.device_images


@dataclass(frozen=True)
class Recipe(Generic[Settings]):
    """All settings of one run: the method's own, data, encoder, optimiser, and the run itself."""

    method: Settings
    data: Data = field(default_factory=Data)
    encoder: Encoder = field(default_factory=Encoder)
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)
    name: "Annotated[str, _not_a_flag()]" = ""
    """The name on the command line, method:recipe."""


def _not_a_flag() -> object:
    from tyro.conf import Suppress  # imported when tyro reads the annotation, as listing recipes does not need it

    return Suppress
