"""Noise, blur and digital distortions of many images at once; settings and table in `cifar.robustness.corruptions`.

Every function takes pixels (float32 [N, 32, 32, 3], 0 to 1), its setting and an explicit random generator, and returns
pixels of the same shape; the caller clips values to 0 and 1.
"""

import io
from typing import Any

import numpy as np
from PIL import Image

Pixels = np.ndarray[Any, np.dtype[np.float32]]  # [N, 32, 32, C]
Random = np.random.Generator


def gaussian_noise(pixels: Pixels, std: float, random: Random) -> Pixels:
    """Add normal noise of a standard deviation to each value."""
    return pixels + np.float32(std) * random.standard_normal(pixels.shape, dtype=np.float32)


def shot_noise(pixels: Pixels, photons: float, random: Random) -> Pixels:
    """Apply Poisson noise; photons: those of a value of 1."""
    return (random.poisson(pixels * photons) / photons).astype(np.float32)


def impulse_noise(pixels: Pixels, fraction: float, random: Random) -> Pixels:
    """Set a fraction of the values to 0 or 1, each equally often (salt and pepper)."""
    draws = random.random(pixels.shape, dtype=np.float32)
    return np.where(draws < fraction, np.float32(draws < fraction / 2), pixels)


def defocus_blur(pixels: Pixels, setting: tuple[float, float], random: Random) -> Pixels:  # noqa: ARG001
    """Blur by a disk of a radius in pixels, whose edge is softened by a Gaussian of a standard deviation."""
    from scipy.ndimage import convolve

    radius, softness = setting
    steps = np.arange(-3, 4)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).astype(np.float64)  # [7, 7]
    near = np.exp(-(np.arange(-1, 2) ** 2) / (2 * softness**2))
    kernel = convolve(disk / disk.sum(), np.outer(near, near) / near.sum() ** 2, mode="constant")
    return convolve(pixels, (kernel / kernel.sum())[None, :, :, None], mode="mirror")  # type: ignore[no-any-return]


def glass_blur(pixels: Pixels, setting: tuple[float, int, int], random: Random) -> Pixels:
    """Copy to every pixel a random near one, above or left of it or itself, between Gaussian blurs (frosted glass).

    Args:
        setting: the blurs' standard deviation in pixels, the reach in pixels, how often pixels are copied.
    """
    std, reach, rounds = setting
    scattered = gaussian_blur(pixels, std)
    images, line = np.arange(len(pixels))[:, None, None], np.arange(pixels.shape[1])
    for _ in range(rounds):
        steps = random.integers(-reach, reach, size=(2, *pixels.shape[:3]))
        rows = np.clip(line[:, None] + steps[0], 0, line[-1])  # [N, 32, 32]
        columns = np.clip(line + steps[1], 0, line[-1])
        scattered = scattered[images, rows, columns]
    return gaussian_blur(scattered, std)


