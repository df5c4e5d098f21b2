"""Intervals of a proportion and of a mean: pure functions of counts and values."""

import math
import statistics
from collections.abc import Sequence


def wilson_interval(num_correct: int, num_images: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of a proportion over drawn images (Wilson 1927): it covers the luck of the draw of images.

    Args:
        num_correct: images that count, from 0 to num_images.
        num_images: all images.
        confidence: coverage of the interval, a fraction.

    Returns:
        its low and high ends, fractions.

    Raises:
        ValueError: there are no images.
    """
    if num_images < 1:
        raise ValueError("There are no images: an interval needs one or more.")
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    fraction, scale = num_correct / num_images, 1 + z**2 / num_images
    centre = (fraction + z**2 / (2 * num_images)) / scale
    half = z / scale * math.sqrt(fraction * (1 - fraction) / num_images + (z / (2 * num_images)) ** 2)
    # Rounding must not leave the fraction itself out at 0 and 1.
    return centre - half if num_correct else 0.0, centre + half if num_correct < num_images else 1.0


def mean_fraction_interval(fractions: Sequence[float]) -> tuple[float, float, tuple[float, float]]:
    """Return what `mean_interval` does, with an interval within 0 and 1: of two values it may be wider."""
    mean, std, (low, high) = mean_interval(fractions)
    return mean, std, (max(low, 0.0), min(high, 1.0))


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float, tuple[float, float]]:
    """Return mean, sample standard deviation (n - 1) and Student's interval of the mean; both NaN for one value.

    Args:
        values: one per seed or fold, in any unit; the results are in the same.
        confidence: coverage of the interval, a fraction.

    Raises:
        ValueError: there are no values.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan, (math.nan, math.nan)
    from scipy.special import stdtrit

    std = statistics.stdev(values)
    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * std / math.sqrt(len(values))
    return mean, std, (mean - half, mean + half)
