"""Recipes of vision transformers: from scratch, and pretrained ones that are fine-tuned."""

from cifar.recipes.schema import Augment, Network, Optimiser, Recipe, Schedule


def vit() -> Recipe:
    """A small vision transformer with a convolutional stem (Xiao et al. 2021), from scratch with Muon, in 50 epochs.

    With mixup and CutMix; without them it was not tried. Its training accuracy counts the first of two mixed labels.
    92.45 % test, one seed, in 61 minutes on 2 cores that other work shared (`results/vit`), in bf16; CPUs without
    native bf16 train it in fp32, in about twice the time.
    """
    return Recipe(
        model="vit", epochs=50, batch_size=128, label_smoothing=0.1, precision="bf16",
        network=Network(drop_path=0.1),
        optimiser=Optimiser(kind="muon", lr=3e-3, momentum=0.95, weight_decay=0.1, decay_all=False),
        schedule=Schedule(kind="linear", warmup_epochs=2),
        augment=Augment(crop_padding=4, crop_mode="reflect", flip=0.5, mixup=0.2, cutmix=0.5),
    )  # fmt: skip


def vit_plain() -> Recipe:
    """The same transformer with the original project's figures: Adam at 1e-5, a plateau schedule, only crop and flip.

    7 epochs, in 21 minutes on 2 cores, reach 39.40 % test (`results/vit-plain`).
    """
    return Recipe(
        model="vit", epochs=30, batch_size=32,
        optimiser=Optimiser(kind="adam", lr=1e-5, weight_decay=1e-7),
        schedule=Schedule(kind="plateau"),
        augment=Augment(crop_padding=4, flip=0.5),
    )  # fmt: skip


def previt() -> Recipe:
    """A pretrained ViT-B/16 from timm with a new head, all of it fine-tuned for 10 epochs.

    Others report about 97.6 % cross-validated; not measured here, since the weights come from a hub.
    """
    return Recipe(
        model="previt", epochs=10, batch_size=32, precision="auto",
        optimiser=Optimiser(kind="adam", lr=1e-4, weight_decay=1e-7),
        schedule=Schedule(kind="cosine"),
        augment=Augment(crop_padding=4, flip=0.5),
    )  # fmt: skip


def previt_cpu() -> Recipe:
    """What two cores can fine-tune: DINOv2's ViT-S/14 from a package, at 70 pixels and, in the end, at 98, in bf16.

    Smaller images first, because an image at 98 pixels costs nearly twice one at 70 (Touvron et al. 2019, "Fixing the
    train-test resolution discrepancy"); lower rates for lower blocks (Bao et al. 2022, BEiT). 96.98 % test, one seed,
    in 76 minutes on 2 cores that other work shared (`results/previt`). CPUs without native bf16 train it in fp32, in
    about twice the time.
    """
    return Recipe(
        model="previt", epochs=6, batch_size=64, label_smoothing=0.1, precision="bf16",
        network=Network(weights="packaged", image_size=98, pool="avg", drop_path=0.1),
        optimiser=Optimiser(kind="adamw", lr=3e-4, weight_decay=0.05, decay_all=False, layer_decay=0.75, clip_norm=1.0),
        schedule=Schedule(kind="cosine", warmup_epochs=0.5),
        augment=Augment(crop_padding=4, crop_mode="reflect", flip=0.5, early_image_size=70, early_epochs=4),
    )  # fmt: skip
