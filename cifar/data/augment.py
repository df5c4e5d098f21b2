"""Augmentation: whole batches in, whole batches out, on whatever device they lie.

Randomness is drawn outside (`draw_*`, from an explicit CPU generator, so that every device sees the same draws) and
applied inside (`crop_and_flip`, `mix_*`, pure functions). Both ends of every probability are exact.
"""

import torch
from torch import Generator, Tensor


def draw_offsets(num_images: int, *, most: int, generator: Generator) -> Tensor:
    """Where each crop begins: int64 [N, 2] (row, column), uniform over 0 … most."""
    return torch.randint(0, most + 1, (num_images, 2), generator=generator)


def draw_flips(num_images: int, *, probability: float, generator: Generator) -> Tensor:
    """Which images are mirrored: bool [N]; never for probability 0, always for 1."""
    return torch.rand(num_images, generator=generator) < probability


def alternate_flips(first: Tensor, indices: Tensor, *, epoch: int) -> Tensor:
    """Which images of a batch are mirrored, where each is seen both ways in two epochs (Jordan 2024, section 3.6).

    Args:
        first: bool [N], those that are mirrored in epoch 0 and every other one after it.
        indices: int64 [B], the batch; on the CPU as well.
        epoch: from 0.
    """
    return ~first[indices] if epoch % 2 else first[indices]


def crop_and_flip(images: Tensor, offsets: Tensor, flips: Tensor, *, padding: int, mode: str, size: int = 0) -> Tensor:
    """Pad each side, cut a window, mirror it left to right.

    Args:
        images: [N, C, H, W], any dtype, on any device; quickest in channels_last memory.
        offsets: int64 [N, 2], first row and column of the window in the padded image, 0 … H + 2·padding - size.
        flips: bool [N], mirrored after the crop. Both are on the CPU, where they were drawn.
        padding: pixels a side; at most H - 1 for reflect.
        mode: "zero" (black) or "reflect" (mirrored about the border pixel, as in torch's pad).
        size: pixels a side of the window; 0 is the images' own size.

    Returns:
        [N, C, size, size] of the same dtype, in channels_last memory.
    """
    num_images, num_channels, height, width = images.shape
    size, tall, wide = size or height, height + 2 * padding, width + 2 * padding
    # Images with their borders: first those that stay as they are, then the others, mirrored.
    kept, mirrored = (~flips).nonzero().flatten(), flips.nonzero().flatten()
    order = torch.cat([kept, mirrored])
    pixels = images.permute(0, 2, 3, 1).index_select(0, order.to(images.device))
    padded = images.new_zeros(num_images, tall, wide, num_channels)
    inner = padded[:, padding : padding + height, padding : padding + width]
    inner[: len(kept)] = pixels[: len(kept)]
    inner[len(kept) :] = pixels[len(kept) :].flip(2)
    if mode == "reflect":
        for axis, length in ((2, wide), (1, tall)):
            for border, within in ((0, padding + 1), (length - padding, length - 2 * padding - 1)):
                padded.narrow(axis, border, padding).copy_(padded.narrow(axis, within, padding).flip(axis))

    # A window's row is so many pixels that follow one another: whole runs of bytes are copied, not pixel after pixel.
    column = torch.where(flips, wide - size - offsets[:, 1], offsets[:, 1])
    first = (order.argsort() * tall + offsets[:, 0]) * wide + column  # int64 [N]: the place of a window's first pixel
    places = first.to(images.device)[:, None] + wide * torch.arange(size, device=images.device)  # [N, size]
    num_runs = num_images * tall * wide - size + 1
    runs = padded.flatten().as_strided((num_runs, size * num_channels), (num_channels, 1))
    cropped = runs.index_select(0, places.flatten())
    return cropped.view(num_images, size, size, num_channels).permute(0, 3, 1, 2)


def draw_jitter(num_images: int, *, most: float, generator: Generator) -> Tensor:
    """How much each image's brightness or contrast changes: float [N], uniform from -most to most."""
    return (2 * torch.rand(num_images, generator=generator) - 1) * most


def jitter(pixels: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Spread each image's pixels about their mean, then shift them (hiverge/cifar10-speedrun); nothing is clamped.

    Args:
        pixels: float [N, 3, H, W] in [0, 1].
        brightness: float [N], added to all pixels.
        contrast: float [N], -1 (one grey) or more; 0 leaves the image as it is.
    """
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)  # [N, 1, 1, 1]
    factor = (1 + contrast).view(-1, 1, 1, 1)
    return pixels * factor + (mean * (1 - factor) + brightness.view(-1, 1, 1, 1))


def draw_share(*, alpha: float, generator: Generator) -> float:
    """The share of the first image in a mixture, from Beta(alpha, alpha), by inverting its distribution function."""
    from scipy.stats import beta

    uniform = torch.rand((), generator=generator, dtype=torch.float64).item()
    return float(beta.ppf(uniform, alpha, alpha))


def mixup(images: Tensor, order: Tensor, *, share: float) -> Tensor:
    """Blend each image with another (Zhang et al. 2018, "mixup").

    Args:
        images: float [N, 3, H, W].
        order: int64 [N], the other image of each.
        share: weight of the image itself, 0 to 1; its label has the same weight.
    """
    return torch.lerp(images[order], images, share)


def cutmix(images: Tensor, order: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """Paste a box of another image into each (Yun et al. 2019, "CutMix").

    Args:
        images: [N, 3, H, W].
        order: int64 [N], the other image of each.
        box: top, left, bottom, right in pixels, bottom and right excluded; the label's share is `box_share`.
    """
    top, left, bottom, right = box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[order, :, top:bottom, left:right]
    return mixed


def draw_box(share: float, *, size: int, generator: Generator) -> tuple[int, int, int, int]:
    """A box that covers 1 - share of a size × size image before it is cut off at the border, its centre anywhere."""
    side = round(size * (1 - share) ** 0.5)
    centre = torch.randint(0, size, (2,), generator=generator)
    top, left = (int(value) - side // 2 for value in centre)
    return max(top, 0), max(left, 0), min(top + side, size), min(left + side, size)


def box_share(box: tuple[int, int, int, int], *, size: int) -> float:
    """The part of a size × size image that a box leaves alone, 0 to 1."""
    top, left, bottom, right = box
    return 1 - (bottom - top) * (right - left) / size**2
