"""A recipe decides the result of a run: small frozen groups of fields, each read by the code that it is named after.

One definition gives defaults, bounds, JSON and the text form of `--set` (`text.py`). Two recipes are equal exactly when
the runs should be. Where and how a run is computed (device, native kernels, compilation, folder, loggers) and which
copy of the data it reads are arguments of a command, and are recorded in the run's summary.

A field's name is unique over all groups, so that `recipe.json` is flat and `--set lr=0.1` needs no group. This module
imports no PyTorch: recipes are read, printed and refused without waiting for it.
"""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

STRICT = ConfigDict(allow_inf_nan=False, extra="forbid")
# Products and ratios of two such numbers are still normal float32, which kernels take.
LEAST, MOST = 1e-15, 1e15
MOST_EPOCHS = 100_000
MOST_IMAGES = 50_000  # as many as there are to train on
MOST_PIXELS = 1_024  # side of an image: above what any pretrained network takes
MOST_SEED = 2**63 - 1  # an int64


def not_tiny(value: float) -> float:
    """Refuse what is neither 0 nor a number that float32 computes with, such as 1e-320."""
    if 0 < value < LEAST:
        raise PydanticCustomError("tiny", "tiny")
    return value


Normal = AfterValidator(not_tiny)
Probability = Annotated[float, Field(ge=0, le=1), Normal]
Fraction = Annotated[float, Field(ge=0, lt=1), Normal]
NotNegative = Annotated[float, Field(ge=0, le=MOST), Normal]
Alpha = Annotated[float, Field(ge=0, le=1_000), Normal]
Epochs = Annotated[int, Field(ge=0, le=MOST_EPOCHS)]
Steps = Annotated[int, Field(ge=0, le=1_000_000)]
Pixels = Annotated[int, Field(ge=0, le=MOST_PIXELS)]
Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
Folds = Annotated[int, Field(ge=0, le=MOST_IMAGES)]
Text = Annotated[str, Field(max_length=1_000)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Network:
    """Options of the network (`cifar.models`), besides its name.

    Attributes:
        model_name: for `previt`: which timm model; empty is ViT-B/16.
        weights: a file of weights to start from; empty starts at random, or asks the hub for `previt`.
        image_size: for pretrained models: side in pixels that images are resized to; 0 is what the weights expect.
        pool: for pretrained transformers: "token" (class token) or "avg" (all tokens) into the head; "" as pretrained.
        train_blocks: for pretrained models: train only the last N blocks and the head; 0 only the head, -1 all.
        dropout: probability of dropping an activation, in models that have dropout.
        drop_path: maximum probability of skipping a residual block, in the transformers.
    """

    model_name: Text = ""
    weights: Text = ""
    image_size: Pixels = 0
    pool: Literal["", "token", "avg"] = ""
    train_blocks: Annotated[int, Field(ge=-1, le=1_000)] = -1
    dropout: Fraction = 0.0
    drop_path: Fraction = 0.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Optimiser:
    """How gradients become updates (`cifar.training.optimisers`).

    Attributes:
        kind: sgd, adam (weight decay as an L2 term), adamw (decoupled), muon (with adamw for head and scales) or
            muon-sgd (filters of a fixed norm, with sgd for head and biases; weight decay is per step).
        lr: peak learning rate.
        momentum, nesterov: of sgd; momentum also of muon.
        rest_momentum, head_lr, bias_lr: of muon-sgd: momentum and learning rates of its sgd; a rate of 0 is lr.
        muon_steps: Newton–Schulz iterations of muon and muon-sgd.
        whitening_epochs: of muon-sgd with speednet: epochs in which the whitening bias trains, at a falling rate; 0 is
            all.
        weight_decay: of weights, and of biases and normalisation parameters unless `decay_all` is false.
        decay_all: whether one-dimensional parameters (biases, scales) decay as well.
        layer_decay: for pretrained models: each block's rate is this times that of the block above it; 1 is one rate.
        clip_norm: maximum gradient norm; 0 does not clip.
    """

    kind: Literal["sgd", "adam", "adamw", "muon", "muon-sgd"] = "sgd"
    lr: Annotated[float, Field(gt=0, le=MOST), Normal]
    momentum: Fraction = 0.9
    nesterov: bool = True
    rest_momentum: Fraction = 0.85
    head_lr: NotNegative = 0.0
    bias_lr: NotNegative = 0.0
    muon_steps: Annotated[int, Field(ge=1, le=100)] = 5
    whitening_epochs: Epochs = 0
    weight_decay: NotNegative = 0.0
    decay_all: bool = True
    layer_decay: Annotated[float, Field(ge=0.01, le=1)] = 1.0  # of sixty blocks still above 0
    clip_norm: NotNegative = 0.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Schedule:
    """The learning rate over time (`cifar.training.schedules`).

    Attributes:
        kind: constant; plateau (cut when validation accuracy stalls); cosine or linear, to zero, step by step.
        warmup_epochs: epochs of linear rise from zero, before constant, cosine and linear; plateau has none.
        plateau_factor, plateau_patience, plateau_threshold: of plateau, as in PyTorch's ReduceLROnPlateau (mode max).
    """

    kind: Literal["constant", "plateau", "cosine", "linear"] = "constant"
    warmup_epochs: NotNegative = 0.0
    plateau_factor: Annotated[float, Field(gt=0, lt=1), Normal] = 0.1
    plateau_patience: Epochs = 3
    plateau_threshold: NotNegative = 1e-3


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Augment:
    """What training changes in the images (`cifar.training.augment`).

    Attributes:
        crop_padding: pixels that each side is padded by before a random crop; 0 is no crop.
        crop_mode: what the padding holds, zero (black) or reflect.
        flip: probability of mirroring an image.
        flip_mode: random, drawn anew every time; alternate, drawn once and then the other way round every other epoch.
        brightness, contrast: maximum brightness and contrast jitter: a shift of an image's pixels (1 is from black to
            white), and a relative change of their distance to their mean; 0 is none.
        mixup, cutmix: alpha of the Beta distribution that draws lambda; 0 is off; both alternate at random.
        early_image_size, early_epochs: side in pixels that images are resized to in the first epochs, and how many
            these are; 0 is none.
        own_augmentation: "package.module:function" of one's own, which changes a batch's pixels after all of these:
            float [N, 3, H, W] on the device to the same shape; PyTorch's, NumPy's and Python's generators are seeded
            and resumed; "" is none.
    """

    crop_padding: Annotated[int, Field(ge=0, le=16)] = 0
    crop_mode: Literal["zero", "reflect"] = "zero"
    flip: Probability = 0.0
    flip_mode: Literal["random", "alternate"] = "random"
    brightness: Probability = 0.0
    contrast: Probability = 0.0
    mixup: Alpha = 0.0
    cutmix: Alpha = 0.0
    early_image_size: Pixels = 0
    early_epochs: Epochs = 0
    own_augmentation: Annotated[str, Field(pattern=r"^(.+:.+)?$")] = ""

    @property
    def changes_images(self) -> bool:
        """Whether an image can look different from epoch to epoch."""
        return any(
            (
                self.crop_padding, self.flip, self.brightness, self.contrast, self.mixup, self.cutmix,
                self.own_augmentation,
            )
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TTA:
    """Test-time augmentation of the result (`cifar.evaluation.predict`).

    Attributes:
        views: none, mirror or shift.
        views_below: only images whose top-1 probability in the first view is lower get the other views; 1 is all.
    """

    views: Literal["none", "mirror", "shift"] = "none"
    views_below: Probability = 1.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Holdout:
    """Which of the 50,000 training images are held out for validation (`cifar.data.split`).

    Attributes:
        split_seed: of the random cut.
        validation_fraction: fraction held out; 0 trains on all of them and keeps the last weights.
        num_folds, fold: with num_folds > 0, fold `fold` is the validation set instead.
    """

    split_seed: Seed = 0
    validation_fraction: Fraction = 0.1
    num_folds: Folds = 0
    fold: Folds = 0

    @property
    def training_fraction(self) -> float:
        """The fraction of the 50,000 that is trained on."""
        return 1 - 1 / self.num_folds if self.num_folds else 1 - self.validation_fraction


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Recipe:
    """Everything that decides the result of a training run; `--set field=value` sets any field of it or its groups.

    Attributes:
        model: a name in `cifar.models.MODELS`, "timm:NAME" or "package.module:function".
        epochs: passes over the training images.
        batch_size: images per step.
        label_smoothing: probability mass spread over all ten classes.
        ema_decay: decay per step of the exponential moving average of the weights that is validated and saved; 0 is
            off.
        patience: epochs without a better validation accuracy after which training stops; 0 is never. Epochs on smaller
            images do not count.
        precision: auto (bf16 where the hardware has it, except on a CPU for the networks with native kernels, which are
            faster in fp32), fp32, bf16 or fp16 (only where the hardware has it).
        skip_bad_steps: steps that may be left out because their loss or gradient is not finite; one more ends the
            training.
        seed: of weights, order and augmentation.
    """

    model: Annotated[str, Field(min_length=1, max_length=1_000)]
    network: Network = field(default_factory=Network)
    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
    batch_size: Annotated[int, Field(ge=1, le=MOST_IMAGES)]
    optimiser: Optimiser
    schedule: Schedule = field(default_factory=Schedule)
    augment: Augment = field(default_factory=Augment)
    label_smoothing: Fraction = 0.0
    ema_decay: Fraction = 0.0
    tta: TTA = field(default_factory=TTA)
    patience: Epochs = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    skip_bad_steps: Steps = 0
    seed: Seed = 0
    holdout: Holdout = field(default_factory=Holdout)

    def __post_init__(self) -> None:
        """Refuse values that exclude each other.

        Raises:
            ValueError: names the fields and what is valid.
        """
        optimiser, augment, holdout = self.optimiser, self.augment, self.holdout
        frozen = self.network.train_blocks >= 0
        if holdout.num_folds == 1:
            raise ValueError("num_folds is 1: it must be 0 (one held-out part) or 2 or more.")
        if not holdout.fold < max(1, holdout.num_folds):
            raise ValueError(f"fold is {holdout.fold}: it must be a fold's number, from 0 to num_folds - 1.")
        if augment.early_epochs >= self.epochs:
            raise ValueError(f"early_epochs is {augment.early_epochs}: it must be less than the {self.epochs} epochs.")
        if (augment.early_image_size > 0) != (augment.early_epochs > 0):
            raise ValueError("early_image_size and early_epochs go together: set both, or both to 0.")
        if frozen and augment.changes_images:
            raise ValueError(
                "train_blocks computes the frozen part once for every image, so images cannot change from epoch to "
                "epoch: set crop_padding, flip, brightness, contrast, mixup and cutmix to 0 and leave own_augmentation "
                "out, as --freeze and --train-blocks do."
            )
        if frozen and augment.early_epochs:
            raise ValueError(f"early_epochs is {augment.early_epochs}: it must be 0 with train_blocks.")
        if optimiser.kind == "sgd" and optimiser.nesterov and optimiser.momentum == 0:
            raise ValueError("nesterov needs a momentum greater than 0: set nesterov=false or momentum=0.9.")
        if optimiser.kind.startswith("muon") and optimiser.layer_decay < 1:
            raise ValueError(f"layer_decay is of sgd, adam and adamw: leave it out with {optimiser.kind}.")
        chooses = self.schedule.kind == "plateau" or self.patience
        if chooses and holdout.validation_fraction == 0 and holdout.num_folds == 0:
            raise ValueError(
                "The plateau schedule and patience need validation images: set validation_fraction above 0."
            )
