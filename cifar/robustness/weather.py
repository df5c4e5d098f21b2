"""Snow, frost and fog on many images at once; settings and table in `cifar.robustness.corruptions`.

Arguments and results as in `cifar.robustness.distort`.
"""

import numpy as np

from cifar.robustness.distort import Pixels, Random, smear, zoom

GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # weights of red, green and blue (ITU-R BT.601)
ICE = np.array([0.82, 0.93, 1.0], dtype=np.float32)


def fog(pixels: Pixels, setting: tuple[float, float], random: Random) -> Pixels:
    """Add a cloud, then rescale to the former brightest value; setting: the cloud's weight and its decay."""
    weight, decay = setting
    cloud = clouds(len(pixels), side=pixels.shape[1], decay=decay, random=random)
    brightest = pixels.max(axis=(1, 2, 3), keepdims=True)
    foggy: Pixels = (pixels + np.float32(weight) * cloud) * brightest / (brightest + np.float32(weight))
    return foggy


def clouds(num_images: int, *, side: int, decay: float, random: Random) -> Pixels:
    """Return plasma by midpoint displacement on a torus (diamond and square in turn), from 0 to 1: [N, side, side, 1].

    Args:
        num_images: N.
        side: a power of two.
        decay: every refinement of the grid divides the displacement by its square; larger is smoother.
        random: of the displacements.
    """
    heights = np.zeros((num_images, side, side))
    step, height = side, 1.0
    while step > 1:
        half = step // 2
        corners, centres = heights[:, ::step, ::step], heights[:, half::step, half::step]  # views
        pairs = corners + np.roll(corners, -1, axis=2)
        centres[:] = displace((pairs + np.roll(pairs, -1, axis=1)) / 4, height, random)
        heights[:, ::step, half::step] = displace((pairs + centres + np.roll(centres, 1, axis=1)) / 4, height, random)
        pairs = corners + np.roll(corners, -1, axis=1)
        heights[:, half::step, ::step] = displace((pairs + centres + np.roll(centres, 1, axis=2)) / 4, height, random)
        step, height = half, height / decay**2
    heights -= heights.min(axis=(1, 2), keepdims=True)
    cloud: Pixels = (heights / heights.max(axis=(1, 2), keepdims=True)).astype(np.float32)[..., None]
    return cloud


def displace(heights: np.ndarray, height: float, random: Random) -> np.ndarray:
    """Move heights up or down by at most `height`."""
    return heights + random.uniform(-height, height, size=heights.shape)


def frost(pixels: Pixels, setting: tuple[float, float], random: Random) -> Pixels:
    """Add ice crystals, which are bright ridges between two clouds, tinted; setting: weights of image and of ice.

    The paper overlays photographs of frost instead.
    """
    weight, ice = setting
    coarse, fine = (
        clouds(len(pixels), side=pixels.shape[1], decay=decay, random=random) for decay in (1.3, 1.1)
    )  # [N, 32, 32, 1]
    ridges = 1 - np.abs(2 * coarse - 1)
    crystals = np.clip(0.25 + 0.75 * ridges**2 + 0.5 * (fine - 0.5), 0, 1)
    return np.float32(weight) * pixels + np.float32(ice) * crystals * ICE


def snow(pixels: Pixels, setting: tuple[float, float, float, float, int, float, float], random: Random) -> Pixels:
    """Whiten and add falling flakes, once and once upside down.

    Args:
        setting: mean and standard deviation of the layer that flakes are cut from, its enlargement, the value above
            which there is a flake, radius and standard deviation of its fall (`smear`), and the image's weight against
            its whitened copy.
    """
    mean, std, factor, threshold, radius, spread, weight = setting
    layer = random.normal(mean, std, size=(*pixels.shape[:3], 1)).astype(np.float32)
    layer = zoom(layer, factor)
    layer = np.clip(np.where(layer < threshold, 0, layer), 0, 1)
    layer = smear(layer, (radius, spread), random.uniform(-135, -45, size=len(pixels)))
    grey = (pixels.astype(np.float64) * GREY).sum(axis=3, keepdims=True).astype(np.float32)
    whitened = np.maximum(pixels, grey * 1.5 + 0.5)
    snowy: Pixels = np.float32(weight) * pixels + np.float32(1 - weight) * whitened + layer + layer[:, ::-1, ::-1]
    return snowy