def gaussian_blur(pixels: Pixels, std: float) -> Pixels:
    """Blur by a Gaussian of a standard deviation in pixels."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(pixels, sigma=(0, std, std, 0), mode="nearest")  # type: ignore[no-any-return]


def motion_blur(pixels: Pixels, setting: tuple[int, float], random: Random) -> Pixels:
    """Blur along a line within 45° of the horizontal, drawn for each image; setting as of `smear`."""
    return smear(pixels, setting, random.uniform(-45, 45, size=len(pixels)))


def smear(pixels: Pixels, setting: tuple[int, float], degrees: np.ndarray) -> Pixels:
    """Return the weighted mean of an image and its copies moved pixel by pixel along a line, borders repeated.

    Args:
        pixels: float32 [N, 32, 32, C].
        setting: radius (2·radius + 1 steps of a pixel) and the standard deviation of the weights in steps.
        degrees: direction of each line, [N].
    """
    radius, std = setting
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * std**2))
    steps = steps[weights > 1e-4]  # the rest has no effect
    weights = weights[: len(steps)] / weights[: len(steps)].sum()
    side, images = pixels.shape[1], np.arange(len(pixels))[:, None, None]
    line, angles = np.arange(side), np.radians(degrees)[:, None]
    smeared = np.zeros_like(pixels)
    for step, weight in zip(steps, weights, strict=True):
        rows = np.clip(line + np.rint(step * np.sin(angles)).astype(int), 0, side - 1)  # [N, side]
        columns = np.clip(line + np.rint(step * np.cos(angles)).astype(int), 0, side - 1)
        smeared += np.float32(weight) * pixels[images, rows[:, :, None], columns[:, None, :]]
    return smeared


def zoom_blur(pixels: Pixels, largest: float, random: Random) -> Pixels:  # noqa: ARG001
    """Return the mean of an image and its copies enlarged by 1, 1.01, 1.02 … up to the largest factor."""
    factors = np.arange(1, largest + 0.005, 0.01)
    total = pixels.copy()
    for factor in factors:
        total += zoom(pixels, factor)
    return total / np.float32(len(factors) + 1)


def zoom(pixels: Pixels, factor: float) -> Pixels:
    """Enlarge images about their centre, bilinear, in the same frame; factor ≥ 1."""
    side = pixels.shape[1]
    centre = (side - 1) / 2
    sources = (np.arange(side) - centre) / factor + centre
    weights = np.maximum(0, 1 - np.abs(sources[:, None] - np.arange(side)))  # [to, from]
    return both_ways(pixels, weights)


def both_ways(pixels: Pixels, weights: np.ndarray) -> Pixels:
    """Apply a linear map, [to, from], to rows and to columns."""
    weights = weights.astype(np.float32)
    rows = np.matmul(weights, pixels.reshape(*pixels.shape[:2], -1)).reshape(pixels.shape)  # over rows
    both: Pixels = np.matmul(weights, rows)  # over columns, [N, 32, 32, C]
    return both


def brightness(pixels: Pixels, more: float, random: Random) -> Pixels:  # noqa: ARG001
    """Add to the value of the HSV colour."""
    value: Pixels = pixels.max(axis=3, keepdims=True)
    brighter: Pixels = np.minimum(value + np.float32(more), 1)
    return np.where(value > 0, pixels * (brighter / np.maximum(value, 1e-6)), brighter)


def contrast(pixels: Pixels, fraction: float, random: Random) -> Pixels:  # noqa: ARG001
    """Keep a fraction of the distance to each channel's mean."""
    mean: Pixels = pixels.mean(axis=(1, 2), keepdims=True)
    return mean + np.float32(fraction) * (pixels - mean)


def elastic_transform(pixels: Pixels, setting: tuple[float, float, float], random: Random) -> Pixels:
    """Apply a random affine map and a smooth random displacement of every pixel, bilinear, borders reflected.

    Args:
        setting: factor and standard deviation of the displacement, and how far the affine map's three points may
            move, all in pixels.
    """
    import torch
    import torch.nn.functional as F
    from scipy.ndimage import gaussian_filter

    factor, std, reach = setting
    num_images, side = pixels.shape[:2]
    centre, third = (side - 1) / 2, side // 3
    corners = centre + third * np.array([[1, 1], [1, -1], [-1, -1]])  # [3, 2]
    moved = corners + random.uniform(-reach, reach, size=(num_images, 3, 2))
    affine = np.linalg.solve(np.c_[corners, np.ones(3)][None], moved)  # [N, 3, 2]
    steps = random.uniform(-1, 1, size=(num_images, side, side, 2))
    steps = factor * gaussian_filter(steps, sigma=(0, std, std, 0), mode="reflect", truncate=3)
    across, down = np.meshgrid(np.arange(side), np.arange(side))
    sources = np.stack((across, down), axis=-1) + steps  # [N, 32, 32, 2]
    sources = sources @ affine[:, None, :2] + affine[:, None, 2:]
    grid = torch.from_numpy((sources - centre) / centre).float()  # -1 and 1 are the centres of the outer pixels
    images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    warped = F.grid_sample(images, grid, padding_mode="reflection", align_corners=True)
    return warped.permute(0, 2, 3, 1).numpy()


def pixelate(pixels: Pixels, fraction: float, random: Random) -> Pixels:  # noqa: ARG001
    """Shrink to a fraction of the side and enlarge again, both by Pillow's box filter, here as a linear map."""
    side = pixels.shape[1]
    size = int(side * fraction)
    lines = Image.fromarray(np.eye(side, dtype=np.float32))
    shrunk = lines.resize((side, size), Image.Resampling.BOX)  # [to, from]
    return both_ways(pixels, np.asarray(shrunk.resize((side, side), Image.Resampling.BOX)))


def jpeg_compression(pixels: Pixels, quality: int, random: Random) -> Pixels:  # noqa: ARG001
    """Compress as JPEG of a quality, one image at a time."""
    compressed = np.empty_like(pixels)
    for index, image in enumerate(np.rint(255 * pixels).astype(np.uint8)):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        compressed[index] = np.asarray(Image.open(buffer), dtype=np.float32) / 255
    return compressed
