"""Recipes of the small fast network: 94 % on a CPU, and the public record recipe that it is measured against."""

from cifar.recipes.schema import TTA, Augment, Holdout, Optimiser, Recipe, Schedule
from cifar.recipes.text import with_fields


def speednet_reference() -> Recipe:
    """The public record recipe for one GPU, `airbench94_muon` (Jordan 2024), in our code and in fp32.

    8 epochs of 25 batches of 2,000 on all 50,000 images, six-view TTA. Its learning rates for SGD belong to a loss that
    is summed over the batch; ours is the mean, so they are 2,000 times as large. It has no validation images: nothing
    is chosen. To try something, `--set validation_fraction=0.1`. As a reference it is run without our native kernels
    and compiled (`--kernels pytorch --compile`).

    It differs from the original in four things: precision (his is half), BatchNorm's eps (1e-5; his is 1e-12), TTA (the
    mean of the probabilities of six views; his is a mean of logits with weights ¼ for the two centred views and ⅛ for
    the four shifted ones), and, at other widths than 256, the head's scale (1/256; his is 1 over the width).
    """
    return Recipe(
        model="speednet",
        epochs=8,
        batch_size=2000,
        optimiser=Optimiser(
            kind="muon-sgd", lr=0.24, momentum=0.6, muon_steps=3, head_lr=0.67 * 2000, bias_lr=0.053 * 2000,
            rest_momentum=0.85, weight_decay=2e-6 * 2000, whitening_epochs=3,
        ),
        schedule=Schedule(kind="linear"),
        augment=Augment(crop_padding=2, crop_mode="reflect", flip=0.5, flip_mode="alternate"),
        label_smoothing=0.2,
        tta=TTA(views="shift"),
        holdout=Holdout(validation_fraction=0.0),
    )  # fmt: skip


def speednet() -> Recipe:
    """94 % in minutes on a CPU: the reference in smaller batches, five of its ten epochs on 24 pixels.

    With brightness and contrast jitter, and the further TTA views only for the least confident images
    (hiverge/cifar10-speedrun has both). Chosen on validation (`docs/log.md`); then, like the reference, it trains on
    all 50,000 images: in bf16 on a GPU, on a CPU in fp32. Recorded runs: `results/speednet`.
    """
    return with_fields(
        speednet_reference(), epochs=10, early_image_size=24, early_epochs=5, brightness=0.14, contrast=0.13,
        views_below=0.6, batch_size=1000, lr=0.18, momentum=0.5, head_lr=0.67 * 1000,
        bias_lr=0.053 * 1000, weight_decay=2e-6 * 1000, whitening_epochs=1, precision="auto",
    )  # fmt: skip


def speednet_quick() -> Recipe:
    """90 % in minutes on a CPU, for `make train`: a network half as wide, seven epochs, validation after each.

    Small batches, since few epochs have few steps. Recorded run: `results/quick`.
    """
    return with_fields(
        speednet(), model="speednet-narrow", epochs=7, early_epochs=3, whitening_epochs=2, brightness=0.0, contrast=0.0,
        batch_size=500, lr=0.12, momentum=0.6, head_lr=0.67 * 500, bias_lr=0.053 * 500,
        weight_decay=2e-6 * 500, label_smoothing=0.1, validation_fraction=0.1,
    )  # fmt: skip


def speednet_95() -> Recipe:
    """95 %: a network one and a half times to twice as wide, trained longer.

    95.33 % test, one seed, in 45 minutes on 2 cores, 1.9 times the reference's (`results/speednet`).
    """
    return with_fields(
        speednet(), model="speednet-large", epochs=18, early_epochs=6, lr=0.2, momentum=0.6, whitening_epochs=3,
    )  # fmt: skip
