"""A recipe decides a run: one frozen dataclass, and the named recipes as functions.

Two recipes are equal exactly when the runs should be. Where a run happens (device, folder, loggers) and which copy
of the data it reads are arguments of a command instead, and are recorded in the run's summary.
"""

import dataclasses
import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar.errors import InputError, WorldError

CHOICES: dict[str, tuple[str, ...]] = {
    "optimiser": ("sgd", "adam", "adamw", "muon", "muon-sgd"),
    "schedule": ("constant", "plateau", "cosine", "linear"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "compile": ("no", "auto", "yes"),
    "crop_mode": ("zero", "reflect"),
    "pool": ("", "token", "avg"),
    "flip_mode": ("random", "alternate"),
    "views": ("none", "mirror", "shift"),
}

AUGMENTS = ("crop_padding", "flip", "brightness", "contrast", "mixup", "cutmix")  # what changes images, if not 0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result of a training run; any field can be set by `--set field=value`.

    Attributes:
        model: a name in `cifar.models.MODELS`, "timm:NAME" or "package.module:function".
        model_name: for `previt`: which timm model; empty is that model's default.
        weights: for pretrained models: a file of weights; empty asks the hub.
        train_blocks: for pretrained models: train only the last so many blocks and the head; 0 only the head, -1 all.
        image_size: for pretrained models: pixels a side that the images are resized to; 0 is what the weights expect.
        early_image_size, early_epochs: for pretrained transformers and speednet: the size that images are resized to in
            the first so many epochs; 0 is none.
        window, window_epochs: in the so many epochs after the early ones, random windows of so many pixels a side are
            cut out of the images and trained on, without padding; 0 is none.
        pool: for pretrained transformers: "token" (class token) or "avg" (all tokens) into the head; "" as pretrained.
        dropout: probability of dropping an activation, in models that have dropout.
        drop_path: greatest probability of skipping a residual block, in the transformers.
        epochs: passes over the training images.
        batch_size: images a step.
        optimiser: sgd, adam (weight decay as an L2 term), adamw (decoupled), muon (with adamw for head and scales) or
            muon-sgd (filters of a fixed norm, with sgd for head and biases; decay is that of a step).
        lr: learning rate at its highest.
        momentum, nesterov: of sgd; momentum also of muon.
        rest_momentum, head_lr, bias_lr: of muon-sgd: momentum of the sgd in it, and its rates; 0 is lr.
        muon_steps: Newton-Schulz iterations of muon and muon-sgd.
        whitening_epochs: of muon-sgd with speednet: the whitening bias is trained so long, at a falling rate; 0 is all.
        weight_decay: of weights; biases and normalisation parameters have it too unless `decay_all` is false.
        decay_all: whether one-dimensional parameters (biases, scales) decay as well.
        layer_decay: for pretrained models: each block's rate is this times that of the block above it; 1 is one rate.
        schedule: constant; plateau (cut when validation accuracy stalls); cosine or linear, to zero, step by step.
        warmup_epochs: epochs of linear rise from zero, before constant, cosine and linear; plateau has none.
        plateau_factor, plateau_patience, plateau_threshold: of plateau, as in torch's ReduceLROnPlateau (mode max).
        clip_norm: greatest norm of the gradient; 0 leaves it alone.
        crop_padding: random crops after padding each side by so many pixels; 0 is none.
        crop_mode: what the padding holds, zero (black) or reflect.
        flip: probability of mirroring an image.
        flip_mode: random, drawn anew every time; alternate, drawn once and then the other way round every other epoch.
        label_smoothing: probability mass spread over all ten classes.
        mixup, cutmix: alpha of the Beta distribution that draws the mixing share; 0 is off; both take turns by chance.
        ema_decay: decay a step of the exponential moving average of the weights that is validated and saved; 0 is off.
        brightness, contrast: an image's pixels are shifted by up to so much (1 is from black to white), and spread or
            drawn together about their mean by up to so much of themselves; 0 is none.
        views: of each image when the result is read: none, mirror or shift, as in `cifar.evaluation.predict`.
        views_below: only images whose class has a lower probability by the first view get the other views; 1 is all.
        patience: stop after so many epochs without a better validation accuracy; 0 never does.
        precision: auto (bf16 on a GPU that has it, else fp32), fp32, bf16 or fp16 (only where the hardware has it).
        compile: no, auto (on a GPU) or yes: whether torch.compile fuses the network's operations for training.
        winograd: whether our own networks' 3×3 convolutions are computed by Winograd's method in fp32 on a processor,
            speednet's normalisation and GELU as one, and cnn's convolutions, halving and ReLU.
        seed: of weights, order and augmentation.
        split_seed: of the cut of the 50,000 into training and validation, or into folds.
        validation_fraction: share of the 50,000 held out; 0 trains on all of them and keeps the last weights.
        num_folds, fold: with num_folds > 0, fold `fold` is the validation set instead.
    """

    model: str
    model_name: str = ""
    weights: str = ""
    image_size: int = 0
    early_image_size: int = 0
    early_epochs: int = 0
    window: int = 0
    window_epochs: int = 0
    pool: str = ""
    train_blocks: int = -1
    dropout: float = 0.0
    drop_path: float = 0.0
    epochs: int
    batch_size: int
    optimiser: str = "sgd"
    lr: float
    momentum: float = 0.9
    nesterov: bool = True
    rest_momentum: float = 0.85
    head_lr: float = 0.0
    bias_lr: float = 0.0
    muon_steps: int = 5
    whitening_epochs: int = 0
    weight_decay: float = 0.0
    decay_all: bool = True
    layer_decay: float = 1.0
    schedule: str = "constant"
    warmup_epochs: float = 0.0
    plateau_factor: float = 0.1
    plateau_patience: int = 3
    plateau_threshold: float = 1e-3
    clip_norm: float = 0.0
    crop_padding: int = 0
    crop_mode: str = "zero"
    flip: float = 0.0
    flip_mode: str = "random"
    brightness: float = 0.0
    contrast: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema_decay: float = 0.0
    views: str = "none"
    views_below: float = 1.0
    patience: int = 0
    precision: str = "fp32"
    compile: str = "no"
    winograd: bool = False
    seed: int = 0
    split_seed: int = 0
    validation_fraction: float = 0.1
    num_folds: int = 0
    fold: int = 0

    def __post_init__(self) -> None:
        check_recipe(self)


def check_recipe(recipe: Recipe) -> None:
    """Refuse values outside their range.

    Raises:
        InputError: names the field, its value and what is valid.
    """

    def demand(good: bool, field: str, valid: str) -> None:
        if not good:
            raise InputError(f"{field} is {getattr(recipe, field)!r}: it must be {valid}.")

    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        demand(not isinstance(value, float) or math.isfinite(value), field.name, "a finite number")
    for name in ("epochs", "batch_size", "lr", "muon_steps"):
        demand(getattr(recipe, name) > 0, name, "greater than 0")
    for name in (
        "weight_decay", "warmup_epochs", "plateau_patience", "plateau_threshold", "clip_norm", "mixup", "cutmix",
        "patience", "image_size", "early_image_size", "early_epochs", "window_epochs", "seed", "split_seed",
        "head_lr", "bias_lr", "whitening_epochs",
    ):  # fmt: skip
        demand(getattr(recipe, name) >= 0, name, "0 or more")
    for name in (
        "momentum",
        "rest_momentum",
        "dropout",
        "drop_path",
        "label_smoothing",
        "ema_decay",
        "validation_fraction",
    ):
        demand(0 <= getattr(recipe, name) < 1, name, "at least 0 and less than 1")
    demand(0 < recipe.layer_decay <= 1, "layer_decay", "greater than 0 and at most 1")
    for name in ("flip", "views_below"):
        demand(0 <= getattr(recipe, name) <= 1, name, "a probability from 0 to 1")
    for name in ("brightness", "contrast"):
        demand(0 <= getattr(recipe, name) <= 1, name, "from 0 to 1")
    demand(0 < recipe.plateau_factor < 1, "plateau_factor", "between 0 and 1")
    demand(0 <= recipe.crop_padding <= 16, "crop_padding", "from 0 to 16 pixels")
    demand(recipe.num_folds == 0 or recipe.num_folds >= 2, "num_folds", "0 (a held-out part) or 2 or more")
    demand(0 <= recipe.fold < max(1, recipe.num_folds), "fold", "a fold's number, from 0 to num_folds - 1")
    demand(recipe.early_epochs < recipe.epochs, "early_epochs", f"less than the {recipe.epochs} epochs")
    demand((recipe.early_image_size > 0) == (recipe.early_epochs > 0), "early_image_size", "given with early_epochs")
    demand(0 <= recipe.window <= 32, "window", "from 1 to 32 pixels, or 0")
    demand((recipe.window > 0) == (recipe.window_epochs > 0), "window", "given with window_epochs")
    demand(
        recipe.early_epochs + recipe.window_epochs <= recipe.epochs,
        "window_epochs", f"at most what the early ones leave of the {recipe.epochs} epochs",
    )  # fmt: skip
    demand(recipe.model != "", "model", "a model's name")
    demand(recipe.train_blocks >= -1, "train_blocks", "-1 (all), 0 (the head) or a number of blocks")
    if recipe.train_blocks >= 0 and any(getattr(recipe, name) for name in AUGMENTS):
        raise InputError(
            "train_blocks computes the frozen part once for every image, so images cannot change from epoch to epoch: "
            f"set {', '.join(AUGMENTS[:-1])} and {AUGMENTS[-1]} to 0, as --freeze and --train-blocks do."
        )
    for name in ("early_epochs", "window_epochs"):
        demand(recipe.train_blocks < 0 or getattr(recipe, name) == 0, name, "0 with train_blocks: one size for all")
    for name, choices in CHOICES.items():
        demand(getattr(recipe, name) in choices, name, "one of " + ", ".join(choices))
    if recipe.optimiser == "sgd" and recipe.nesterov and recipe.momentum == 0:
        raise InputError("nesterov needs a momentum greater than 0: set nesterov=false or momentum=0.9.")
    if recipe.optimiser in ("muon", "muon-sgd") and recipe.layer_decay < 1:
        raise InputError(f"layer_decay is of sgd, adam and adamw: leave it out with {recipe.optimiser}.")
    if recipe.validation_fraction == 0 and recipe.num_folds == 0 and (recipe.schedule == "plateau" or recipe.patience):
        raise InputError("The plateau schedule and patience need validation images: set validation_fraction > 0.")


def cnn() -> Recipe:
    """A small CNN of three 5×5 convolutions, 20 epochs of Adam: the scope's first system.

    The scope's weight decay of 0.01 is decoupled here (Loshchilov and Hutter 2019). As an L2 term it was 3.6 points
    worse on validation (`docs/log.md`); `--set optimiser=adam` has it so. 53.66 % test, folds' mean 53.68 %
    (`results/cnn`, `results/cnn-crossval`); others report about 50 %.
    """
    return Recipe(
        model="cnn", epochs=20, batch_size=128, optimiser="adamw", lr=1e-4, weight_decay=0.01, winograd=True,
    )  # fmt: skip


def resnet() -> Recipe:
    """ResNet-20 (He et al. 2015, section 4.2), 50 epochs of Nesterov SGD, the rate cut on plateau.

    Validation at a rate of 0.1 jumps by ten points from epoch to epoch, and a plateau seen in that noise cuts the rate
    far too early (`docs/log.md`); the moving average of the weights has no such noise. 91.27 % test, one seed, 65
    minutes on 2 cores (`results/resnet`); others report about 91 %.
    """
    return Recipe(
        model="resnet20", epochs=50, batch_size=128, lr=0.1, weight_decay=5e-4,
        schedule="plateau", crop_padding=4, flip=0.5, ema_decay=0.999, winograd=True,
    )  # fmt: skip


def resnet_better() -> Recipe:
    """The same ResNet-20 in the same 50 epochs, with Muon, a linear schedule, reflected borders and smoothed labels.

    Chosen on validation (`docs/log.md`), in bf16 where the processor has it. 92.81 % test, one seed, in 29 minutes on 2
    cores that other work shared (`results/resnet-better`). That is the mean over an image and its mirror image, for
    which validation had gained 0.7 points; one view alone gives 92.26 %.
    """
    return Recipe(
        model="resnet20", epochs=50, batch_size=128, optimiser="muon", lr=0.02, momentum=0.95, weight_decay=0.05,
        schedule="linear", warmup_epochs=1, crop_padding=4, crop_mode="reflect", flip=0.5, flip_mode="alternate",
        label_smoothing=0.1, views="mirror", precision="bf16", winograd=True,
    )  # fmt: skip


def vit() -> Recipe:
    """A small vision transformer with a convolutional stem (Xiao et al. 2021), from scratch with Muon, in 50 epochs.

    Images are mixed; without that it was not tried. Its training accuracy counts the first of two mixed labels.
    92.45 % test, one seed, in 61 minutes on 2 cores that other work shared (`results/vit`), in bf16; processors without
    native bf16 train it in fp32, in about twice the time.
    """
    return Recipe(
        model="vit", epochs=50, batch_size=128, optimiser="muon", lr=3e-3, momentum=0.95, weight_decay=0.1,
        decay_all=False, schedule="linear", warmup_epochs=2, crop_padding=4, crop_mode="reflect", flip=0.5,
        label_smoothing=0.1, mixup=0.2, cutmix=0.5, drop_path=0.1, precision="bf16",
    )  # fmt: skip


def vit_plain() -> Recipe:
    """The same transformer with the scope's plain figures: Adam at 1e-5, a plateau schedule, only crop and flip.

    7 epochs, in 21 minutes on 2 cores, reach 39.40 % test (`results/vit-plain`).
    """
    return Recipe(
        model="vit", epochs=30, batch_size=32, optimiser="adam", lr=1e-5, weight_decay=1e-7,
        schedule="plateau", crop_padding=4, flip=0.5,
    )  # fmt: skip


def previt() -> Recipe:
    """A pretrained ViT-B/16 from timm with a new head, all of it fine-tuned for 10 epochs.

    Others report about 97.6 % cross-validated; not measured here, since the weights come from a hub.
    """
    return Recipe(
        model="previt", epochs=10, batch_size=32, optimiser="adam", lr=1e-4, weight_decay=1e-7,
        schedule="cosine", crop_padding=4, flip=0.5, precision="auto", compile="auto",
    )  # fmt: skip


def previt_cpu() -> Recipe:
    """What two cores can fine-tune: DINOv2's ViT-S/14 from a package, at 70 pixels and, in the end, at 98, in bf16.

    Few pixels first and more late, because an image at 98 pixels costs nearly twice one at 70 (Touvron et al. 2019,
    "Fixing the train-test resolution discrepancy"); lower rates for lower blocks (Bao et al. 2022, BEiT). 96.98 % test,
    one seed, in 76 minutes on 2 cores that other work shared (`results/previt`). Processors without native bf16 train
    it in fp32, in about twice the time.
    """
    return Recipe(
        model="previt", weights="packaged", image_size=98, early_image_size=70, early_epochs=4, pool="avg",
        epochs=6, batch_size=64, optimiser="adamw", lr=3e-4, weight_decay=0.05, decay_all=False, layer_decay=0.75,
        schedule="cosine", warmup_epochs=0.5, clip_norm=1.0, crop_padding=4, crop_mode="reflect", flip=0.5,
        label_smoothing=0.1, drop_path=0.1, precision="bf16",
    )  # fmt: skip


def speednet_reference() -> Recipe:
    """The public record recipe for one GPU, written anew: `airbench94_muon` (Jordan 2024), in fp32 and compiled.

    8 epochs of 25 batches of 2,000 on all 50,000 images, 6 views at the end. Its rates for SGD belong to a loss that is
    summed over the batch; ours is the mean, so they are 2,000 times as large. It has no validation images: nothing is
    chosen. To try something, `--set validation_fraction=0.1`.
    """
    return Recipe(
        model="speednet", epochs=8, batch_size=2000, optimiser="muon-sgd", lr=0.24, momentum=0.6, muon_steps=3,
        head_lr=0.67 * 2000, bias_lr=0.053 * 2000, rest_momentum=0.85, weight_decay=2e-6 * 2000, whitening_epochs=3,
        schedule="linear", crop_padding=2, crop_mode="reflect", flip=0.5, flip_mode="alternate", label_smoothing=0.2,
        views="shift", validation_fraction=0.0, compile="yes",
    )  # fmt: skip


def speednet() -> Recipe:
    """94 % in minutes on a CPU: the reference in smaller batches, five of its eleven epochs on 24 pixels.

    Brightness and contrast are jittered, and only images of which the network is unsure get all 6 views
    (hiverge/cifar10-speedrun has both). Chosen on validation (`docs/log.md`); then, like the reference, it trains on
    all 50,000 images: in bf16 on a GPU, on a processor in fp32 by Winograd's method. Recorded in `results/speednet`.
    """
    return dataclasses.replace(
        speednet_reference(), epochs=11, early_image_size=24, early_epochs=5, brightness=0.14, contrast=0.13,
        views_below=0.6, batch_size=1000, lr=0.2, head_lr=0.67 * 1000, bias_lr=0.053 * 1000, weight_decay=2e-6 * 1000,
        precision="auto", compile="auto", winograd=True,
    )  # fmt: skip


def speednet_quick() -> Recipe:
    """90 % in minutes on a CPU, for `make train`: a network half as wide, seven epochs, validation after each.

    Small batches, since few epochs have few steps. Recorded in `results/quick`.
    """
    return dataclasses.replace(
        speednet(), model="speednet-narrow", epochs=7, early_epochs=3, whitening_epochs=2, brightness=0.0, contrast=0.0,
        batch_size=500, lr=0.12, head_lr=0.67 * 500, bias_lr=0.053 * 500, weight_decay=2e-6 * 500, label_smoothing=0.1,
        validation_fraction=0.1,
    )  # fmt: skip


def speednet_95() -> Recipe:
    """95 %: a network one and a half times to twice as wide, trained longer.

    95.33 % test, one seed, in 45 minutes on 2 cores, 1.9 times the reference's (`results/speednet`).
    """
    return dataclasses.replace(speednet(), model="speednet-large", epochs=18, early_epochs=6)


def any_network() -> Recipe:
    """For a network that we know nothing of: AdamW with a short warm-up and a cosine, crop and flip."""
    return Recipe(
        model="cnn", epochs=30, batch_size=128, optimiser="adamw", lr=1e-3, weight_decay=0.05, decay_all=False,
        schedule="cosine", warmup_epochs=1, clip_norm=1.0, crop_padding=4, crop_mode="reflect", flip=0.5,
        label_smoothing=0.1, precision="auto",
    )  # fmt: skip


RECIPES: dict[str, Callable[[], Recipe]] = {
    "cnn": cnn,
    "resnet": resnet,
    "resnet-better": resnet_better,
    "vit": vit,
    "vit-plain": vit_plain,
    "previt": previt,
    "previt-cpu": previt_cpu,
    "speednet": speednet,
    "speednet-quick": speednet_quick,
    "speednet-95": speednet_95,
    "speednet-reference": speednet_reference,
}


def recipe_for(name: str) -> Recipe:
    """The recipe of that name, or, for a model's name, the recipe of its family with that model in it.

    "resnet" is the recipe; "resnet56" is that recipe with another network; "timm:NAME" and "package.module:function"
    get `any_network`. Whether the model exists is for `cifar.models` to say.
    """
    if name in RECIPES:
        return RECIPES[name]()
    if ":" in name:
        return dataclasses.replace(any_network(), model=name)
    family = next((known for known in RECIPES if name.startswith(known)), None)
    return dataclasses.replace(RECIPES[family]() if family else any_network(), model=name)


def training_share(recipe: Recipe) -> float:
    """The share of the 50,000 that is trained on: what no fold or held-out part takes."""
    return 1 - 1 / recipe.num_folds if recipe.num_folds else 1 - recipe.validation_fraction


def with_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with fields replaced by "field=value" strings, as typed after --set.

    Raises:
        InputError: no such field (names the nearest), or a value of the wrong type.
    """
    changes: dict[str, object] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise InputError(f"--set {setting}: write it as field=value.")
        changes[name] = parse_field(name, text.strip())
    return dataclasses.replace(recipe, **changes)  # type: ignore[arg-type]


def parse_field(name: str, text: str) -> object:
    """The typed value of a field of Recipe from what was typed.

    Raises:
        InputError: no such field, or text that is not of the field's type.
    """
    types = field_types()
    if name not in types:
        near = difflib.get_close_matches(name, types, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"A recipe has no field {name!r}.{hint} The fields are {', '.join(types)}.")
    wanted = types[name]
    if wanted is bool:
        words = {
            "true": True,
            "yes": True,
            "1": True,
            "on": True,
            "false": False,
            "no": False,
            "0": False,
            "off": False,
        }
        if text.lower() not in words:
            raise InputError(f"{name}={text}: write true or false.")
        return words[text.lower()]
    try:
        return wanted(text)
    except ValueError:
        kind = {int: "a whole number", float: "a number"}[wanted]
        raise InputError(f"{name}={text}: {name} is {kind}.") from None


def field_types() -> dict[str, type]:
    """Names of the fields of Recipe in order, with their types (str, int, float or bool)."""
    return {field.name: field.type for field in dataclasses.fields(Recipe)}  # type: ignore[misc]


def to_json(recipe: Recipe) -> str:
    """All fields as JSON text, in the order of the dataclass."""
    return json.dumps(dataclasses.asdict(recipe), indent=2) + "\n"


def from_mapping(values: Mapping[str, Any], *, origin: str) -> Recipe:
    """The recipe that was written by `to_json`; fields that are newer than the file have their defaults.

    Raises:
        InputError: a field that does not exist, is missing or has the wrong type; `origin` names the file.
    """
    types = field_types()
    for name, value in values.items():
        if name not in types:
            raise InputError(f"{origin}: a recipe has no field {name!r}.")
        good = isinstance(value, types[name]) or (types[name] is float and type(value) is int)
        if not good or (types[name] is not bool and isinstance(value, bool)):
            raise InputError(f"{origin}: {name} is {value!r}, which is no {types[name].__name__}.")
    required = [field.name for field in dataclasses.fields(Recipe) if field.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in values]:
        raise InputError(f"{origin}: the recipe lacks {', '.join(missing)}.")
    return Recipe(**values)


def read_recipe(path: Path) -> Recipe:
    """The recipe in a JSON file.

    Raises:
        WorldError: the file cannot be read.
        InputError: it holds no recipe.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WorldError(f"{path}: {error.strerror or error}; name a readable recipe.json.") from None
    except ValueError:
        raise InputError(f"{path} is not JSON; a recipe is what `cifar train --dry-run` prints.") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no recipe: it must be a JSON object.")
    return from_mapping(values, origin=str(path))
