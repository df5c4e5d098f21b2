"""Noise, blur and digital distortions of many images at once; settings and table in `cifar.robustness.corruptions`.

Every function takes pixels (float32 [N, 32, 32, 3], 0 to 1), its setting and an explicit random generator, and returns
pixels of the same shape; the caller clips values to 0 and 1.
"""

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = np.ndarray[Any, np.dtype[np.float32]]  # [N, 32, 32, C]
Places = NDArray[np.float64]  # in pixels, from the first one's centre
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
    """Enlarge the middle of images to the same frame, bilinear; factor ≥ 1.

    As the published script does by `scipy.ndimage.zoom`: the middle is a whole number of pixels, whose outermost
    centres stay outermost, and what is enlarged is cut to the frame again. So it is up to a pixel off the centre.
    """
    side = pixels.shape[1]
    middle = math.ceil(side / factor)
    enlarged = round(middle * factor)
    places = np.arange(side) + (enlarged - side) // 2
    sources = (side - middle) // 2 + places * ((middle - 1) / (enlarged - 1))
    first = np.minimum(np.floor(sources).astype(np.int64), side - 2)
    later = (sources - first).astype(np.float32)  # weight of the neighbour after
    down, right = later[:, None, None], later[:, None]
    rows = pixels[:, first] * (1 - down) + pixels[:, first + 1] * down
    enlarged_pixels: Pixels = rows[:, :, first] * (1 - right) + rows[:, :, first + 1] * right
    return enlarged_pixels


def interpolate(
    pixels: Pixels, rows: Places, columns: Places, *, reflect: Callable[[NDArray[np.int64], int], NDArray[np.int64]]
) -> Pixels:
    """Sample images between their pixels, bilinear, by operations whose bits are the same on every CPU.

    Args:
        pixels: float32 [N, S, S, C].
        rows, columns: where, in pixels: float64, broadcast to [N, S, S].
        reflect: brings indices beyond a border back, given the side.
    """
    side, images = pixels.shape[1], np.arange(len(pixels))[:, None, None]
    rows, columns = np.broadcast_arrays(rows, columns)
    top, left = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    down, right = (rows - top)[..., None], (columns - left)[..., None]  # weights of the later neighbours
    sampled = np.zeros(1)
    for row, weight in ((top, 1 - down), (top + 1, down)):
        for column, other in ((left, 1 - right), (left + 1, right)):
            neighbours = pixels[images, reflect(row, side), reflect(column, side)]
            sampled = sampled + weight * other * neighbours
    return sampled.astype(np.float32)


def mirrored(indices: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Indices beyond a border, mirrored about the centre of its pixel: … 2 1 | 0 1 2 …"""
    indices = np.abs(indices) % (2 * side - 2)
    return np.minimum(indices, 2 * side - 2 - indices)


def reflected(indices: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Indices beyond a border, mirrored about its edge: … 1 0 | 0 1 2 …"""
    indices = indices % (2 * side)
    return np.minimum(indices, 2 * side - 1 - indices)


def both_ways(pixels: Pixels, weights: np.ndarray) -> Pixels:
    """Apply a linear map, [to, from], to rows and to columns; sums in float64, whose order then shows in no pixel."""
    rows = np.einsum("ts,nscd->ntcd", weights.astype(np.float64), pixels)
    both: Pixels = np.einsum("ts,nrsd->nrtd", weights.astype(np.float64), rows).astype(np.float32)
    return both


def brightness(pixels: Pixels, more: float, random: Random) -> Pixels:  # noqa: ARG001
    """Add to the value of the HSV colour."""
    value: Pixels = pixels.max(axis=3, keepdims=True)
    brighter: Pixels = np.minimum(value + np.float32(more), 1)
    return np.where(value > 0, pixels * (brighter / np.maximum(value, 1e-6)), brighter)


def contrast(pixels: Pixels, fraction: float, random: Random) -> Pixels:  # noqa: ARG001
    """Keep a fraction of the distance to each channel's mean."""
    mean: Pixels = pixels.mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(np.float32)
    return mean + np.float32(fraction) * (pixels - mean)


def elastic_transform(pixels: Pixels, setting: tuple[float, float, float], random: Random) -> Pixels:
    """Apply a random affine map, then a smooth random displacement of every pixel, each bilinear.

    Args:
        setting: factor and standard deviation of the displacement, and how far the affine map's three points may
            move, all in pixels.
    """
    from scipy.ndimage import gaussian_filter

    factor, std, reach = setting
    num_images, side = pixels.shape[:2]
    corners = side // 2 + side // 3 * np.array([[1, 1], [1, -1], [-1, -1]])  # [3, 2], across and down
    moved = corners + random.uniform(-reach, reach, size=(num_images, 3, 2))
    ones = np.ones((num_images, 3, 1))
    back = np.linalg.solve(np.concatenate((moved, ones), axis=2), np.broadcast_to(corners, moved.shape))  # [N, 3, 2]
    down, across = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    columns, rows = (
        across * back[:, None, None, 0, axis] + down * back[:, None, None, 1, axis] + back[:, None, None, 2, axis]
        for axis in (0, 1)
    )
    mapped = interpolate(pixels, rows, columns, reflect=mirrored)
    steps = random.uniform(-1, 1, size=(2, num_images, side, side))
    steps = factor * gaussian_filter(steps, sigma=(0, 0, std, std), mode="reflect", truncate=3)
    return interpolate(mapped, down + steps[0], across + steps[1], reflect=reflected)


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
