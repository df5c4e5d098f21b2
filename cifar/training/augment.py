"""Augmentation of whole batches, on whatever device they lie.

Randomness is drawn first (`draw_*`, from an explicit CPU generator, so that every device sees the same draws) and then
applied by pure functions (`crop_and_flip`, `jitter`, `mixup`, `cutmix`). Both ends of every probability are exact.
"""

import torch
from torch import Generator, Tensor

from cifar.data.batches import draw_order, to_pixels
from cifar.recipes.schema import Augment


def augment(
    images: Tensor, labels: Tensor, recipe: Augment, *, generator: Generator, flips: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Crop, mirror, jitter and mix a batch.

    Args:
        images: uint8 [N, 3, H, W]; float activations of a frozen part pass unchanged.
        labels: int64 [N].
        recipe: its augmentation group.
        generator: on the CPU.
        flips: bool [N], which images to mirror, on the CPU; drawn where not given.

    Returns:
        float pixels [N, 3, H, W] in [0, 1], beyond it only by jitter; the labels; the labels that were mixed in [N];
        lambda, the weight of the images' own labels.
    """
    num_images, device = len(images), images.device
    if recipe.crop_padding or recipe.flip:
        offsets = draw_offsets(num_images, most=2 * recipe.crop_padding, generator=generator)
        if flips is None:
            flips = draw_flips(num_images, probability=recipe.flip, generator=generator)
        images = crop_and_flip(images, offsets, flips, padding=recipe.crop_padding, mode=recipe.crop_mode)
    pixels = to_pixels(images)
    if recipe.brightness or recipe.contrast:
        brightness, contrast = (
            draw_jitter(num_images, most=most, generator=generator).to(device)
            for most in (recipe.brightness, recipe.contrast)
        )
        pixels = jitter(pixels, brightness, contrast)
    if not (recipe.mixup or recipe.cutmix):
        return pixels, labels, labels, 1.0
    order = draw_order(num_images, generator=generator).to(device)
    use_mixup = bool(recipe.mixup)
    if recipe.mixup and recipe.cutmix:
        use_mixup = bool(torch.rand((), generator=generator) < 0.5)
    lam = draw_lambda(alpha=recipe.mixup if use_mixup else recipe.cutmix, generator=generator)
    if use_mixup:
        return mixup(pixels, order, lam=lam), labels, labels[order], lam
    size = pixels.shape[-1]
    box = draw_box(lam, size=size, generator=generator)
    return cutmix(pixels, order, box), labels, labels[order], box_lambda(box, size=size)


def draw_offsets(num_images: int, *, most: int, generator: Generator) -> Tensor:
    """Where each crop begins: int64 [N, 2] (row, column), uniform over 0 … most.

    Args:
        num_images: N.
        most: twice the padding, in pixels.
        generator: on the CPU.
    """
    return torch.randint(0, most + 1, (num_images, 2), generator=generator)


def draw_flips(num_images: int, *, probability: float, generator: Generator) -> Tensor:
    """Which images are mirrored: bool [N]; never for probability 0, always for 1.

    Args:
        num_images: N.
        probability: of each to be mirrored.
        generator: on the CPU.
    """
    return torch.rand(num_images, generator=generator) < probability


def alternate_flips(first: Tensor, indices: Tensor, *, epoch: int) -> Tensor:
    """Which images of a batch are mirrored, so that each is seen both ways in two epochs (Jordan 2024, section 3.6).

    Args:
        first: bool [N], mirrored in the even epochs.
        indices: int64 [B], the batch; on the CPU as well.
        epoch: from 0.
    """
    return ~first[indices] if epoch % 2 else first[indices]


def crop_and_flip(images: Tensor, offsets: Tensor, flips: Tensor, *, padding: int, mode: str) -> Tensor:
    """Pad each side, crop to the original size, mirror left to right.

    Args:
        images: [N, C, H, W], any dtype, on any device; fastest in channels_last memory.
        offsets: int64 [N, 2], first row and column of the crop in the padded image, 0 … 2·padding.
        flips: bool [N], mirrored after the crop. Both are on the CPU, where they were drawn.
        padding: pixels per side; at most H - 1 for reflect.
        mode: "zero" (black) or "reflect" (mirrored about the border pixel, as in PyTorch's pad).

    Returns:
        [N, C, H, W] of the same dtype, in channels_last memory.
    """
    num_images, num_channels, height, width = images.shape
    padded_height, padded_width = height + 2 * padding, width + 2 * padding
    # Padded images: first those that are kept as they are, then those that are mirrored.
    kept, mirrored = (~flips).nonzero().flatten(), flips.nonzero().flatten()
    order = torch.cat([kept, mirrored])
    pixels = images.permute(0, 2, 3, 1).index_select(0, order.to(images.device))  # [N, H, W, C]
    padded = images.new_zeros(num_images, padded_height, padded_width, num_channels)
    inner = padded[:, padding : padding + height, padding : padding + width]
    inner[: len(kept)] = pixels[: len(kept)]
    inner[len(kept) :] = pixels[len(kept) :].flip(2)
    if mode == "reflect":
        for axis, length in ((2, padded_width), (1, padded_height)):
            for border, source in ((0, padding + 1), (length - padding, length - 2 * padding - 1)):
                padded.narrow(axis, border, padding).copy_(padded.narrow(axis, source, padding).flip(axis))

    # A row of a crop is a run of adjacent pixels: copied as one run of bytes, not pixel by pixel.
    column = torch.where(flips, padded_width - width - offsets[:, 1], offsets[:, 1])
    first_pixel = (order.argsort() * padded_height + offsets[:, 0]) * padded_width + column  # [N]
    rows = first_pixel.to(images.device)[:, None] + padded_width * torch.arange(height, device=images.device)  # [N, H]
    num_runs = num_images * padded_height * padded_width - width + 1
    runs = padded.flatten().as_strided((num_runs, width * num_channels), (num_channels, 1))
    cropped = runs.index_select(0, rows.flatten())  # [N·H, W·C]
    return cropped.view(num_images, height, width, num_channels).permute(0, 3, 1, 2)


def draw_jitter(num_images: int, *, most: float, generator: Generator) -> Tensor:
    """How much each image's brightness or contrast changes: float [N], uniform from -most to most.

    Args:
        num_images: N.
        most: the maximum.
        generator: on the CPU.
    """
    return (2 * torch.rand(num_images, generator=generator) - 1) * most


def jitter(pixels: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Contrast, then brightness jitter of each image (hiverge/cifar10-speedrun); nothing is clamped.

    Args:
        pixels: float [N, 3, H, W] in [0, 1].
        brightness: float [N], added to all pixels.
        contrast: float [N], the relative change of a pixel's distance to the image's mean; -1 is uniform grey.
    """
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)  # [N, 1, 1, 1]
    factor = (1 + contrast).view(-1, 1, 1, 1)
    return pixels * factor + (mean * (1 - factor) + brightness.view(-1, 1, 1, 1))


def draw_lambda(*, alpha: float, generator: Generator) -> float:
    """The weight of the first image in a mixture, from Beta(alpha, alpha), by inverting its distribution function."""
    from scipy.special import betaincinv

    uniform = torch.rand((), generator=generator, dtype=torch.float64).item()
    return float(betaincinv(alpha, alpha, uniform))


def mixup(images: Tensor, order: Tensor, *, lam: float) -> Tensor:
    """Blend each image with another (Zhang et al. 2018, "mixup").

    Args:
        images: float [N, 3, H, W].
        order: int64 [N], the other image of each.
        lam: weight of the image itself, 0 to 1; its label has the same weight.
    """
    return torch.lerp(images[order], images, lam)


def cutmix(images: Tensor, order: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """Paste a box of another image into each (Yun et al. 2019, "CutMix").

    Args:
        images: [N, 3, H, W].
        order: int64 [N], the other image of each.
        box: top, left, bottom, right in pixels, bottom and right excluded; lambda is `box_lambda`.
    """
    top, left, bottom, right = box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[order, :, top:bottom, left:right]
    return mixed


def draw_box(lam: float, *, size: int, generator: Generator) -> tuple[int, int, int, int]:
    """A box of area 1 - lam of a size × size image, its centre anywhere, cut off at the border."""
    side = round(size * (1 - lam) ** 0.5)
    centre = torch.randint(0, size, (2,), generator=generator)
    top, left = (int(value) - side // 2 for value in centre)
    return max(top, 0), max(left, 0), min(top + side, size), min(left + side, size)


def box_lambda(box: tuple[int, int, int, int], *, size: int) -> float:
    """The fraction of a size × size image outside a box."""
    top, left, bottom, right = box
    return 1 - (bottom - top) * (right - left) / size**2
